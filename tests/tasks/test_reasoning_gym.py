"""The adapter to reasoning-gym, over a stand-in with the same functions: seeds, splits, strict scores, clear errors."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from random import Random
from types import SimpleNamespace

import pytest

from fathom.errors import InputError
from fathom.tasks import SPLITS, draw, named, reasoning_gym, split_of
from fathom.tasks.reasoning_gym import SEEDS, SIZE, STRIDE
from tests.tasks.hostile import wrong_texts


class Sums:
    """As in reasoning-gym: item i of seed s is made from the number s + i."""

    def __init__(self, seed: int, size: int) -> None:
        self.seed, self.size = seed, size

    def __getitem__(self, index: int) -> dict:
        assert 0 <= index < self.size
        rng = Random(self.seed + index)
        a, b = rng.randint(1, 99), rng.randint(1, 99)
        return {"question": f"What is {a} + {b}?\nOnly the sum.", "answer": str(a + b), "metadata": {"a": a}}

    def score_answer(self, answer, entry) -> float:
        raise AssertionError("scorers of other packages are never called")


MADE: list[tuple[str, int, int]] = []


def create_dataset(name: str, *, seed: int, size: int):
    MADE.append((name, seed, size))
    if name == "sums":
        return Sums(seed, size)
    if name == "open":
        return [{"question": "Any cube?", "answer": None, "metadata": {}}] * size
    raise ValueError(f"Dataset '{name}' not registered")


@pytest.fixture(autouse=True)
def package(monkeypatch):
    spec = importlib.util.spec_from_loader("reasoning_gym", None)
    module = SimpleNamespace(create_dataset=create_dataset, __spec__=spec)
    monkeypatch.setitem(sys.modules, "reasoning_gym", module)
    reasoning_gym.load.cache_clear()
    MADE.clear()
    yield
    reasoning_gym.load.cache_clear()


def test_a_dataset_is_a_family_of_one_level():
    task = named("gym/sums")
    assert (task.name, task.levels) == ("gym/sums", (1,))
    problem = task.sample(Random(1), 1)
    assert problem == task.sample(Random(1), 1)
    assert (problem.family, problem.level, problem.trace, problem.reply) == ("gym/sums", 1, "", problem.answer)
    a, b = (int(word) for word in problem.prompt.split("?")[0].split(" ")[2::2])
    assert problem.answer == str(a + b)
    assert task.slip(Random(0), problem) is None


def test_only_the_expected_text_is_right():
    task = named("gym/sums")
    problem = task.sample(Random(2), 1)
    for text in (problem.answer, f" {problem.answer}\n"):
        assert task.check(problem, text) and task.verify(problem, text) == "ok"
    for text in (*wrong_texts(replace(problem, trace="1")), f"{problem.answer}.", f"0{problem.answer}"):
        assert not task.check(problem, text) and task.verify(problem, text) == "no"


def test_items_of_two_seeds_never_coincide():
    assert STRIDE >= SIZE
    rng = Random(0)
    for _ in range(300):
        named("gym/sums").sample(rng, 1)
    seeds = sorted({seed for _, seed, _ in MADE})
    assert len(seeds) == len(MADE) > SEEDS / 2  # each is made once
    assert all(later - earlier >= SIZE for earlier, later in zip(seeds, seeds[1:], strict=False))
    assert {size for *_, size in MADE} == {SIZE} and max(seeds) + SIZE < 2**32


def test_a_split_follows_the_text():
    rng = Random(3)
    drawn = {split: {draw("gym/sums", 1, split, rng) for _ in range(400)} for split in SPLITS}
    for split, problems in drawn.items():
        assert {split_of(problem.key) for problem in problems} == {split}
    texts = [{problem.prompt for problem in problems} for problems in drawn.values()]
    assert not texts[0] & texts[1] and not texts[0] & texts[2] and not texts[1] & texts[2]
    keys = {problem.prompt: problem.key for problems in drawn.values() for problem in problems}
    assert len(set(keys.values())) == len(keys)


@pytest.mark.parametrize(
    ("name", "message"),
    [("gym/nothing", "no dataset 'nothing'.*not registered"), ("gym/open", "gives no expected answer")],
)
def test_a_dataset_that_cannot_be_used_is_refused_at_once(name, message):
    with pytest.raises(InputError, match=message):
        named(name)


def test_other_levels_and_languages_are_refused():
    with pytest.raises(InputError, match="gym/sums has the levels 1 to 1"):
        draw("gym/sums", 2, "train", Random(0))
    with pytest.raises(InputError, match="worded in en only"):
        draw("gym/sums", 1, "train", Random(0), "zh")


def test_a_missing_package_is_named_with_what_to_do(monkeypatch):
    monkeypatch.delitem(sys.modules, "reasoning_gym")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs the package reasoning-gym.*pip install 'fathom-llm\[gym\]'"):
        named("gym/sums")
