"""Numbers from one base to another, by way of decimal.

1 011             1011 from base 2: the first digit, and the digits to come
1*2=2+0=2 11      each line takes one more
2*2=4+1=5 1
5*2=10+1=11

3*3=9 11-9=2 2    11 to base 3: each line divides and puts the remainder in front of the digits so far
1*3=3 3-3=0 02
0*3=0 1-0=1 102
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from random import Random

from fathom.tasks.task import NO, OK, Problem, require_language, require_level, stated, wording

LARGEST = {1: 63, 2: 255, 3: 999, 4: 511}  # level -> largest number
BASES = {1: range(2, 10), 2: range(2, 10), 3: (*range(2, 10), 16), 4: (*range(2, 10), 16)}  # level 4: both ends
DIGITS = "0123456789ABCDEF"

NAMES = {2: "binary", 8: "octal", 10: "decimal", 16: "hexadecimal"}
NUMERALS = dict(zip((*range(2, 11), 16), (*"二三四五六七八九十", "十六"), strict=True))
TEMPLATES = {
    "en": (
        "Convert {digits} from {a} to {b}.",
        "Write {digits} ({a}) in {b}.",
        "What is {digits} ({a}) in {b}?",
        "From {a} to {b}: {digits}",
        "Express the number {digits}, given in {a}, in {b}.",
        "{digits} in {a} is what in {b}?",
    ),
    "zh": (
        "把{a}数{digits}转换成{b}。",
        "{a}的{digits}用{b}怎么写？",
        "{a}数{digits}等于{b}的多少？",
        "{a}转{b}：{digits}",
        "将{digits}从{a}换成{b}。",
    ),
}
REPLIES = {"en": "The result is {}.", "zh": "结果是{}。"}
ANSWER = re.compile(r"0|[1-9A-F][0-9A-F]{0,11}")


@dataclass(frozen=True)
class Bases:
    """Decimal and one of the bases 2 to 9 and 16; at level 4, any two of these, neither of them decimal."""

    name: str = "bases"
    levels: tuple[int, ...] = (1, 2, 3, 4)

    def sample(self, rng: Random, level: int, language: str = "en") -> Problem:
        require_level(self, level)
        require_language(language)
        one, two = rng.sample(BASES[level], 2)
        if level < 4:
            one, two = (10, two) if rng.random() < 0.5 else (one, 10)
        number = rng.randint(max(one, two), LARGEST[level])
        digits, words = _digits(number, one), wording(rng)
        plain = words.random() < 0.5
        lines, result = _work(digits, one, two)
        return Problem(
            family=self.name,
            level=level,
            key=f"{self.name} {digits} {one} {two}",
            prompt=words.choice(TEMPLATES[language]).format(
                digits=digits, a=_called(one, plain, language), b=_called(two, plain, language)
            ),
            trace="\n".join(lines),
            reply=REPLIES[language].format(result),
            answer=result,
            language=language,
        )

    def check(self, problem: Problem, text: str) -> bool:
        digits, one, two = _of(problem)
        answer = _read(text, two)
        # Python reads both numbers; the solver's arithmetic is not used.
        return answer is not None and int(answer, two) == int(digits, one)

    def verify(self, problem: Problem, answer: str) -> str:
        """Converts the answer back."""
        digits, one, two = _of(problem)
        claimed = _read(answer, two)
        if claimed is None:
            return NO
        lines, back = _work(claimed, two, one)
        return "\n".join([*lines, f"{back} {digits}", OK if back == digits else NO])

    def slip(self, rng: Random, problem: Problem) -> tuple[str, str] | None:
        """One sum or one quotient is wrong by one."""
        digits, one, two = _of(problem)
        count = len(_work(digits, one, two)[0]) - (one != 10)  # the line of the first digit cannot be wrong
        lines, result = _work(digits, one, two, rng.randrange(count), rng.choice((-1, 1)))
        return None if result == problem.answer else ("\n".join(lines), result)


def _of(problem: Problem) -> tuple[str, int, int]:
    _, digits, one, two = problem.key.split(" ")
    return digits, int(one), int(two)


def _read(text: str, base: int) -> str | None:
    """The digits that a text claims, if they are digits of this base."""
    answer = stated(text, REPLIES, ANSWER)
    return answer if answer and all(DIGITS.index(digit) < base for digit in answer) else None


def _called(base: int, plain: bool, language: str) -> str:
    if language == "zh":
        return f"{base}进制" if plain else f"{NUMERALS[base]}进制"
    return f"base {base}" if plain or base not in NAMES else NAMES[base]


def _digits(number: int, base: int) -> str:
    head = "" if number < base else _digits(number // base, base)
    return head + DIGITS[number % base]


def _work(digits: str, one: int, two: int, wrong_line: int = -1, error: int = 0) -> tuple[list[str], str]:
    """The reasoning, line by line, and the result; one line after the first digit may be wrong."""
    lines: list[str] = []
    if one == 10:
        value = int(digits)
    else:
        sums, value = _from(digits, one, wrong_line, error)
        lines += sums
        wrong_line -= len(digits) - 1
    if two == 10:
        return lines, str(value)
    divisions, result = _to(value, two, wrong_line, error)
    return lines + divisions, result


def _from(digits: str, base: int, wrong_line: int, error: int) -> tuple[list[str], int]:
    value = DIGITS.index(digits[0])
    lines = [f"{digits[0]} {digits[1:]}".rstrip()]
    if value > 9:
        lines[0] = f"{digits[0]}={value} {digits[1:]}".rstrip()
    for place, digit in enumerate(digits[1:]):
        before, value = value, value * base + DIGITS.index(digit)
        value += error if place == wrong_line and value + error > 0 else 0
        product = f"{before}*{base}={before * base}"
        lines.append(f"{product}+{DIGITS.index(digit)}={value} {digits[place + 2 :]}".rstrip())
    return lines, value


def _to(value: int, base: int, wrong_line: int, error: int) -> tuple[list[str], str]:
    lines: list[str] = []
    result = ""
    while value or not result:
        quotient, remainder = divmod(value, base)
        result = DIGITS[remainder] + result
        quotient += error if len(lines) == wrong_line and quotient + error >= 0 else 0
        lines.append(f"{quotient}*{base}={quotient * base} {value}-{quotient * base}={remainder} {result}")
        value = quotient
    return lines, result
