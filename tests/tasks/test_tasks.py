"""Facts of every family: the registry, the split, seeds, answers and hostile text."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from random import Random

import pytest

from fathom import tasks
from fathom.errors import InputError
from fathom.tasks import FAMILIES, LANGUAGES, SPLITS, draw, split_of, suggested
from tests.tasks.hostile import wrong_texts

LEVELS = [(name, level) for name, task in FAMILIES.items() for level in task.levels]


def test_the_families_in_order():
    assert list(FAMILIES)[:5] == ["arithmetic", "chain", "sorting", "counting", "countdown"]
    assert list(FAMILIES)[5:] == ["gcd", "bases", "brackets", "parity", "pathstar", "grid", "sudoku", "queens"]
    assert all(task.name == name for name, task in FAMILIES.items())


@pytest.mark.parametrize(("family", "level"), LEVELS)
def test_equal_seeds_give_equal_problems(family, level):
    one, two = Random(5), Random(5)
    task = FAMILIES[family]
    problems = [task.sample(one, level) for _ in range(20)]
    assert problems == [task.sample(two, level) for _ in range(20)]
    assert len({problem.prompt for problem in problems}) > 10


@pytest.mark.parametrize(("family", "level"), LEVELS)
def test_every_language_words_the_same_problems(family, level):
    one, two = Random(6), Random(6)
    for _ in range(40):
        english, chinese = (FAMILIES[family].sample(rng, level, name) for rng, name in ((one, "en"), (two, "zh")))
        assert (english.language, chinese.language) == ("en", "zh")
        assert replace(english, prompt="", reply="", language="") == replace(chinese, prompt="", reply="", language="")
        assert english.prompt.isascii() or "×" in english.prompt
        assert english.trace.isascii()


@pytest.mark.parametrize("family", FAMILIES)
def test_chinese_has_several_wordings(family):
    rng = Random(7)
    problems = [FAMILIES[family].sample(rng, 1, "zh") for _ in range(200)]
    assert sum(re.search("[\u4e00-\u9fff]", problem.prompt) is not None for problem in problems) > 100
    assert len({re.sub("[ -~]+", "", problem.prompt) for problem in problems}) >= 3


@pytest.mark.parametrize(("family", "level"), LEVELS)
def test_reply_and_answer_are_right_and_nothing_else_is(family, level):
    rng = Random(level)
    task = FAMILIES[family]
    for _ in range(120):
        problem = task.sample(rng, level, rng.choice(LANGUAGES))
        assert (problem.family, problem.level) == (family, level)
        assert problem.key.startswith(f"{family} ")
        assert task.check(problem, problem.reply), problem
        assert task.check(problem, f" {problem.answer}\n"), problem
        assert problem.prompt.isprintable()
    for text in wrong_texts(problem):
        assert not task.check(problem, text), (problem, text[:80])


@pytest.mark.parametrize(("family", "level"), LEVELS)
def test_another_problems_answer_is_wrong(family, level):
    rng = Random(level)
    task = FAMILIES[family]
    problems = [task.sample(rng, level) for _ in range(60)]
    for one, two in zip(problems, problems[1:], strict=False):
        right = task.check(one, two.answer)
        assert right == (verified(task, one, two.answer) == "ok"), (one, two.answer)
        assert right or not task.check(one, two.reply)
        # Of these families a problem has one answer.
        assert not right or one.answer == two.answer or family not in ("arithmetic", "chain", "sorting", "counting")


def verified(task, problem, text):
    return task.verify(problem, text).rpartition("\n")[2]


def damaged(rng: Random, text: str) -> str:
    """The text with one character replaced, left out, doubled or moved."""
    at = rng.randrange(len(text))
    kind = rng.randrange(4)
    if kind == 0:
        return text[:at] + rng.choice("0123456789 ,.+-*()=ab。") + text[at + 1 :]
    if kind == 1:
        return text[:at] + text[at + 1 :]
    return text[: at + 1] + text[at:] if kind == 2 else text[at:] + text[:at]


@pytest.mark.parametrize(("family", "level"), LEVELS)
def test_a_test_says_ok_of_the_right_answer_and_of_no_wrong_one(family, level):
    rng = Random(level)
    task = FAMILIES[family]
    for _ in range(60):
        problem = task.sample(rng, level, rng.choice(LANGUAGES))
        assert verified(task, problem, problem.answer) == "ok"
        assert task.verify(problem, problem.answer).isascii()
        for text in (problem.answer, problem.reply):
            for _ in range(6):
                wrong = damaged(rng, text)
                # A family may test bare results only, so what check credits for its form may be "no" here.
                assert task.check(problem, wrong) or verified(task, problem, wrong) == "no", (problem, wrong)
    for text in wrong_texts(problem):
        assert verified(task, problem, text) == "no", text[:80]


@pytest.mark.parametrize("family", ["arithmetic", "chain", "sorting", "counting", "countdown"])
def test_of_these_a_test_and_the_checker_agree_on_any_text(family):
    rng = Random(8)
    task = FAMILIES[family]
    for i in range(200):
        problem = task.sample(rng, task.levels[i % len(task.levels)], rng.choice(LANGUAGES))
        assert verified(task, problem, problem.reply) == "ok"
        for text in (damaged(rng, problem.answer), damaged(rng, problem.reply), f" {problem.answer}.\n"):
            expected = "ok" if task.check(problem, text) else "no"
            assert verified(task, problem, text) == expected, (problem, text)


@pytest.mark.parametrize(("family", "level"), LEVELS)
def test_a_slip_leads_to_a_wrong_answer_that_its_test_finds(family, level):
    rng = Random(level)
    task = FAMILIES[family]
    slips = 0
    for _ in range(60):
        problem = task.sample(rng, level)
        slip = task.slip(rng, problem)
        if slip is not None:
            slips += 1
            trace, answer = slip
            assert trace != problem.trace and trace.isascii()
            assert not task.check(problem, answer), (problem, slip)
            assert verified(task, problem, answer) == "no", (problem, slip)
    assert slips >= 15


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("split", SPLITS)
def test_a_draw_belongs_to_its_split(family, split):
    rng = Random(1)
    for level in FAMILIES[family].levels:
        problem = draw(family, level, split, rng)
        assert (problem.family, problem.level, split_of(problem.key)) == (family, level, split)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_problem_is_in_two_splits_in_any_wording_or_language(family):
    rng = Random(2)
    level = FAMILIES[family].levels[0]
    drawn = {
        split: [draw(family, level, split, rng, language) for language in LANGUAGES for _ in range(count)]
        for split, count in (("train", 150), ("validation", 15), ("test", 15))
    }
    for one, two in combinations(SPLITS, 2):
        assert not {problem.key for problem in drawn[one]} & {problem.key for problem in drawn[two]}
        assert not {problem.prompt for problem in drawn[one]} & {problem.prompt for problem in drawn[two]}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_draw_is_the_same_problem_in_every_language(family):
    level = FAMILIES[family].levels[-1]
    keys = [[draw(family, level, "train", rng, name).key for _ in range(5)] for rng, name in _twins()]
    assert keys[0] == keys[1]


def _twins():
    return [(Random(9), language) for language in LANGUAGES]


def test_a_prompt_asks_one_problem_only():
    rng = Random(3)
    for task in FAMILIES.values():
        keys: dict[str, str] = {}
        for problem in (task.sample(rng, 1, rng.choice(LANGUAGES)) for _ in range(300)):
            assert keys.setdefault(problem.prompt, problem.key) == problem.key


def test_the_split_is_ninety_five_and_five_percent():
    counts = Counter(split_of(f"arithmetic {a} + {b}") for a in range(100) for b in range(100))
    assert counts["train"] == pytest.approx(9000, abs=120)
    assert counts["validation"] == pytest.approx(500, abs=90)
    assert counts["test"] == pytest.approx(500, abs=90)


@pytest.mark.parametrize(
    ("key", "split"),
    [
        ("arithmetic 1 + 3", "test"),
        ("arithmetic 1 + 8", "validation"),
        ("arithmetic 384 + 2957", "train"),
        ("counting r in strawberry", "train"),
    ],
)
def test_the_split_of_a_key_never_changes(key, split):
    # A shipped model was trained on this split: another one would put test problems into its training data.
    assert split_of(key) == split


@pytest.mark.parametrize(
    ("family", "level", "split", "message"),
    [
        ("poetry", 1, "train", "family is 'poetry'; it must be one of arithmetic"),
        ("chain", 1, "holdout", "split is 'holdout'; it must be one of train"),
        ("chain", 0, "train", "level is 0; chain has the levels 1 to 4"),
    ],
)
def test_a_draw_of_what_is_not_there_is_refused(family, level, split, message):
    with pytest.raises(InputError, match=message):
        draw(family, level, split, Random(0))


def test_an_unknown_language_is_refused():
    with pytest.raises(InputError, match="language is 'fr'; it must be one of en, zh"):
        draw("chain", 1, "train", Random(0), "fr")


def test_a_draw_that_finds_nothing_ends(monkeypatch):
    monkeypatch.setattr(tasks, "split_of", lambda key: "train")
    monkeypatch.setattr(tasks, "MAX_DRAWS", 10)
    with pytest.raises(InputError, match="gave no test problem in 10 draws"):
        draw("chain", 1, "test", Random(0))


def test_suggestions_are_of_families_that_there_are():
    assert {family for family, _ in suggested()} <= set(FAMILIES)
    assert len({prompt for _, prompt in suggested()}) == len(suggested()) >= 4


def test_the_page_of_tasks_has_every_family_with_its_levels():
    page = (Path(__file__).resolve().parents[2] / "docs/tasks.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[(\w+)\]\(#\1\) \|[^|]+\| (\d) \|", page, re.MULTILINE)
    assert {name: int(levels) for name, levels in rows} == {name: len(task.levels) for name, task in FAMILIES.items()}
    assert {name for name, _ in rows} <= set(re.findall(r"^## (\w+)$", page, re.MULTILINE))
