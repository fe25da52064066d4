"""Problems of your own: a file with a JSON object a line, used by its path wherever a family is named.

{"prompt": "What is the capital of France?", "answer": "Paris"}
{"prompt": "What is half of 7?", "answer": "3.5", "checker": "number", "trace": "7/2=3.5", "level": 2}
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from fractions import Fraction
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from fathom.errors import InputError
from fathom.tasks.task import MAX_ANSWER_CHARACTERS, NO, OK, Problem, require_language, require_level

TEXT, NUMBER = "text", "number"
CHECKERS = (TEXT, NUMBER)
FIELDS = {"prompt": str, "answer": str, "trace": str, "reply": str, "level": int, "checker": str, "language": str}
NUMERAL = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:/\d+)?", re.ASCII)


@dataclass(frozen=True)
class UserTask:
    """The problems of one file. Its name is its path as given; a problem is worded in its own language only."""

    name: str
    problems: tuple[Problem, ...]
    numeric: frozenset[str]  # keys of the problems whose answers are compared as numbers

    @property
    def levels(self) -> tuple[int, ...]:
        return tuple(sorted({problem.level for problem in self.problems}))

    def sample(self, rng: Random, level: int, language: str = "en") -> Problem:
        require_level(self, level)
        require_language(language)
        fitting = [problem for problem in self.problems if (problem.level, problem.language) == (level, language)]
        if not fitting:
            raise InputError(f"{self.name} has no problem in {language!r} at level {level}; ask for another language.")
        return rng.choice(fitting)

    def check(self, problem: Problem, text: str) -> bool:
        """Whether the text is the answer or the reply, but for space and a closing full stop; or the same number."""
        if len(text) > 2 * max(len(problem.answer), len(problem.reply)) + MAX_ANSWER_CHARACTERS:
            return False
        if problem.key in self.numeric and (value := number(text)) is not None:
            return value == number(problem.answer)
        return normal(text) in (normal(problem.answer), normal(problem.reply))

    def verify(self, problem: Problem, answer: str) -> str:
        """No other way to the answer is known: the last line alone."""
        return OK if self.check(problem, answer) else NO

    def slip(self, rng: Random, problem: Problem) -> tuple[str, str] | None:
        """None: what a mistake would be is not known."""
        return None


def normal(text: str) -> str:
    """Composed characters (NFC), one space where there is any, no closing full stop; capitals matter."""
    text = " ".join(unicodedata.normalize("NFC", text).split())
    return text[:-1] if text.endswith((".", "。")) else text


def number(text: str) -> Fraction | None:
    """The value of a text that is one number: 7, -3.50, 1,250 or 7/2; None if it is none."""
    match = NUMERAL.fullmatch(normal(text))
    if match is None:
        return None
    above, _, below = match[0].replace(",", "").partition("/")
    return Fraction(above) / int(below or 1) if int(below or 1) else None


@cache
def read(name: str) -> UserTask:
    """The problems of a file, read once.

    Raises: InputError: the file is missing, has no problem, or one that cannot be used; the message names the line.
    """
    try:
        text = Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{name} cannot be read ({error}); name a UTF-8 file with a JSON object a line.") from None
    problems: dict[str, Problem] = {}
    numeric = set()
    for at, record in _records(name, text):
        problem = _problem(name, at, record)
        if problem.key in problems:
            raise InputError(f"{at}: this prompt is there twice; keep one of them.")
        problems[problem.key] = problem
        if record.get("checker", TEXT) == NUMBER:
            numeric.add(problem.key)
    if not problems:
        raise InputError(f'{name} has no problem; write lines such as {{"prompt": "2+2", "answer": "4"}}.')
    return UserTask(name, tuple(problems.values()), frozenset(numeric))


def _records(name: str, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where each object is, and the object."""
    for line, content in enumerate(text.split("\n"), 1):
        if not content.strip():
            continue
        at = f"{name}, line {line}"
        try:
            record = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{at} is not JSON ({error}); write one object a line.") from None
        if not isinstance(record, dict):
            raise InputError(f'{at} is {content.strip()[:40]!r}; it must be an object with "prompt" and "answer".')
        yield at, record


def _problem(name: str, at: str, record: dict[str, Any]) -> Problem:
    for field, value in record.items():
        if field not in FIELDS:
            near = get_close_matches(field, FIELDS, 1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise InputError(f"{at}: {field!r} is unknown; the fields are {', '.join(FIELDS)}.{hint}")
        if type(value) is not FIELDS[field]:
            raise InputError(f"{at}: {field} is {value!r}; it must be of type {FIELDS[field].__name__}.")
    for field in ("prompt", "answer"):
        if not record.get(field, "").strip():
            raise InputError(f"{at}: {field} is missing or empty; every problem needs one.")
    if record.get("level", 1) < 1:
        raise InputError(f"{at}: level is {record['level']}; it must be at least 1.")
    if record.get("checker", TEXT) not in CHECKERS:
        raise InputError(f"{at}: checker is {record['checker']!r}; it must be one of {', '.join(CHECKERS)}.")
    if record.get("checker") == NUMBER and number(record["answer"]) is None:
        raise InputError(f'{at}: answer is {record["answer"]!r}, not a number; use one, or the checker "text".')
    require_language(record.get("language", "en"))
    digest = hashlib.sha256(normal(record["prompt"]).encode()).hexdigest()[:32]
    return Problem(
        family=name,
        level=record.get("level", 1),
        key=f"user {digest}",  # without the path: a file that moves keeps its splits
        prompt=record["prompt"],
        trace=record.get("trace", ""),
        reply=record.get("reply", record["answer"]),
        answer=record["answer"],
        language=record.get("language", "en"),
    )
