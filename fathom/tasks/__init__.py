"""Problems with a generator, a solver that writes its reasoning, and a checker. Standard library only.

Splits are drawn by a hash of the problem, never of its wording, so no test problem is seen in training.
Imports errors and nothing else of fathom. Read first: task.py, then arithmetic.py.
"""

from __future__ import annotations

import hashlib
from random import Random

from fathom.errors import InputError
from fathom.tasks import plugins, reasoning_gym, user
from fathom.tasks.arithmetic import Arithmetic
from fathom.tasks.bases import Bases
from fathom.tasks.brackets import Brackets
from fathom.tasks.chain import Chain
from fathom.tasks.countdown import Countdown
from fathom.tasks.counting import Counting
from fathom.tasks.gcd import Gcd
from fathom.tasks.grid import Grid
from fathom.tasks.parity import Parity
from fathom.tasks.pathstar import PathStar
from fathom.tasks.queens import Queens
from fathom.tasks.sorting import Sorting
from fathom.tasks.sudoku import Sudoku
from fathom.tasks.task import LANGUAGES, Problem, Task, require_language, require_level

__all__ = [
    "CHOICES",
    "FAMILIES",
    "LANGUAGES",
    "SPLITS",
    "Problem",
    "Task",
    "draw",
    "named",
    "require_language",
    "require_level",
    "split_of",
    "suggested",
]

TASKS: tuple[Task, ...] = (
    Arithmetic(),
    Chain(),
    Sorting(),
    Counting(),
    Countdown(),
    Gcd(),
    Bases(),
    Brackets(),
    Parity(),
    PathStar(),
    Grid(),
    Sudoku(),
    Queens(),
)
FAMILIES: dict[str, Task] = {task.name: task for task in TASKS}
CHOICES = f"{', '.join(FAMILIES)}, a FILE.jsonl, gym/DATASET, or a family of an installed package"  # see named
SPLITS = ("train", "validation", "test")

# A split holds at least 5 % of the problems: 5,000 misses in a row mean that this level has none of it.
MAX_DRAWS = 5_000


def split_of(key: str) -> str:
    """The split a problem belongs to, by the hash of its key: 90 % train, 5 % validation, 5 % test."""
    percent = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) % 100
    if percent < 90:
        return "train"
    return "validation" if percent < 95 else "test"


def named(family: str) -> Task:
    """The task of this name: one of FAMILIES, PROBLEMS.jsonl, gym/DATASET, or a family of another package.

    Raises: InputError: there is none, or it cannot be used.
    """
    if family in FAMILIES:
        return FAMILIES[family]
    if family.endswith(".jsonl"):
        return user.read(family)
    if family.startswith(reasoning_gym.PREFIX):
        return reasoning_gym.load(family)
    task = plugins.load(family)
    if task is None:
        raise InputError(f"family is {family!r}; it must be one of {CHOICES}.")
    return task


def draw(family: str, level: int, split: str, rng: Random, language: str = "en") -> Problem:
    """One problem of this family and level that belongs to this split; in every language the same one.

    Raises: InputError: no such family, level, split or language, or none found in MAX_DRAWS draws.
    """
    task = named(family)
    if split not in SPLITS:
        raise InputError(f"split is {split!r}; it must be one of {', '.join(SPLITS)}.")
    require_language(language)
    for _ in range(MAX_DRAWS):
        problem = task.sample(rng, level, language)
        if split_of(problem.key) == split:
            return problem
    raise InputError(
        f"{family} level {level} gave no {split} problem in {MAX_DRAWS} draws; use another level or split."
    )


def suggested() -> tuple[tuple[str, str], ...]:
    """Questions to offer on the chat page, as (family, prompt): of the families that fathom-nano has mastered."""
    return (
        ("arithmetic", "What is 384 + 2957?"),
        ("chain", "Start with 7. Add 5, multiply by 3, subtract 4. Work modulo 10."),
        ("sorting", "Sort these numbers: 7, 2, 9, 4"),
        ("countdown", "Use 3, 7 and 12 to make 63."),
    )
