"""Problems of the package reasoning-gym, named `gym/DATASET`, such as gym/gcd; an option (docs/decisions/0020).

Only its generators are used. Its scorers give part of the credit for an answer inside other text, and some evaluate
what a model wrote; here an answer is right if it is the expected text, letter by letter. Datasets with several right
answers are scored too strictly that way.

Item i of seed s is made from the number s + i, so neighbouring seeds give the same items. Seeds here are STRIDE apart,
which is no less than the items taken of each; and what split a problem belongs to depends on its text alone.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
from dataclasses import dataclass, field
from functools import cache
from random import Random
from typing import Any, Protocol

from fathom.errors import InputError
from fathom.tasks.task import NO, OK, Problem, require_language, require_level

PACKAGE = "reasoning_gym"
PREFIX = "gym/"
SIZE = 5_000  # items of each seed
STRIDE = 1 << 16
SEEDS = 64


class Dataset(Protocol):
    """What reasoning-gym calls a ProceduralDataset."""

    def __getitem__(self, index: int) -> dict[str, Any]: ...


class Makes(Protocol):
    """reasoning_gym.create_dataset."""

    def __call__(self, name: str, *, seed: int, size: int) -> Dataset: ...


@dataclass(frozen=True)
class GymTask:
    """One dataset with its own defaults, which are level 1; English only, without reasoning."""

    name: str
    create: Makes
    levels: tuple[int, ...] = (1,)
    _made: dict[int, Dataset] = field(default_factory=dict, compare=False, repr=False)

    def sample(self, rng: Random, level: int, language: str = "en") -> Problem:
        require_level(self, level)
        require_language(language)
        if language != "en":
            raise InputError(f"language is {language!r}; {self.name} is worded in en only.")
        item = self._dataset(rng.randrange(SEEDS))[rng.randrange(SIZE)]
        question, answer = item.get("question"), item.get("answer")
        if not isinstance(question, str) or not isinstance(answer, str) or not answer.strip():
            raise InputError(f"{self.name} gives no expected answer ({answer!r}), so it cannot be scored; use another.")
        digest = hashlib.sha256(" ".join(question.split()).encode()).hexdigest()[:32]
        return Problem(self.name, level, f"{self.name} {digest}", question, "", answer, answer, language)

    def check(self, problem: Problem, text: str) -> bool:
        """Whether the text, without outer space, is the expected answer; nothing else counts, not even a full stop."""
        return len(text) <= 2 * len(problem.answer) + 80 and text.strip() == problem.answer.strip()

    def verify(self, problem: Problem, answer: str) -> str:
        """No other way to the answer is known: the last line alone."""
        return OK if self.check(problem, answer) else NO

    def slip(self, rng: Random, problem: Problem) -> tuple[str, str] | None:
        """None: what a mistake would be is not known."""
        return None

    def _dataset(self, number: int) -> Dataset:
        if number not in self._made:
            name = self.name.removeprefix(PREFIX)
            try:
                self._made[number] = self.create(name, seed=number * STRIDE, size=SIZE)
            except (ValueError, TypeError, AssertionError) as error:  # its own words for a name or a setting it has not
                raise InputError(f"reasoning-gym makes no dataset {name!r} ({error}); use another name.") from error
        return self._made[number]


@cache
def load(name: str) -> GymTask:
    """The task `gym/DATASET`.

    Raises: InputError: the package is missing or has no such dataset.
    """
    if importlib.util.find_spec(PACKAGE) is None:
        raise InputError(f"{name} needs the package reasoning-gym, which is missing: pip install 'fathom-llm[gym]'.")
    task = GymTask(name, importlib.import_module(PACKAGE).create_dataset)
    task.sample(Random(0), 1)  # a wrong name is told at once
    return task
