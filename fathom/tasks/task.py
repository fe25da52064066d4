"""What a task is: a problem, how to draw one, how to judge an answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

from fathom.errors import InputError

LANGUAGES = ("en", "zh")

# No right answer of any family comes near this; longer text is refused before it is read.
MAX_ANSWER_CHARACTERS = 80


@dataclass(frozen=True)
class Problem:
    """One problem, worked out.

    `key` names the problem whatever its wording: prompts that ask the same, in any language, have the same key. `trace`
    is the reasoning as short as it can be, without a look back; `reply` is what follows it, in the language of the
    prompt; `answer` is the bare result in the reply. A trace has no words of a language, only signs and short marks.
    """

    family: str
    level: int
    key: str
    prompt: str
    trace: str
    reply: str
    answer: str
    language: str = "en"


class Task(Protocol):
    """A family of problems: a generator, a solver that writes its reasoning, and a checker that trusts neither."""

    @property
    def name(self) -> str: ...

    @property
    def levels(self) -> tuple[int, ...]: ...

    def sample(self, rng: Random, level: int, language: str = "en") -> Problem:
        """One problem of this level; equal generators give equal problems, in any language the same ones."""
        ...

    def check(self, problem: Problem, text: str) -> bool:
        """Whether `text`, all of it, is a right answer: the reply's form or the bare result."""
        ...

    def verify(self, problem: Problem, answer: str) -> str:
        """Lines that test an answer by another way than the trace took; the last line is "ok" or "no"."""
        ...

    def slip(self, rng: Random, problem: Problem) -> tuple[str, str] | None:
        """A trace with one honest mistake, carried to its end, and the wrong answer it leads to; None: none possible."""
        ...


def require_level(task: Task, level: int) -> None:
    """Raises InputError unless the task has this level."""
    if level not in task.levels:
        raise InputError(f"level is {level}; {task.name} has the levels {task.levels[0]} to {task.levels[-1]}.")


def require_language(language: str) -> None:
    """Raises InputError unless problems are worded in this language."""
    if language not in LANGUAGES:
        raise InputError(f"language is {language!r}; it must be one of {', '.join(LANGUAGES)}.")


def final_line(text: str) -> str | None:
    """The answer without outer spaces and closing full stop; None if it is too long or not plain ASCII (but for ×)."""
    if len(text) > MAX_ANSWER_CHARACTERS:
        return None
    line = text.strip(" \n").removesuffix(".").replace("×", "*")
    return line if line.isascii() else None


def stated(text: str, form: str) -> str | None:
    """The answer of a text that is bare or in the form of a reply, "The gcd is {}."; None: too long or not ASCII."""
    if len(text) > MAX_ANSWER_CHARACTERS:
        return None
    line = text.strip(" \n")
    line = line[:-1] if line.endswith((".", "。")) else line
    line = line.removeprefix(form.partition("{}")[0])
    return line if line.isascii() else None


def worded(rng: Random, wordings: Sequence[str]) -> str:
    """One of the wordings; takes the same from `rng` however many there are, so that languages stay in step."""
    return wordings[int(rng.random() * len(wordings))]
