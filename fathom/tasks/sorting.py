"""Sorting by insertion: each line takes the next number of the list and puts it in its place.

    42
    7: 7 42
    93: 7 42 93
    18: 7 18 42 93

A line copies the one above and decides at each number only whether the new one comes first.

    7 1
    <42 2                how each number of the answer lies to the one above, and how many there are
    42:2 7:1             the numbers of the list, each with its place in the answer, no place twice
    2=2
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from random import Random

from fathom.tasks.task import NO, Problem, final_line, require_language, require_level, verdict, wording

LENGTHS = {1: (3, 4), 2: (4, 6), 3: (6, 8), 4: (8, 10)}  # level -> fewest and most numbers
LARGEST = {1: 9, 2: 99, 3: 99, 4: 99}  # level -> largest number
DESCENDING_SHARE = 0.25

ASCENDING_TEMPLATES = (
    "Sort these numbers: {numbers}",
    "Sort {numbers}.",
    "Sort {numbers} in ascending order.",
    "Sort the list {numbers} from smallest to largest.",
    "Put these numbers in ascending order: {numbers}",
    "Order these numbers from smallest to largest: {numbers}",
    "What is {numbers} in sorted order?",
    "Arrange {numbers} from low to high.",
    "sort {numbers}",
)
DESCENDING_TEMPLATES = (
    "Sort these numbers in descending order: {numbers}",
    "Sort {numbers} in descending order.",
    "Sort the list {numbers} from largest to smallest.",
    "Put these numbers in descending order: {numbers}",
    "Order these numbers from largest to smallest: {numbers}",
    "Arrange {numbers} from high to low.",
    "sort descending {numbers}",
)

ASCENDING_TEMPLATES_ZH = (
    "把{numbers}从小到大排序。",
    "给这些数排序：{numbers}",
    "将下列数字按升序排列：{numbers}",
    "从小到大排列{numbers}。",
    "请把这些数从小到大排好：{numbers}",
    "{numbers}按升序排列是什么？",
)
DESCENDING_TEMPLATES_ZH = (
    "把{numbers}从大到小排序。",
    "将下列数字按降序排列：{numbers}",
    "从大到小排列{numbers}。",
    "请把这些数从大到小排好：{numbers}",
    "{numbers}按降序排列是什么？",
)
TEMPLATES = {
    "en": (ASCENDING_TEMPLATES, DESCENDING_TEMPLATES),
    "zh": (ASCENDING_TEMPLATES_ZH, DESCENDING_TEMPLATES_ZH),
}
SEPARATORS = {"en": (", ", ", ", " "), "zh": (", ", "，", "、", " ")}

NUMBER = r"(?:0|[1-9][0-9]?)"
ANSWER = re.compile(rf"{NUMBER}(?:(?:, ?| ){NUMBER})*")


@dataclass(frozen=True)
class Sorting:
    """Lists of 3 to 10 numbers, ascending or descending; a number may occur more than once."""

    name: str = "sorting"
    levels: tuple[int, ...] = (1, 2, 3, 4)

    def sample(self, rng: Random, level: int, language: str = "en") -> Problem:
        require_level(self, level)
        require_language(language)
        numbers = [rng.randint(0, LARGEST[level]) for _ in range(rng.randint(*LENGTHS[level]))]
        descending = rng.random() < DESCENDING_SHARE
        words = wording(rng)
        template = words.choice(TEMPLATES[language][descending])
        lines, result = _work(numbers, descending)
        answer = ", ".join(map(str, result))
        return Problem(
            family=self.name,
            level=level,
            key=f"{self.name} {'down' if descending else 'up'} {' '.join(map(str, numbers))}",
            prompt=template.format(numbers=words.choice(SEPARATORS[language]).join(map(str, numbers))),
            trace="\n".join(lines),
            reply=answer,
            answer=answer,
            language=language,
        )

    def check(self, problem: Problem, text: str) -> bool:
        numbers, descending = _asked(problem)
        return _read(text) == sorted(numbers, reverse=descending)

    def verify(self, problem: Problem, answer: str) -> str:
        """Stops at the first fault."""
        claimed = _read(answer)
        if claimed is None:
            return NO
        numbers, descending = _asked(problem)
        lines = [f"{claimed[0]} 1"]
        for place, (above, number) in enumerate(zip(claimed, claimed[1:], strict=False), start=2):
            sign = "=" if above == number else "<" if above < number else ">"
            lines.append(f"{sign}{number} {place}")
            if sign == ("<" if descending else ">"):
                return "\n".join([*lines, NO])
        left: list[int | None] = list(claimed)
        places: list[str] = []
        for number in numbers:
            if number not in left:
                return "\n".join([*lines, " ".join([*places, f"{number}:-"]), NO])
            place = left.index(number)
            left[place] = None
            places.append(f"{number}:{place + 1}")
        return "\n".join([*lines, " ".join(places), *verdict(len(numbers), len(claimed))])

    def slip(self, rng: Random, problem: Problem) -> tuple[str, str] | None:
        """A number put one place off, or one lost when a line was copied."""
        numbers, descending = _asked(problem)
        faults = [(at, shift) for at in range(1, len(numbers)) for shift in (-1, 1, 0)]
        rng.shuffle(faults)
        for at, shift in faults:
            lost = rng.randrange(at) if shift == 0 else -1
            lines, result = _work(numbers, descending, at, shift, lost)
            answer = ", ".join(map(str, result))
            if answer != problem.answer:
                return "\n".join(lines), answer
        return None


def _asked(problem: Problem) -> tuple[list[int], bool]:
    """The numbers and whether they shall descend, read from the key."""
    _, direction, *numbers = problem.key.split(" ")
    return list(map(int, numbers)), direction == "down"


def _read(text: str) -> list[int] | None:
    """The list that a text claims."""
    line = final_line(text)
    if line is None or not ANSWER.fullmatch(line):
        return None
    return list(map(int, line.replace(",", " ").split()))


def _work(
    numbers: list[int], descending: bool, slip_at: int = -1, shift: int = 0, lost: int = -1
) -> tuple[list[str], list[int]]:
    """The reasoning, line by line, and the sorted list.

    Args: slip_at: the line in which the new number lands `shift` places off, or the number at place `lost` is dropped.
    """
    done = numbers[:1]
    lines = [str(numbers[0])]
    for at, number in enumerate(numbers[1:], start=1):
        later = (i for i, other in enumerate(done) if (other < number if descending else other > number))
        place = next(later, len(done))
        if at == slip_at:
            place = min(max(place + shift, 0), len(done))
        done = [*done[:place], number, *done[place:]]
        if at == slip_at and lost >= 0:
            del done[lost + (lost >= place)]
        lines.append(f"{number}: {' '.join(map(str, done))}")
    return lines, done
