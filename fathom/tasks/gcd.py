"""Greatest common divisor by Euclid: each line takes a multiple of the divisor away; what is left is the next divisor.

    36*2=72 84-72=12         84 less two times 36 leaves 12
    12*3=36 36-36=0          nothing is left: the gcd is 12

A quotient of ten or more takes a line for each of its digits: `3*20=60 65-60=5`, then `3*1=3 5-3=2`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import gcd
from random import Random

from fathom.tasks.task import NO, OK, Problem, require_language, require_level, stated, wording

LARGEST = {1: 99, 2: 200, 3: 500, 4: 999}  # level -> largest number
QUOTIENTS = {1: 12, 2: 20, 3: 40, 4: 60}  # level -> largest number once the common divisor is out
SLIP_TRIES = 30

TEMPLATES = {
    "en": (
        "What is the gcd of {a} and {b}?",
        "Find the greatest common divisor of {a} and {b}.",
        "gcd({a}, {b})",
        "Which is the largest number that divides both {a} and {b}?",
        "Compute the greatest common factor of {a} and {b}.",
        "Give the gcd of {a}, {b}.",
    ),
    "zh": (
        "{a}和{b}的最大公约数是多少？",
        "求{a}和{b}的最大公约数。",
        "计算 gcd({a}, {b})。",
        "能同时整除{a}和{b}的最大的数是多少？",
        "{a}与{b}的最大公因数是？",
    ),
}
REPLIES = {"en": "The gcd is {}.", "zh": "最大公约数是{}。"}
ANSWER = re.compile(r"[1-9][0-9]{0,3}")


@dataclass(frozen=True)
class Gcd:
    """Two different numbers up to 99, 200, 500 or 999; once the gcd is out, they are small."""

    name: str = "gcd"
    levels: tuple[int, ...] = (1, 2, 3, 4)

    def sample(self, rng: Random, level: int, language: str = "en") -> Problem:
        require_level(self, level)
        require_language(language)
        a, b = _numbers(rng, level)
        lines, result = _work(a, b)
        words = wording(rng)
        one, two = words.sample((a, b), 2)
        return Problem(
            family=self.name,
            level=level,
            key=f"{self.name} {a} {b}",
            prompt=words.choice(TEMPLATES[language]).format(a=one, b=two),
            trace="\n".join(lines),
            reply=REPLIES[language].format(result),
            answer=str(result),
            language=language,
        )

    def check(self, problem: Problem, text: str) -> bool:
        answer = stated(text, REPLIES, ANSWER)
        if answer is None:
            return False
        a, b = _of(problem)
        # Tries every number, unlike the solver.
        return int(answer) == next(n for n in range(b, 0, -1) if a % n == 0 and b % n == 0)

    def verify(self, problem: Problem, answer: str) -> str:
        """Divides both numbers by the answer; then no prime of the smaller quotient may divide the larger."""
        claimed, lines = stated(answer, REPLIES, ANSWER), []
        if claimed is None:
            return NO
        divisor = int(claimed)
        for number in _of(problem):
            steps, rest = _divide(number, divisor)
            lines += steps
            if rest:
                return "\n".join([*lines, NO])
        large, small = (number // divisor for number in _of(problem))
        primes = _primes(small)
        lines.append(f"{large} {small}={'*'.join(map(str, primes)) or 1}")
        for prime in sorted(set(primes)):
            lines.append(f"{large}%{prime}={large % prime}")
            if large % prime == 0:
                return "\n".join([*lines, NO])
        return "\n".join([*lines, OK])

    def slip(self, rng: Random, problem: Problem) -> tuple[str, str] | None:
        """One remainder is wrong."""
        a, b = _of(problem)
        count = len(_work(a, b)[0])
        for _ in range(SLIP_TRIES):
            lines, result = _work(a, b, rng.randrange(count), rng.choice((-10, -2, -1, 1, 2, 10)))
            if str(result) != problem.answer:
                return "\n".join(lines), str(result)
        return None


def _numbers(rng: Random, level: int) -> tuple[int, int]:
    """The larger and the smaller number."""
    while True:
        large = rng.randint(2, QUOTIENTS[level])
        small = rng.randint(1, large - 1)
        if gcd(large, small) == 1:
            break
    common = rng.randint(1, LARGEST[level] // large)
    return large * common, small * common


def _of(problem: Problem) -> tuple[int, int]:
    _, a, b = problem.key.split(" ")
    return int(a), int(b)


def _line(a: int, b: int) -> tuple[str, int]:
    """One digit of the quotient of a by b, and what it leaves."""
    quotient = a // b
    ten = 10 ** (len(str(quotient)) - 1)
    part = quotient // ten * ten
    return f"{b}*{part}={b * part} {a}-{b * part}=", a - b * part


def _divide(a: int, b: int) -> tuple[list[str], int]:
    """The lines of one division, and the remainder."""
    lines: list[str] = []
    rest = a
    while not lines or rest >= b:
        line, rest = _line(rest, b)
        lines.append(f"{line}{rest}")
    return lines, rest


def _work(a: int, b: int, wrong_line: int = -1, error: int = 0) -> tuple[list[str], int]:
    """The reasoning, line by line, and the gcd; what is left at one line may be wrong, if that leaves it below b."""
    lines: list[str] = []
    while True:
        line, rest = _line(a, b)
        if len(lines) == wrong_line and 0 <= rest + error < b:
            rest += error
        lines.append(f"{line}{rest}")
        if rest == 0:
            return lines, b
        a, b = (rest, b) if rest >= b else (b, rest)


def _primes(number: int) -> list[int]:
    primes, prime = [], 2
    while number > 1:
        while number % prime == 0:
            primes.append(prime)
            number //= prime
        prime += 1
    return primes
