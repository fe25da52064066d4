"""Facts of every family: the registry, the split, seeds, answers and hostile text."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from fathom import tasks
from fathom.errors import InputError
from fathom.tasks import FAMILIES, SPLITS, draw, split_of, suggested
from tests.tasks.hostile import wrong_texts

LEVELS = [(name, level) for name, task in FAMILIES.items() for level in task.levels]
MANY_ANSWERS = ("countdown", "grid", "queens")  # what answers one problem may answer another


def test_the_families_in_order():
    assert list(FAMILIES) == ["arithmetic", "chain", "sorting", "counting", "countdown", "grid", "sudoku", "queens"]
    assert all(task.name == name for name, task in FAMILIES.items())


@pytest.mark.parametrize(("family", "level"), LEVELS)
def test_equal_seeds_give_equal_problems(family, level):
    one, two = Random(5), Random(5)
    task = FAMILIES[family]
    problems = [task.sample(one, level) for _ in range(20)]
    assert problems == [task.sample(two, level) for _ in range(20)]
    assert len({problem.prompt for problem in problems}) > 10


@pytest.mark.parametrize(("family", "level"), LEVELS)
def test_reply_and_answer_are_right_and_nothing_else_is(family, level):
    rng = Random(level)
    task = FAMILIES[family]
    for _ in range(200):
        problem = task.sample(rng, level)
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
        if one.answer != two.answer and family not in MANY_ANSWERS:
            assert not task.check(one, two.answer)
            assert not task.check(one, two.reply)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("split", SPLITS)
def test_a_draw_belongs_to_its_split(family, split):
    rng = Random(1)
    for level in FAMILIES[family].levels:
        problem = draw(family, level, split, rng)
        assert (problem.family, problem.level, split_of(problem.key)) == (family, level, split)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_problem_is_in_two_splits_in_any_wording(family):
    rng = Random(2)
    level = FAMILIES[family].levels[0]
    train = {draw(family, level, "train", rng) for _ in range(400)}
    test = {draw(family, level, "test", rng) for _ in range(40)}
    assert not {problem.key for problem in train} & {problem.key for problem in test}
    assert not {problem.prompt for problem in train} & {problem.prompt for problem in test}


def test_a_prompt_asks_one_problem_only():
    rng = Random(3)
    for task in FAMILIES.values():
        keys: dict[str, str] = {}
        for problem in (task.sample(rng, 1) for _ in range(1500)):
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


def test_a_draw_that_finds_nothing_ends(monkeypatch):
    monkeypatch.setattr(tasks, "split_of", lambda key: "train")
    monkeypatch.setattr(tasks, "MAX_DRAWS", 10)
    with pytest.raises(InputError, match="gave no test problem in 10 draws"):
        draw("chain", 1, "test", Random(0))


NOT_LEARNED = {"counting", "grid", "sudoku", "queens"}  # docs/log.md


def test_suggestions_cover_every_family():
    assert {family for family, _ in suggested()} == set(FAMILIES) - NOT_LEARNED
    assert len({prompt for _, prompt in suggested()}) == len(suggested()) >= 4
