"""What a task is: a problem, how to draw one, how to judge an answer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Protocol

from fathom.errors import InputError

LANGUAGES = ("en", "zh")
OK, NO = "ok", "no"  # the last line of a test

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
        """A trace with one honest mistake, carried to its end, and the wrong answer that follows; None: impossible."""
        ...


def require_level(task: Task, level: int) -> None:
    """Raises InputError unless the task has this level."""
    if level not in task.levels:
        raise InputError(f"level is {level}; {task.name} has the levels {task.levels[0]} to {task.levels[-1]}.")


def require_language(language: str) -> None:
    """Raises InputError unless problems are worded in this language."""
    if language not in LANGUAGES:
        raise InputError(f"language is {language!r}; it must be one of {', '.join(LANGUAGES)}.")


def wording(rng: Random) -> Random:
    """A generator for the words of a problem, so that the problems that follow do not depend on how this one is put."""
    return Random(rng.getrandbits(32))


def final_line(text: str, allowed: str = "") -> str | None:
    """The answer without outer spaces and closing full stop (. or 。); None if it is too long or not plain ASCII.

    Args: allowed: the other characters that a family's own forms need; × is read as * everywhere.
    """
    if len(text) > MAX_ANSWER_CHARACTERS:
        return None
    line = text.strip(" \n").replace("×", "*")
    line = line[:-1] if line.endswith((".", "。")) else line
    return line if all(character.isascii() or character in allowed for character in line) else None


def stated(text: str, replies: Mapping[str, str], answers: re.Pattern[str]) -> str | None:
    """The answer of a text that is bare or has the form of a reply in some language; None of any other text.

    Args: replies: language -> the form, with {} for the answer: "The gcd is {}.". answers: what an answer may be.
    """
    openings = [reply.partition("{}")[0] for reply in replies.values()]
    line = final_line(text, allowed="".join(openings))
    if line is None:
        return None
    answer = line.removeprefix(next((opening for opening in openings if line.startswith(opening)), ""))
    return answer if answers.fullmatch(answer) else None


def verdict(found: int, expected: int) -> list[str]:
    """The end of a test: what was found beside what the problem says, and whether they are equal."""
    sign = "=" if found == expected else "<" if found < expected else ">"
    return [f"{found}{sign}{expected}", OK if found == expected else NO]
