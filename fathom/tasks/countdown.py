"""Countdown with three or four numbers: reach the target with +, - and *, each number used exactly once.

    3 7 12 > 63
    3+7=10 12 +22 -2 *big        first step 3+7, left 12: then 10+12, 12-10, 10*12
    7-3=4 12 +16 -8 *48          differences are larger minus smaller
    ...
    12-3=9 7 +16 -2 *63 yes

The trace is the depth-first search as it happened, dead ends included, up to the first hit. A product above 99 is
`big`: it is not computed, and as a first step it is not followed. With four numbers a line such as `3+7=10 12 5` takes
one step, and what follows it is the search with the three numbers that it leaves.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from random import Random

from fathom.tasks.expression import evaluate, worked
from fathom.tasks.task import NO, Problem, final_line, require_language, require_level, verdict, wording

COUNT = {1: 3, 2: 3, 3: 3, 4: 4}  # level -> how many numbers
LARGEST_NUMBER = {1: 9, 2: 15, 3: 25, 4: 9}
LARGEST_TARGET = {1: 50, 2: 99, 3: 99, 4: 50}
LARGEST_PRODUCT = 99  # above it a product is `big`
LONGEST_SEARCH = 400  # characters of a trace with four numbers; problems with a longer one are not drawn
ERRORS = tuple(sign * size * place for place in (1, 10) for size in (1, 2, 3) for sign in (1, -1))  # of a slip

TEMPLATES = (
    "Use {listed} to make {target}.",
    "Countdown: numbers {spaced}, target {target}.",
    "Make {target} from {listed}.",
    "Reach {target} with the numbers {commas}.",
    "Can you make {target} out of {listed}?",
    "Use each of {commas} once to get {target}.",
    "With {listed}, using each number once, make {target}.",
    "numbers: {spaced}, target: {target}",
    "Find a way to get {target} using {listed}.",
)

TEMPLATES_ZH = (
    "用{commas}凑出{target}。",
    "用{listed}算出{target}，每个数只用一次。",
    "凑数：数字{spaced}，目标{target}。",
    "怎样用{listed}得到{target}？",
    "每个数用一次，用{commas}得到{target}。",
    "数字：{spaced}，目标：{target}",
)


@dataclass(frozen=True)
class Item:
    """A number at hand: its value, the expression that made it, the operator that this ends in ("" for a number)."""

    value: int
    text: str
    operator: str = ""


@dataclass(frozen=True)
class Countdown:
    """Three or four numbers up to 25, a target up to 99; only problems that the search above solves are drawn."""

    name: str = "countdown"
    levels: tuple[int, ...] = (1, 2, 3, 4)

    def sample(self, rng: Random, level: int, language: str = "en") -> Problem:
        require_level(self, level)
        require_language(language)
        search, found = None, None
        while search is None or found is None:
            numbers, target = _draw(rng, level)
            search = Search(numbers, target)
            found = search.run()
        words = wording(rng)
        return Problem(
            family=self.name,
            level=level,
            key=f"{self.name} {' '.join(map(str, sorted(numbers)))} > {target}",
            prompt=_prompt(words, numbers, target, language),
            trace="\n".join(search.lines),
            reply=f"{found.text} = {target}",
            answer=found.text,
            language=language,
        )

    def check(self, problem: Problem, text: str) -> bool:
        numbers, target = _asked(problem)
        expression = _read(text, target)
        if expression is None:
            return False
        value, used = evaluate(expression)
        return value == target and sorted(used) == numbers

    def verify(self, problem: Problem, answer: str) -> str:
        """Ticks off the numbers, then works the expression out; stops at the first fault."""
        numbers, target = _asked(problem)
        expression = _read(answer, target)
        if expression is None:
            return NO
        value, used, steps = worked(expression)
        lines: list[str] = []
        left = list(numbers)
        for number in used:
            if number not in left:
                return "\n".join([*lines, f"{number}: -", NO])
            left.remove(number)
            lines.append(f"{number}:{''.join(f' {other}' for other in left)}")
        if left:
            return "\n".join([*lines, NO])
        return "\n".join([*lines, *steps, *verdict(value, target)])

    def slip(self, rng: Random, problem: Problem) -> tuple[str, str] | None:
        """A result of the search with a digit a little off, and a hit that is none."""
        numbers = list(map(int, problem.trace.partition(" > ")[0].split(" ")))
        target = _asked(problem)[1]
        right = Search(numbers, target)
        right.run()
        slips = [(at, error) for at in range(1, right.computed + 1) for error in ERRORS]
        rng.shuffle(slips)
        for slip in slips:
            search = Search(numbers, target, slip)
            found = search.run()
            if found is not None and not self.check(problem, found.text):
                return "\n".join(search.lines), found.text
        return None


class Search:
    """The depth-first search, as it writes itself down.

    Args: slip: (which result, counted from 1; how much it is off).
    """

    def __init__(self, numbers: list[int], target: int, slip: tuple[int, int] | None = None) -> None:
        self.target, self.slip = target, slip
        self.items = [Item(number, str(number)) for number in numbers]
        self.lines = [f"{' '.join(map(str, numbers))} > {target}"]
        self.characters, self.computed = len(self.lines[0]), 0

    def run(self) -> Item | None:
        """The first item that has the target's value; None: there is none, or the search got too long."""
        return self._steps(self.items)

    def _steps(self, items: list[Item]) -> Item | None:
        for i, j in combinations(range(len(items)), 2):
            left = [item for at, item in enumerate(items) if at not in (i, j)]
            for operator in "+-*":
                if len(self.items) > 3 and self.characters > LONGEST_SEARCH:
                    return None
                found = self._step(items[i], operator, items[j], left)
                if found is not None:
                    return found
        return None

    def _step(self, a: Item, operator: str, b: Item, left: list[Item]) -> Item | None:
        if operator == "-" and a.value < b.value:
            a, b = b, a
        made = self._apply(a, operator, b)
        if made is None:
            self._write(f"{a.value}{operator}{b.value} big")
            return None
        line = f"{a.value}{operator}{b.value}={made.value} {' '.join(str(item.value) for item in left)}"
        if len(left) > 1:
            self._write(line)
            return self._steps([made, *left])
        for last in "+-*":
            leaf = self._apply(made, last, left[0])
            line += f" {last}{'big' if leaf is None else leaf.value}"
            if leaf is not None and leaf.value == self.target:
                self._write(f"{line} yes")
                return leaf
        self._write(line)
        return None

    def _write(self, line: str) -> None:
        self.lines.append(line)
        self.characters += 1 + len(line)

    def _apply(self, a: Item, operator: str, b: Item) -> Item | None:
        """The result, larger minus smaller; None for a product that is too big to follow."""
        if operator == "-" and a.value < b.value:
            a, b = b, a
        value = a.value + b.value if operator == "+" else a.value - b.value if operator == "-" else a.value * b.value
        if operator == "*" and value > LARGEST_PRODUCT:
            return None
        self.computed += 1
        if self.slip is not None and self.computed == self.slip[0]:
            value = max(0, value + self.slip[1])
        # Parentheses only where they change the meaning.
        first = f"({a.text})" if operator == "*" and a.operator in ("+", "-") else a.text
        second = f"({b.text})" if operator in ("*", "-") and b.operator in ("+", "-") else b.text
        return Item(value, f"{first} {operator} {second}", operator)


def _draw(rng: Random, level: int) -> tuple[list[int], int]:
    """Numbers and a target; with three numbers one that can be reached."""
    while True:
        numbers = [rng.randint(1, LARGEST_NUMBER[level]) for _ in range(COUNT[level])]
        if len(numbers) > 3:
            return numbers, rng.randint(1, LARGEST_TARGET[level])
        targets = sorted({value for value in _reachable(numbers) if 1 <= value <= LARGEST_TARGET[level]})
        if targets:
            return numbers, rng.choice(targets)


def _prompt(rng: Random, numbers: list[int], target: int, language: str) -> str:
    *most, last = shown = list(map(str, numbers))
    if language == "en":
        template, listed, commas = rng.choice(TEMPLATES), f"{', '.join(most)} and {last}", ", ".join(shown)
    else:
        template, listed = rng.choice(TEMPLATES_ZH), f"{'、'.join(most)}和{last}"
        commas = rng.choice((", ", "，", "、")).join(shown)
    return template.format(listed=listed, commas=commas, spaced=" ".join(shown), target=target)


def _asked(problem: Problem) -> tuple[list[int], int]:
    """The numbers, smallest first, and the target, read from the key."""
    _, *numbers, _, target = problem.key.split(" ")
    return list(map(int, numbers)), int(target)


def _read(text: str, target: int) -> str | None:
    """The expression that a text offers; None if it is none, or is said to have another value than the target."""
    line = final_line(text)
    if line is None:
        return None
    expression, equals, result = line.partition("=")
    if equals and result.strip(" ") != str(target):
        return None
    try:
        evaluate(expression)
    except ValueError:
        return None
    return expression


def _apply(a: int, operator: str, b: int) -> int | None:
    if operator == "+":
        return a + b
    if operator == "-":
        return abs(a - b)
    return a * b if a * b <= LARGEST_PRODUCT else None


def _reachable(numbers: list[int]) -> set[int]:
    """All values that the search can arrive at with three numbers."""
    a, b, c = numbers
    pairs = (a, b, c), (a, c, b), (b, c, a)
    firsts = [(_apply(x, operator, y), left) for x, y, left in pairs for operator in "+-*"]
    values = [_apply(first, operator, left) for first, left in firsts if first is not None for operator in "+-*"]
    return {value for value in values if value is not None}
