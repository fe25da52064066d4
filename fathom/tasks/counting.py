"""Counting: how often a letter occurs in a word, or a digit in a list.

    1s 0             every element with its place in the word and the count so far; of digits `1:7 0`
    2t 0
    3r 1
    ...

A question spells its word, as s-t-r-a-w-b-e-r-r-y: a model reads pieces of words, and a small one does not know which
letters are in them. No two lines begin alike, so the place to read next is never in doubt, however often an element
recurs. An element is a token by itself, whatever the vocabulary: a letter next to digits joins nothing, next to a colon
it may. The test counts again from the end.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from random import Random

from fathom.tasks.task import NO, Problem, final_line, require_language, require_level, verdict, wording
from fathom.tasks.words import LETTERS, WORDS

LIST_LENGTHS = {1: (4, 6), 2: (7, 9), 3: (10, 12)}
WORD_LENGTHS = {1: (3, 6), 2: (7, 9), 3: (10, 12)}
WORD_SHARE = 0.6  # of the problems; the others are lists
REAL_WORD_SHARE = 0.8  # of the words; the others are letters at random
ABSENT_SHARE = 0.1  # asks for an element that may well not occur

WORD_TEMPLATES = (
    "How many {x} are in {word}?",
    "How many {x} in {word}?",
    "How many {x}'s are in {word}?",
    "How many {x}'s are there in {word}?",
    "How many times does {x} occur in {word}?",
    "How many times does the letter {x} appear in {word}?",
    "Count the letter {x} in {word}.",
    "Count the {x}'s in {word}.",
    "How often does the letter {x} occur in the word {word}?",
)
LIST_TEMPLATES = (
    "How many {x} are in {list}?",
    "How many times does {x} occur in {list}?",
    "How many times does {x} appear in the list {list}?",
    "Count the {x}'s in {list}.",
    "Count how many times {x} occurs: {list}",
    "How often does {x} appear in {list}?",
    "In the list {list}, how many are {x}?",
)

WORD_TEMPLATES_ZH = (
    "{word}里有几个{x}？",
    "{word}里有多少个{x}？",
    "单词{word}中字母{x}出现了几次？",
    "字母{x}在{word}中出现几次？",
    "数一数{word}里的{x}。",
    "{x}在单词{word}里出现了多少次？",
)
LIST_TEMPLATES_ZH = (
    "{list}里有几个{x}？",
    "数字{x}在{list}中出现了几次？",
    "列表{list}里有多少个{x}？",
    "数一数{x}出现了几次：{list}",
    "在{list}中，{x}出现多少次？",
)
TEMPLATES = {"en": (WORD_TEMPLATES, LIST_TEMPLATES), "zh": (WORD_TEMPLATES_ZH, LIST_TEMPLATES_ZH)}
SEPARATORS = {"en": (", ", " "), "zh": (", ", "，", "、", " ")}

COUNT = r"(0|[1-9][0-9]?)"
ANSWERS = (
    re.compile(rf"(?:(?:The (?:letter|number) )?([a-z]|[0-9]) appears )?{COUNT}(?: times?)?"),
    re.compile(rf"(?:([a-z]|[0-9])出现)?{COUNT}次"),
)


@dataclass(frozen=True)
class Counting:
    """Words of 3 to 12 letters, lists of 4 to 12 digits."""

    name: str = "counting"
    levels: tuple[int, ...] = (1, 2, 3)

    def sample(self, rng: Random, level: int, language: str = "en") -> Problem:
        require_level(self, level)
        require_language(language)
        is_word = rng.random() < WORD_SHARE
        elements = _word(rng, level) if is_word else _digits(rng, level)
        everything = LETTERS if is_word else "0123456789"
        wanted = rng.choice(everything if rng.random() < ABSENT_SHARE else elements)
        lines, count = _work(elements, wanted)
        kind, times = "letter" if is_word else "number", "time" if count == 1 else "times"
        reply = f"The {kind} {wanted} appears {count} {times}." if language == "en" else f"{wanted}出现{count}次。"
        return Problem(
            family=self.name,
            level=level,
            key=f"{self.name} {wanted} in {elements}",
            prompt=_prompt(wording(rng), elements, wanted, language),
            trace="\n".join(lines),
            reply=reply,
            answer=str(count),
            language=language,
        )

    def check(self, problem: Problem, text: str) -> bool:
        wanted, elements = _asked(problem)
        return _read(text, wanted) == elements.count(wanted)

    def verify(self, problem: Problem, answer: str) -> str:
        wanted, elements = _asked(problem)
        claimed = _read(answer, wanted)
        if claimed is None:
            return NO
        count, lines = 0, []
        for place in range(len(elements), 0, -1):
            count += elements[place - 1] == wanted
            lines.append(_line(place, elements[place - 1], count))
        return "\n".join([*lines, *verdict(count, claimed)])

    def slip(self, rng: Random, problem: Problem) -> tuple[str, str] | None:
        """A hit passed over, a hit left out of the walk, or another element taken for a hit."""
        wanted, elements = _asked(problem)
        hits = [at for at, element in enumerate(elements) if element == wanted]
        others = [at for at, element in enumerate(elements) if element != wanted]
        kinds = ["missed", "dropped"] * bool(hits) + ["taken"] * bool(others)
        kind = rng.choice(kinds)
        at = rng.choice(others if kind == "taken" else hits)
        if kind == "dropped":
            lines, count = _work(elements[:at] + elements[at + 1 :], wanted)
        else:
            lines, count = _work(elements, wanted, slip_at=at)
        return "\n".join(lines), str(count)


def _asked(problem: Problem) -> tuple[str, str]:
    """The element that is counted, and all elements, read from the key."""
    _, wanted, _, elements = problem.key.split(" ")
    return wanted, elements


def _read(text: str, wanted: str) -> int | None:
    """The count that a text claims; None if it claims one of another element."""
    line = final_line(text, "出现次")
    for form in ANSWERS:
        match = None if line is None else form.fullmatch(line)
        if match is not None:
            return int(match[2]) if match[1] in (None, wanted) else None
    return None


def _prompt(rng: Random, elements: str, wanted: str, language: str) -> str:
    words, lists = TEMPLATES[language]
    if elements.isalpha():
        return rng.choice(words).format(x=wanted, word="-".join(elements))
    return rng.choice(lists).format(x=wanted, list=rng.choice(SEPARATORS[language]).join(elements))


def _word(rng: Random, level: int) -> str:
    """A word of this level's length, or letters at random: few different ones, so that they repeat."""
    shortest, longest = WORD_LENGTHS[level]
    if rng.random() < REAL_WORD_SHARE:
        return rng.choice([word for word in WORDS if shortest <= len(word) <= longest])
    letters = rng.sample(LETTERS, rng.randint(2, 6))
    return "".join(rng.choices(letters, k=rng.randint(shortest, longest)))


def _digits(rng: Random, level: int) -> str:
    digits = rng.sample("0123456789", rng.randint(2, 6))
    return "".join(rng.choices(digits, k=rng.randint(*LIST_LENGTHS[level])))


def _work(elements: str, wanted: str, slip_at: int = -1) -> tuple[list[str], int]:
    """The reasoning, line by line, and the count; at `slip_at` a hit is missed, or what is none is taken for one."""
    count, lines = 0, []
    for at, element in enumerate(elements):
        count += (element == wanted) != (at == slip_at)
        lines.append(_line(at + 1, element, count))
    return lines, count


def _line(place: int, element: str, count: int) -> str:
    return f"{place}{':' if element.isdigit() else ''}{element} {count}"
