"""Brackets: which closers are missing at the end, or where the first closer stands that does not match.

    1 ( (             each line takes one bracket and writes what is open after it
    2 [ ( [
    3 ] (             missing at the end: )
    4 } !             } does not close (: place 4 is the first that does not match

The test goes from the right: there the closers wait, and each opener must meet its own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from random import Random

from fathom.tasks.task import NO, OK, Problem, require_language, require_level, stated, wording

LENGTHS = {1: (4, 6), 2: (6, 8), 3: (9, 12), 4: (13, 16)}  # level -> fewest and most brackets
DEEPEST = {1: 3, 2: 3, 3: 4, 4: 5}  # level -> most brackets open at once
CLOSER = {"(": ")", "[": "]", "{": "}"}
FAULT_SHARES = {1: 0.5, 2: 0.35, 3: 0.25, 4: 0.2}  # level -> closers of any kind
OPEN_SHARE, SLIP_TRIES = 0.55, 30

TEMPLATES: dict[str, dict[str, tuple[str, ...]]] = {
    "en": {
        "close": (
            "Close the open brackets: {text}",
            "Which closing brackets are missing at the end of {text}?",
            "Complete the brackets {text}",
            "What must follow {text} to balance it?",
            "Balance this: {text}",
        ),
        "fault": (
            "Which bracket in {text} is the first that closes wrongly? Give its position, or 0.",
            "Find the first closing bracket without a match in {text}, by position; 0 if there is none.",
            "At which position do the brackets {text} first go wrong? 0 if they do not.",
            "First wrong closing bracket in {text}: position, or 0 for none?",
            "Position of the first mismatch, else 0: {text}",
        ),
    },
    "zh": {
        "close": (
            "补全括号：{text}",
            "{text} 的末尾还缺哪些括号？",
            "{text} 后面要补什么括号才能配对？",
            "写出缺少的右括号：{text}",
        ),
        "fault": (
            "{text} 中第一个不匹配的右括号在第几位？没有则答0。",
            "找出第一个错误右括号的位置，没有为0：{text}",
            "{text} 从第几位开始不匹配？都匹配则答0。",
            "括号 {text} 首次出错在第几位？没有则为0。",
        ),
    },
}
REPLIES = {
    "close": {"en": "The missing brackets are {}.", "zh": "缺少的括号是{}。"},
    "fault": {"en": "The position is {}.", "zh": "位置是{}。"},
}
ANSWERS = {"close": re.compile(r"[])}](?: ?[])}]){0,8}"), "fault": re.compile(r"0|[1-9][0-9]?")}


@dataclass(frozen=True)
class Brackets:
    """Rows of 4 to 16 brackets of three kinds, at most five deep; some closers are wrong where a fault is asked."""

    name: str = "brackets"
    levels: tuple[int, ...] = (1, 2, 3, 4)

    def sample(self, rng: Random, level: int, language: str = "en") -> Problem:
        require_level(self, level)
        require_language(language)
        question = rng.choice(("close", "fault"))
        row = _row(rng, level, FAULT_SHARES[level] if question == "fault" else 0.0)
        lines, result = _work(question, row)
        return Problem(
            family=self.name,
            level=level,
            key=f"{self.name} {question} {row}",
            prompt=wording(rng).choice(TEMPLATES[language][question]).format(text=" ".join(row)),
            trace="\n".join(lines),
            reply=REPLIES[question][language].format(result),
            answer=result,
            language=language,
        )

    def check(self, problem: Problem, text: str) -> bool:
        _, question, row = problem.key.split(" ")
        answer = stated(text, REPLIES[question], ANSWERS[question])
        if answer is None:
            return False
        # Strikes out pairs until none is left: no stack, unlike the solver.
        if question == "close":
            return _struck(row + answer.replace(" ", "")) == ""
        wrong = (place for place in range(1, len(row) + 1) if re.search(r"[])}]", _struck(row[:place])))
        return int(answer) == next(wrong, 0)

    def verify(self, problem: Problem, answer: str) -> str:
        """Reads from the right: closers wait, and each opener must meet the last of them."""
        _, question, row = problem.key.split(" ")
        claimed = stated(answer, REPLIES[question], ANSWERS[question])
        if claimed is None:
            return NO
        if question == "close":
            return _from_right(row + claimed.replace(" ", ""), "", ends_open=False)
        place = int(claimed)
        if place > len(row) or (place and row[place - 1] in CLOSER):
            return NO
        return _from_right(row[: place - 1] if place else row, row[place - 1] if place else "", ends_open=True)

    def slip(self, rng: Random, problem: Problem) -> tuple[str, str] | None:
        """One bracket is put down as another kind, or a closed one stays."""
        _, question, row = problem.key.split(" ")
        for _ in range(SLIP_TRIES):
            lines, result = _work(question, row, rng.randrange(len(row)), rng.choice("([{"))
            if result not in ("", problem.answer):
                return "\n".join(lines), result
        return None


def _row(rng: Random, level: int, fault_share: float) -> str:
    """A row of brackets with something open at its end; closers may be wrong when `fault_share` is above zero."""
    while True:
        row, waiting = "", ""
        for _ in range(rng.randint(*LENGTHS[level])):
            if len(waiting) < DEEPEST[level] and rng.random() < (
                OPEN_SHARE if waiting else 1 - fault_share * bool(row)
            ):
                row += rng.choice("([{")
                waiting += CLOSER[row[-1]]
            else:
                row += rng.choice(")]}") if not waiting or rng.random() < fault_share else waiting[-1]
                waiting = waiting[:-1]
        if waiting or fault_share:
            return row


def _work(question: str, row: str, wrong_place: int = -1, wrong: str = "") -> tuple[list[str], str]:
    """The reasoning, line by line, and the result; at one place a wrong kind may be put down, or a closed one stay."""
    lines: list[str] = []
    opened = ""
    for place, bracket in enumerate(row):
        if bracket in CLOSER:
            opened += wrong if place == wrong_place else bracket
        elif question == "fault" and (not opened or CLOSER[opened[-1]] != bracket):
            return [*lines, f"{place + 1} {bracket} !"], str(place + 1)
        elif place != wrong_place:
            opened = opened[:-1]
        lines.append(" ".join([str(place + 1), bracket, *opened]))
    return lines, "0" if question == "fault" else " ".join(CLOSER[bracket] for bracket in reversed(opened))


def _struck(row: str) -> str:
    """What is left of a row when neighbours that match are struck out again and again."""
    while (shorter := re.sub(r"\(\)|\[\]|\{\}", "", row)) != row:
        row = shorter
    return row


def _from_right(row: str, rival: str, ends_open: bool) -> str:
    """Reads a row from its end, line by line, until an opener meets a wrong closer.

    Args: rival: a closer after the row that must not match the last open bracket. ends_open: brackets may stay open.
    """
    waiting, lines = "", [f"{len(row) + 1} {rival} !"] if rival else []
    for place in range(len(row), 0, -1):
        bracket = row[place - 1]
        if bracket not in CLOSER:
            waiting += bracket
        elif waiting:
            met, waiting = waiting[-1], waiting[:-1]
            if met != CLOSER[bracket]:
                return "\n".join([*lines, f"{place} {bracket} !", NO])
        elif not ends_open or CLOSER[bracket] == rival:
            return "\n".join([*lines, f"{place} {bracket} !", NO])
        else:
            rival = ""
        lines.append(" ".join([str(place), bracket, *waiting]))
    return "\n".join([*lines, NO if waiting else OK])
