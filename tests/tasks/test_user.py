"""Problems from a file: what is right, what is refused, splits that follow the prompt."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from random import Random

import pytest

from fathom.errors import InputError
from fathom.tasks import draw, named, split_of
from fathom.tasks.user import normal, number, read
from tests.tasks.hostile import wrong_texts


def written(path, *records) -> str:
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


@pytest.fixture
def capitals(tmp_path) -> str:
    return written(
        tmp_path / "capitals.jsonl",
        {"prompt": "Capital of France?", "answer": "Paris", "reply": "It is Paris."},
        "",
        {"prompt": "Half of 7?", "answer": "3.5", "checker": "number", "trace": "7/2=3.5", "level": 2},
        {"prompt": "法国的首都？", "answer": "巴黎", "language": "zh"},
    )


def test_a_file_is_a_family(capitals):
    task = named(capitals)
    assert named(capitals) is task and task.name == capitals and task.levels == (1, 2)
    problem = task.sample(Random(0), 2)
    assert (problem.prompt, problem.trace, problem.reply, problem.answer) == ("Half of 7?", "7/2=3.5", "3.5", "3.5")
    assert (problem.family, problem.level, problem.language) == (capitals, 2, "en")
    assert task.sample(Random(0), 1).prompt == "Capital of France?"
    assert task.sample(Random(0), 1, "zh").answer == "巴黎"
    assert task.slip(Random(0), problem) is None


def test_text_is_compared_but_for_space_and_a_full_stop(capitals):
    task = read(capitals)
    paris = task.sample(Random(0), 1)
    for text in ("Paris", " Paris.\n", "It is Paris.", "It  is Paris"):
        assert task.check(paris, text) and task.verify(paris, text) == "ok"
    for text in ("paris", "Paris, France", "It is Paris. Or Rome.", "", "Paris..", "It is", "P aris"):
        assert not task.check(paris, text) and task.verify(paris, text) == "no"
    assert [text for text in wrong_texts(replace(paris, trace="Rome")) if task.check(paris, text)] == []
    chinese = task.sample(Random(0), 1, "zh")
    assert task.check(chinese, "巴黎。") and not task.check(chinese, "巴")


def test_numbers_are_compared_by_value(capitals):
    task = read(capitals)
    half = task.sample(Random(0), 2)
    for text in ("3.5", "7/2", "+3.50", " 3.5.\n", "003.5"):
        assert task.check(half, text)
    for text in ("3.50001", "-3.5", "3,5", "3.5 or 4", "about 3.5", "7/0", "1e1", "", "３.５", "nan"):
        assert not task.check(half, text)
    allowed = {"+3.5", "3.5.", "3.5.0"}
    assert {text for text in wrong_texts(half) if task.check(half, text)} <= allowed


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7", 7),
        ("-0.25", Fraction(-1, 4)),
        ("1,250,000", 1250000),
        ("6/4", Fraction(3, 2)),
        ("1.5/3", Fraction(1, 2)),
        ("12,50", None),
        ("1/0", None),
        ("", None),
        ("/2", None),
        ("0x10", None),
        ("1_000", None),
        ("٣", None),
    ],
)
def test_the_value_of_a_text(text, value):
    assert number(text) == value


def test_composed_characters_are_one():
    assert normal("Zu\u0308rich \t ist  da.") == "Zürich ist da"


def test_a_split_follows_the_prompt_not_the_file(tmp_path):
    records = [{"prompt": f"What is {i} + 1?", "answer": str(i + 1)} for i in range(300)]
    one, two = written(tmp_path / "one.jsonl", *records), written(tmp_path / "two.jsonl", *records[::-1])
    keys = [{problem.prompt: problem.key for problem in read(name).problems} for name in (one, two)]
    assert keys[0] == keys[1]
    rng = Random(0)
    train = {draw(one, 1, "train", rng).prompt for _ in range(300)}
    test = {draw(two, 1, "test", rng) for _ in range(100)}
    assert {split_of(problem.key) for problem in test} == {"test"}
    assert test and not train & {problem.prompt for problem in test}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ("{", "line 1 is not JSON"),
        ("[" * 100_000, "line 1 is not JSON"),
        ("[1]", "it must be an object"),
        ({"prompt": "a"}, "answer is missing or empty"),
        ({"prompt": " ", "answer": "b"}, "prompt is missing or empty"),
        ({"prompt": "a", "anwser": "b"}, "'anwser' is unknown.*Did you mean answer"),
        ({"prompt": "a", "answer": 4}, "answer is 4; it must be of type str"),
        ({"prompt": "a", "answer": "4", "level": True}, "level is True; it must be of type int"),
        ({"prompt": "a", "answer": "4", "level": 0}, "level is 0; it must be at least 1"),
        ({"prompt": "a", "answer": "4", "checker": "regex"}, "checker is 'regex'; it must be one of text, number"),
        ({"prompt": "a", "answer": "four", "checker": "number"}, "answer is 'four', not a number"),
        ({"prompt": "a", "answer": "b", "language": "fr"}, "language is 'fr'"),
        ("", "has no problem"),
    ],
)
def test_what_cannot_be_used_is_refused(tmp_path, record, message):
    name = written(tmp_path / "bad.jsonl", record)
    with pytest.raises(InputError, match=message):
        named(name)


def test_missing_files_twins_and_languages_are_refused(tmp_path, capitals):
    with pytest.raises(InputError, match=r"nowhere\.jsonl cannot be read"):
        named(str(tmp_path / "nowhere.jsonl"))
    twins = written(tmp_path / "twins.jsonl", {"prompt": "a ", "answer": "1"}, {"prompt": "a", "answer": "2"})
    with pytest.raises(InputError, match="line 2: this prompt is there twice"):
        named(twins)
    with pytest.raises(InputError, match="no problem in 'zh' at level 2"):
        named(capitals).sample(Random(0), 2, "zh")
    with pytest.raises(InputError, match="levels 1 to 2"):
        named(capitals).sample(Random(0), 3)
