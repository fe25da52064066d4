"""Parity: whether the number of ones is odd (1) or even (0). Each line takes the next four bits.

    1 1011 1 1        the first four bits have an odd number of ones: odd so far
    2 0110 0 1        the next have an even number: still odd
    3 01 1 0          and an odd one: even

The bits stand in fours in the question too, so that a line copies a word and not a place in a long row.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from random import Random

from fathom.tasks.task import NO, OK, Problem, require_language, require_level, stated, wording

LENGTHS = {1: (8, 11), 2: (12, 16), 3: (18, 24), 4: (26, 36)}  # level -> fewest and most bits
GROUP = 4

TEMPLATES = {
    "en": (
        "Is the number of ones in {bits} odd (1) or even (0)?",
        "Add the bits {bits} modulo 2.",
        "What is the xor of the bits {bits}?",
        "How many ones are in {bits}, modulo 2?",
        "Parity of {bits}: 1 for odd, 0 for even.",
        "Give the parity bit of {bits}.",
    ),
    "zh": (
        "{bits}中1的个数是奇数(1)还是偶数(0)？",
        "{bits}的各位异或是多少？",
        "求{bits}的奇偶位。",
        "{bits}中1的个数模2是多少？",
        "{bits}各位之和模2是多少？",
    ),
}
REPLIES = {"en": "The parity is {}.", "zh": "奇偶位是{}。"}
ANSWER = re.compile(r"[01]")


@dataclass(frozen=True)
class Parity:
    """Rows of 8 to 36 bits."""

    name: str = "parity"
    levels: tuple[int, ...] = (1, 2, 3, 4)

    def sample(self, rng: Random, level: int, language: str = "en") -> Problem:
        require_level(self, level)
        require_language(language)
        bits = "".join(rng.choice("01") for _ in range(rng.randint(*LENGTHS[level])))
        lines, result = _work(_groups(bits))
        return Problem(
            family=self.name,
            level=level,
            key=f"{self.name} {bits}",
            prompt=wording(rng).choice(TEMPLATES[language]).format(bits=" ".join(_groups(bits))),
            trace="\n".join(lines),
            reply=REPLIES[language].format(result),
            answer=str(result),
            language=language,
        )

    def check(self, problem: Problem, text: str) -> bool:
        answer = stated(text, REPLIES, ANSWER)
        return answer is not None and int(answer) == _bits(problem).count("1") % 2

    def verify(self, problem: Problem, answer: str) -> str:
        """Counts the ones from the right and takes the pairs away."""
        claimed = stated(answer, REPLIES, ANSWER)
        groups, total, lines = _groups(_bits(problem)), 0, []
        for place in range(len(groups), 0, -1):
            ones = groups[place - 1].count("1")
            total += ones
            lines.append(f"{place} {groups[place - 1]} {ones} {total}")
        lines.append(f"{total}={total // 2}*2+{total % 2}")
        return "\n".join([*lines, OK if claimed == str(total % 2) else NO])

    def slip(self, rng: Random, problem: Problem) -> tuple[str, str] | None:
        """The ones of one group are counted wrong, or not added."""
        groups = _groups(_bits(problem))
        lines, result = _work(groups, rng.randrange(len(groups)), rng.random() < 0.5)
        return "\n".join(lines), str(result)


def _bits(problem: Problem) -> str:
    return problem.key.split(" ")[1]


def _groups(bits: str) -> list[str]:
    return [bits[start : start + GROUP] for start in range(0, len(bits), GROUP)]


def _work(groups: list[str], wrong_group: int = -1, miscounted: bool = False) -> tuple[list[str], int]:
    """The reasoning, line by line, and the parity; one group may be wrong, in its own parity or in the running one."""
    lines, parity = [], 0
    for place, group in enumerate(groups):
        own = group.count("1") % 2
        wrong = place == wrong_group
        own ^= int(wrong and miscounted)
        parity ^= own ^ int(wrong and not miscounted)
        lines.append(f"{place + 1} {group} {own} {parity}")
    return lines, parity
