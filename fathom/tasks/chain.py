"""Modular arithmetic chains: each operation takes the last result, and every result is brought back below the modulus.

    4*7=28 -20=8          28 is 10 or more: take off the largest multiple of 10
    8+1=9                 already below 10
    3-8=-5 +10=5          below zero: put on the smallest multiple of 10 that helps

The work is serial: no step can be done before the one above it. The test walks again on the other side of zero, where
4 is -6: -6*7=-42 +40=-2, so that no number of the trace comes back.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from random import Random

from fathom.tasks.task import NO, Problem, final_line, require_language, require_level, verdict, wording

Step = tuple[str, int]  # operator, operand

STEPS = {1: (2, 3), 2: (4, 6), 3: (3, 5), 4: (6, 9)}  # level -> fewest and most operations
MODULI = {1: (10, 10), 2: (10, 10), 3: (2, 20), 4: (2, 20)}  # level -> smallest and largest modulus

PHRASES = {
    "verb": {"+": "add {n}", "-": "subtract {n}", "*": "multiply by {n}"},
    "word": {"+": "plus {n}", "-": "minus {n}", "*": "times {n}"},
    "sign": {"+": "+{n}", "-": "-{n}", "*": "*{n}"},
    "zh": {"+": "加{n}", "-": "减{n}", "*": "乘{n}"},
    "zh long": {"+": "加上{n}", "-": "减去{n}", "*": "乘以{n}"},
}
# (form of a step, what joins the steps, whether each step opens a sentence, the whole)
TEMPLATES = (
    ("verb", ", ", False, "Start with {start}. {Steps}. Work modulo {modulus}."),
    ("verb", ", ", False, "Start with {start}. {Steps}. What is the result modulo {modulus}?"),
    ("verb", ", ", False, "Modulo {modulus}: start with {start}, {steps}."),
    ("verb", ", then ", False, "Begin with {start}, then {steps}, all modulo {modulus}. What do you get?"),
    ("verb", ". ", True, "Take {start}. {Steps}. Give the result mod {modulus}."),
    ("verb", ", ", False, "Working mod {modulus}, start at {start}, {steps}."),
    ("word", ", ", False, "Working mod {modulus} step by step, what is {start}, {steps}?"),
    ("word", ", ", False, "Modulo {modulus}, step by step: {start}, {steps}."),
    ("sign", " ", False, "mod {modulus}, step by step: {start} {steps}"),
    ("sign", ", ", False, "Start {start}, then {steps}, mod {modulus}."),
)
TEMPLATES_ZH = (
    ("zh", "，", False, "从{start}开始，{steps}。模{modulus}的结果是多少？"),
    ("zh", "，", False, "模{modulus}：从{start}开始，{steps}。"),
    ("zh", "，再", False, "在模{modulus}下，{start}先{steps}，得多少？"),
    ("zh long", "，", False, "从{start}开始，依次{steps}，按模{modulus}计算。"),
    ("zh long", "，然后", False, "取{start}，{steps}，求模{modulus}的结果。"),
    ("sign", " ", False, "模{modulus}，一步一步算：{start} {steps}"),
)

FAULTS = ("left out", "sign", "one off")

ANSWER = re.compile(r"(?:The result is |结果是)?(0|[1-9][0-9]{0,3})")


@dataclass(frozen=True)
class Chain:
    """Two to nine operations, one after the other, modulo 10 or modulo 2 to 20."""

    name: str = "chain"
    levels: tuple[int, ...] = (1, 2, 3, 4)

    def sample(self, rng: Random, level: int, language: str = "en") -> Problem:
        require_level(self, level)
        require_language(language)
        modulus = rng.randint(*MODULI[level])
        start = rng.randrange(modulus)
        steps = [_step(rng) for _ in range(rng.randint(*STEPS[level]))]
        lines, result = _work(start, steps, modulus)
        signs = " ".join(f"{operator}{operand}" for operator, operand in steps)
        return Problem(
            family=self.name,
            level=level,
            key=f"{self.name} {start} {signs} mod {modulus}",
            prompt=_prompt(wording(rng), start, steps, modulus, language),
            trace="\n".join(lines),
            reply=f"The result is {result}." if language == "en" else f"结果是{result}。",
            answer=str(result),
            language=language,
        )

    def check(self, problem: Problem, text: str) -> bool:
        claimed = _read(text)
        start, steps, modulus = _asked(problem)
        # Never reduced on the way, unlike the solver: whole numbers do not overflow.
        for operator, operand in steps:
            start = _apply(start, operator, operand)
        return claimed == start % modulus

    def verify(self, problem: Problem, answer: str) -> str:
        claimed = _read(answer)
        if claimed is None:
            return NO
        start, steps, modulus = _asked(problem)
        value = start - modulus if start else 0
        lines = []
        for operator, operand in steps:
            raw = _apply(value, operator, operand)
            below = -(-raw % modulus)
            lines.append(_line(value, operator, operand, raw, below))
            value = below
        if value:
            lines.append(f"{value}+{modulus}={value + modulus}")
        return "\n".join([*lines, *verdict(value % modulus, claimed)])

    def slip(self, rng: Random, problem: Problem) -> tuple[str, str] | None:
        """A step left out, taken with another sign, or off by one."""
        start, steps, modulus = _asked(problem)
        faults = [(at, fault) for at in range(len(steps)) for fault in FAULTS]
        rng.shuffle(faults)
        for at, fault in faults:
            operator, operand = steps[at]
            if fault == "left out":
                lines, result = _work(start, steps[:at] + steps[at + 1 :], modulus)
            elif fault == "sign":
                other = "-" if operator == "+" else "+"
                lines, result = _work(start, [*steps[:at], (other, operand), *steps[at + 1 :]], modulus)
            else:
                lines, result = _work(start, steps, modulus, off_at=at)
            if str(result) != problem.answer:
                return "\n".join(lines), str(result)
        return None


def _step(rng: Random) -> Step:
    operator = rng.choice("+-*")
    return operator, rng.randint(2 if operator == "*" else 1, 9)


def _prompt(rng: Random, start: int, steps: list[Step], modulus: int, language: str) -> str:
    form, joint, sentences, template = rng.choice(TEMPLATES if language == "en" else TEMPLATES_ZH)
    phrases = [PHRASES[form][operator].format(n=operand) for operator, operand in steps]
    if sentences:
        phrases = [phrase.capitalize() for phrase in phrases]
    text = joint.join(phrases)
    return template.format(start=start, steps=text, Steps=text[0].upper() + text[1:], modulus=modulus)


def _asked(problem: Problem) -> tuple[int, list[Step], int]:
    """Start, steps and modulus, read from the key."""
    _, start, *signs, _, modulus = problem.key.split(" ")
    return int(start), [(sign[0], int(sign[1:])) for sign in signs], int(modulus)


def _read(text: str) -> int | None:
    """The result that a text claims."""
    line = final_line(text, "结果是")
    match = None if line is None else ANSWER.fullmatch(line)
    return None if match is None else int(match[1])


def _apply(value: int, operator: str, operand: int) -> int:
    return value + operand if operator == "+" else value - operand if operator == "-" else value * operand


def _line(value: int, operator: str, operand: int, raw: int, reduced: int) -> str:
    line = f"{value}{operator}{operand}={raw}"
    return line if raw == reduced else f"{line} {reduced - raw:+d}={reduced}"


def _work(start: int, steps: list[Step], modulus: int, off_at: int = -1) -> tuple[list[str], int]:
    """The reasoning, line by line, and the result; the step `off_at` comes out one too high."""
    lines, value = [], start
    for at, (operator, operand) in enumerate(steps):
        raw = _apply(value, operator, operand) + (at == off_at)
        lines.append(_line(value, operator, operand, raw, raw % modulus))
        value = raw % modulus
    return lines, value
