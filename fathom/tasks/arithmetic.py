"""Addition, subtraction and multiplication, worked out column by column as on paper.

    384+2957 4+7=11 1            what is left of the numbers, the last column, the result so far
    38+295 8+5+1=14 41           the column's tens go into the next column
    3+29 3+9+1=13 341
    0+2 0+2+1=3 3341             the last column writes its whole sum

Each line repeats what is left of the numbers, so the digits a column needs stand right before it.

The test goes back: a sum less one term is the other, a difference and what was taken off are the whole, a product by
a one-digit factor is divided; only a product of longer factors is worked out again, with the factors swapped.

    2688 26/7=3 5 3              what is left of the product, its head by 7, the remainder, the quotient so far
    588 58/7=8 2 38              the remainder stands in place of the head
    28 28/7=4 0 384
    384=384
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from random import Random

from fathom.tasks.task import NO, Problem, final_line, require_language, require_level, verdict, wording

OPERATORS = ("+", "-", "*")
OPERATOR_WEIGHTS = (4, 3, 3)
SUM_DIGITS = {1: 2, 2: 3, 3: 4, 4: 5}  # level -> most digits of a term
PRODUCT_DIGITS = {1: (1, 1), 2: (2, 1), 3: (3, 1), 4: (2, 2)}  # level -> digits of the two factors

TEMPLATES = (
    "What is {a}{op}{b}?",
    "What is {a} {word} {b}?",
    "Calculate {a}{op}{b}.",
    "Compute {a}{op}{b}",
    "How much is {a}{op}{b}?",
    "How much is {a} {word} {b}?",
    "{a}{op}{b}",
    "{a}{op}{b}=",
    "{a}{op}{b} = ?",
    "{a} {word} {b}",
    "Work out {a}{op}{b}.",
    "Please calculate {a} {word} {b}.",
)
OWN_TEMPLATES = {
    "+": ("Add {a} and {b}.", "Add {a} to {b}.", "What is the sum of {a} and {b}?"),
    "-": ("Subtract {b} from {a}.", "Take {b} away from {a}.", "What is the difference of {a} and {b}?"),
    "*": ("Multiply {a} by {b}.", "Multiply {a} and {b}.", "What is the product of {a} and {b}?"),
}
TEMPLATES_ZH = (
    "{a}{op}{b}等于多少？",
    "{a}{word}{b}等于多少？",
    "计算{a}{op}{b}。",
    "请计算{a}{word}{b}。",
    "算一下{a}{op}{b}",
    "{a}{word}{b}是多少？",
    "{a}{op}{b}=？",
    "求{a}{op}{b}的结果。",
)
OWN_TEMPLATES_ZH = {
    "+": ("{a}加上{b}是多少？", "{a}与{b}的和是多少？", "求{a}和{b}的和。"),
    "-": ("{a}减去{b}还剩多少？", "{a}与{b}的差是多少？", "从{a}中减去{b}。"),
    "*": ("{a}乘以{b}等于多少？", "{a}与{b}的积是多少？", "求{a}和{b}的乘积。"),
}
SYMBOLS = {"+": ("+",), "-": ("-",), "*": ("*", "×", "x")}
WORDS = {"+": "plus", "-": "minus", "*": "times"}
WORDS_ZH = {"+": "加", "-": "减", "*": "乘"}

ANSWER = re.compile(r"(?:([0-9]{1,9}) ?([-+*x]) ?([0-9]{1,9}) ?= ?)?(0|[1-9][0-9]{0,18})")
TERMS = re.compile(r"([0-9]+)([-+*])([0-9]+)")


@dataclass(frozen=True)
class Slip:
    """A mistake in a column: its carry is forgotten (error 0), or its total is off by `error`.

    part: which piece of the work it is made in; column: counted from the right.
    """

    column: int
    error: int
    part: int = 0

    def of(self, part: int) -> Slip:
        """The slip, if it is made in this part."""
        return self if part == self.part else NO_SLIP

    def at(self, column: int, carry: int) -> tuple[int, int]:
        """What is carried into a column, and the error of its total."""
        if column != self.column:
            return carry, 0
        return (0, 0) if self.error == 0 else (carry, self.error)


NO_SLIP = Slip(-1, 0)


@dataclass(frozen=True)
class Arithmetic:
    """Sums and differences of up to 5 digits, products of up to 3 x 1 and 2 x 2 digits."""

    name: str = "arithmetic"
    levels: tuple[int, ...] = (1, 2, 3, 4)

    def sample(self, rng: Random, level: int, language: str = "en") -> Problem:
        require_level(self, level)
        require_language(language)
        operator = rng.choices(OPERATORS, OPERATOR_WEIGHTS)[0]
        if operator == "*":
            lengths = list(PRODUCT_DIGITS[level])
            rng.shuffle(lengths)
        else:
            lengths = [rng.randint(1, SUM_DIGITS[level]) for _ in range(2)]
        a, b = (_number(rng, digits) for digits in lengths)
        if operator == "-" and a < b:
            a, b = b, a
        first, second = (a, b) if operator == "-" else sorted((a, b))
        lines = _work(a, operator, b)
        answer = str(_value(a, operator, b))
        return Problem(
            family=self.name,
            level=level,
            key=f"{self.name} {first} {operator} {second}",
            prompt=_prompt(wording(rng), a, operator, b, language),
            trace="\n".join(lines),
            reply=f"{a} {operator} {b} = {answer}",
            answer=answer,
            language=language,
        )

    def check(self, problem: Problem, text: str) -> bool:
        first, operator, second = _asked(problem)
        return _read(text, first, operator, second) == _value(first, operator, second)

    def verify(self, problem: Problem, answer: str) -> str:
        first, operator, second = _asked(problem)
        claimed = _read(answer, first, operator, second)
        if claimed is None:
            return NO
        if operator == "+":
            if claimed < second:
                return f"{claimed}<{second}\n{NO}"
            lines, expected = _subtract(claimed, second), first
        elif operator == "-":
            lines, expected = _add(claimed, second), first
        elif 0 < first < 10:
            lines, left = _divide(claimed, first)
            if left:
                return "\n".join([*lines, NO])
            expected = second
        else:
            # Largest factor last: the trace works the other way round, and 0 has nothing to divide by.
            lines = _work(first, operator, second)
            return "\n".join([*lines, *verdict(_result(lines), claimed)])
        return "\n".join([*lines, *verdict(_result(lines), expected)])

    def slip(self, rng: Random, problem: Problem) -> tuple[str, str] | None:
        """A carry forgotten, or a column off by one (in products: by one row of the table)."""
        match = TERMS.match(problem.trace)
        a, operator, b = _asked(problem) if match is None else (int(match[1]), match[2], int(match[3]))
        longest = len(str(max(a, b, a * b)))
        slips = [Slip(column, error, part) for part in range(3) for column in range(longest) for error in (0, -1, 1)]
        rng.shuffle(slips)
        slips.sort(key=lambda slip: slip.error != 0)
        for slip in slips:
            lines = _work(a, operator, b, slip)
            if str(_result(lines)) != problem.answer:
                return "\n".join(lines), str(_result(lines))
        return None


def _asked(problem: Problem) -> tuple[int, str, int]:
    """The terms and the operator, read from the key; of a sum or a product the smaller term first."""
    _, first, operator, second = problem.key.split(" ")
    return int(first), operator, int(second)


def _read(text: str, first: int, operator: str, second: int) -> int | None:
    """The result that a text claims; None if it claims one of other terms."""
    line = final_line(text)
    match = None if line is None else ANSWER.fullmatch(line)
    if match is None:
        return None
    if match[2] is not None:
        asked = [int(match[1]), int(match[3])]
        same_terms = asked == [first, second] if operator == "-" else sorted(asked) == [first, second]
        if match[2].replace("x", "*") != operator or not same_terms:
            return None
    return int(match[4])


def _number(rng: Random, digits: int) -> int:
    """A number of exactly so many digits; one digit includes 0."""
    return rng.randint(0 if digits == 1 else 10 ** (digits - 1), 10**digits - 1)


def _value(a: int, operator: str, b: int) -> int:
    return a + b if operator == "+" else a - b if operator == "-" else a * b


def _prompt(rng: Random, a: int, operator: str, b: int, language: str) -> str:
    if language == "en":
        template, word = rng.choice(TEMPLATES + OWN_TEMPLATES[operator]), WORDS[operator]
    else:
        template, word = rng.choice(TEMPLATES_ZH + OWN_TEMPLATES_ZH[operator]), WORDS_ZH[operator]
    symbol = rng.choice(SYMBOLS[operator])
    if symbol == "x" or rng.random() < 0.8:
        symbol = f" {symbol} "
    return template.format(a=a, b=b, op=symbol, word=word)


def _result(lines: list[str]) -> int:
    """What the last line arrives at."""
    return int(lines[-1].rpartition(" ")[2])


def _work(a: int, operator: str, b: int, slip: Slip = NO_SLIP) -> list[str]:
    """The reasoning, line by line. The parts of a long product are its two products and their sum."""
    if operator == "+":
        return _add(a, b, slip.of(0))
    if operator == "-":
        return _subtract(a, b, slip.of(0))
    if a < 10 or b < 10:
        return _multiply(max(a, b), min(a, b), slip.of(0))
    tens, ones = divmod(b, 10)
    first = _multiply(a, ones, slip.of(0))
    second = _multiply(a, tens, slip.of(1), done="0")
    return [
        f"{a}*{b}={a}*{ones}+{a}*{tens * 10}",
        *first,
        f"{a}*{tens * 10} 0",
        *second,
        *_add(_result(first), _result(second), slip.of(2)),
    ]


def _add(a: int, b: int, slip: Slip = NO_SLIP) -> list[str]:
    lines: list[str] = []
    done, carry = "", 0
    while True:
        carry, error = slip.at(len(lines), carry)
        total = max(0, a % 10 + b % 10 + carry + error)
        column = f"{a % 10}+{b % 10}" + ("+1" if carry else "")
        last = a < 10 and b < 10
        done = (str(total) if last else str(total % 10)) + done
        lines.append(f"{a}+{b} {column}={total} {done}")
        if last:
            return lines
        a, b, carry = a // 10, b // 10, total // 10


def _subtract(a: int, b: int, slip: Slip = NO_SLIP) -> list[str]:
    """A column that would go below zero borrows: it is written with a ten in front, and the next one pays 1."""
    lines: list[str] = []
    done, borrowed = "", 0
    while True:
        borrowed, error = slip.at(len(lines), borrowed)
        top, owed = a % 10, b % 10 + borrowed
        borrows = top < owed
        top += 10 * borrows
        column = f"{top}-{b % 10}" + ("-1" if borrowed else "")
        left = min(9, max(0, top - owed + error))
        done = f"{left}{done}"
        lines.append(f"{a}-{b} {column}={left} {done}")
        if a < 10:
            return lines
        a, b, borrowed = a // 10, b // 10, int(borrows)


def _multiply(a: int, digit: int, slip: Slip = NO_SLIP, done: str = "") -> list[str]:
    """`a` times one digit; `done` holds the zeros already written on the right."""
    lines: list[str] = []
    carry = 0
    while True:
        carry, error = slip.at(len(lines), carry)
        product = max(0, a % 10 + error) * digit
        total = product + carry
        column = f"{a % 10}*{digit}" + (f"+{carry}={product}+{carry}" if carry else "")
        last = a < 10
        done = (str(total) if last else str(total % 10)) + done
        lines.append(f"{a}*{digit} {column}={total} {done}")
        if last:
            return lines
        a, carry = a // 10, total // 10


def _divide(a: int, digit: int) -> tuple[list[str], int]:
    """Long division by one digit, line by line, and the remainder."""
    lines, done, left = [], "", str(a)
    size = 2 if a >= 10 and int(left[0]) < digit else 1
    while True:
        head, rest = int(left[:size]), left[size:]
        quotient, remainder = divmod(head, digit)
        done += str(quotient)
        lines.append(f"{left} {head}/{digit}={quotient} {remainder} {done}")
        if not rest:
            return lines, remainder
        left = f"{remainder or ''}{rest}"
        size = 2 if remainder else 1
