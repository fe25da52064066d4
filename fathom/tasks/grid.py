"""The shortest path in a square grid with walls, by breadth-first search from the goal. Cell 23 is row 2, column 3.

33: 23 32        cells next to the goal that are free and new, in ascending order
23: 13           then the same of each cell found, in the order found, until the start is among them
32: 31
13: 12
31: 21
12: 11
11 12 13 23 33   from the start, each cell goes back to the one that found it
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from random import Random

from fathom.tasks.task import NO, OK, Problem, require_language, require_level, stated, wording

SIZE = {1: 3, 2: 4, 3: 5, 4: 6}
WALLS = {1: (1, 3), 2: (2, 5), 3: (5, 9), 4: (9, 14)}  # level -> fewest and most
FEWEST_MOVES = {1: 2, 2: 3, 3: 4, 4: 6}
LONGEST_TRACE = {1: 150, 2: 150, 3: 350, 4: 350}  # characters
LONGEST_ANSWER = 60  # characters: 20 moves; the reply around it must be shorter than MAX_ANSWER_CHARACTERS

TEMPLATES = {
    "en": (
        "In a {n}x{n} grid with walls at {walls}, find a shortest path from {start} to {goal}.",
        "What is the shortest way from {start} to {goal} in a {n}x{n} maze with walls {walls}?",
        "A {n}x{n} board has the cells {walls} blocked. Go from {start} to {goal} in as few moves as possible.",
        "maze {n}x{n}, walls {walls}: shortest path from {start} to {goal}",
        "Get from {start} to {goal} on a {n}x{n} grid. You cannot enter {walls}. Which cells do you pass?",
    ),
    "zh": (
        "{n}x{n} 网格，墙在 {walls}，求从 {start} 到 {goal} 的最短路径。",
        "{n}x{n} 迷宫，墙 {walls}，从 {start} 到 {goal} 最短怎么走？",
        "在 {n}x{n} 棋盘上从 {start} 走到 {goal}，不能进 {walls}，步数最少。",
        "{n}x{n} 格子，{walls} 是墙，怎样最快从 {start} 到 {goal}？",
    ),
}
REPLIES = {"en": "The path is {}.", "zh": "路径是 {}。"}
ANSWER = re.compile(r"[1-6]{2}(?: [1-6]{2})*")
KEY = re.compile(r"grid (\d)x\d walls ([\d ]+) from (\d\d) to (\d\d)")
MOVES = {"U": (-1, 0), "L": (0, -1), "R": (0, 1), "D": (1, 0)}  # neighbours in ascending order

Cell = tuple[int, int]  # row, column
Finders = dict[Cell, Cell | None]  # cell -> the cell that found it, in the order found
Work = tuple[list[str], list[Cell]]  # lines of the search, path


@dataclass(frozen=True)
class Grid:
    """Square grids of 3 to 6 rows; any shortest path, from its first cell to its last, is right."""

    name: str = "grid"
    levels: tuple[int, ...] = (1, 2, 3, 4)

    def sample(self, rng: Random, level: int, language: str = "en") -> Problem:
        require_level(self, level)
        require_language(language)
        n = SIZE[level]
        while True:
            cells = [(row, column) for row in range(1, n + 1) for column in range(1, n + 1)]
            rng.shuffle(cells)
            start, goal = cells[:2]
            walls = sorted(cells[2 : 2 + rng.randint(*WALLS[level])])
            lines, found_by = _search(n, set(walls), start, goal)
            path = _walk(found_by, start)
            answer = _names(path)
            trace = "\n".join([*lines, answer])
            short = len(trace) <= LONGEST_TRACE[level] and len(answer) <= LONGEST_ANSWER
            if short and len(path) > FEWEST_MOVES[level]:
                break
        words = {"walls": _names(walls), "start": _names([start]), "goal": _names([goal])}
        key = f"{self.name} {n}x{n} walls {words['walls']} from {words['start']} to {words['goal']}"
        prompt = wording(rng).choice(TEMPLATES[language]).format(n=n, **words)
        return Problem(self.name, level, key, prompt, trace, REPLIES[language].format(answer), answer, language)

    def check(self, problem: Problem, text: str) -> bool:
        path = _path(text)
        n, walls, start, goal = _read(problem.key)
        return (
            path[:1] == [start]
            and path[-1:] == [goal]
            and all(_free(n, walls, cell) for cell in path)
            and all(_move(*step) for step in zip(path, path[1:], strict=False))
            and len(path) - 1 == distance(n, walls, start, goal)
        )

    def verify(self, problem: Problem, answer: str) -> str:
        """Names each move, then counts them: as few as without walls, or as many as layers from start to goal."""
        n, walls, start, goal = _read(problem.key)
        path = _path(answer)
        if path[:1] != [start]:
            return NO
        walk = _names([start])
        for one, two in zip(path, path[1:], strict=False):
            walk += f" {_move(one, two) or '?'}{_names([two])}"
            if walk[-3] == "?" or not _free(n, walls, two):
                return f"{walk} x\nno"
        if path[-1] != goal:
            return f"{walk} x\nno"
        moves = len(path) - 1
        down, right = abs(start[0] - goal[0]), abs(start[1] - goal[1])
        if moves == down + right:
            return f"{walk}\n{moves}={down}+{right}\nok"
        layers = _layers(n, walls, start, goal)
        lines = [
            walk,
            f"{moves}>{down}+{right}",
            *(f"{far}: {_names(cells)}" for far, cells in enumerate(layers) if far),
        ]
        return "\n".join([*lines, OK if moves == len(layers) - 1 else NO])

    def slip(self, rng: Random, problem: Problem) -> tuple[str, str] | None:
        """A wall not seen or a free cell taken for one, from the beginning; or a wrong turn on the way back."""
        maze = _read(problem.key)
        kinds = [_misseen(rng, *maze), _misled(rng, *maze)]
        rng.shuffle(kinds)
        for lines, path in chain(*kinds):
            trace, answer = "\n".join([*lines, _names(path)]), _names(path)
            if path and len(trace) <= LONGEST_TRACE[problem.level] and not self.check(problem, answer):
                return trace, answer
        return None


def distance(n: int, walls: set[Cell], start: Cell, goal: Cell) -> int | None:
    """Fewest moves from start to goal, by relaxing all cells until nothing changes; None if there is no path."""
    far = {(row, column): n * n for row in range(1, n + 1) for column in range(1, n + 1)}
    far[start], changed = 0, True
    while changed:
        changed = False
        for cell in far:
            best = min((far[near] + 1 for near in _near(cell) if _free(n, walls, near)), default=n * n)
            if cell not in walls and best < far[cell]:
                far[cell], changed = best, True
    return far[goal] if far[goal] < n * n else None


def _read(key: str) -> tuple[int, set[Cell], Cell, Cell]:
    """Size, walls, start and goal."""
    match = KEY.fullmatch(key)
    assert match is not None, f"{key!r} is not the key of a grid"
    start, goal = _cells(f"{match[3]} {match[4]}")
    return int(match[1]), set(_cells(match[2])), start, goal


def _path(text: str) -> list[Cell]:
    """The cells that a text answers; none if it is no list of cells."""
    line = stated(text, REPLIES, ANSWER)
    return _cells(line) if line else []


def _cells(names: str) -> list[Cell]:
    return [(int(name[0]), int(name[1])) for name in names.split(" ")]


def _names(cells: list[Cell]) -> str:
    return " ".join(f"{row}{column}" for row, column in cells)


def _near(cell: Cell) -> list[Cell]:
    return [(cell[0] + down, cell[1] + right) for down, right in MOVES.values()]


def _free(n: int, walls: set[Cell], cell: Cell) -> bool:
    return 1 <= cell[0] <= n and 1 <= cell[1] <= n and cell not in walls


def _move(one: Cell, two: Cell) -> str:
    """The letter of the move between two cells; empty if they do not touch."""
    return next((letter for letter, move in MOVES.items() if (two[0] - one[0], two[1] - one[1]) == move), "")


def _search(n: int, walls: set[Cell], start: Cell, goal: Cell) -> tuple[list[str], Finders]:
    """The search from the goal, line by line, up to the start, and which cell found each."""
    found_by: Finders = {goal: None}
    lines, queue = [], [goal]
    for cell in queue:
        new = [near for near in _near(cell) if _free(n, walls, near) and near not in found_by]
        found_by.update(dict.fromkeys(new, cell))
        queue += new
        lines.append(f"{_names([cell])}: {_names(new)}" if new else f"{_names([cell])}:")
        if start in new:
            break
    return lines, found_by


def _walk(found_by: Finders, start: Cell) -> list[Cell]:
    """From the start to the goal, from each cell to the one that found it; empty if the start was not found."""
    path: list[Cell] = []
    at = start if start in found_by else None
    while at is not None:
        path.append(at)
        at = found_by[at]
    return path


def _misseen(rng: Random, n: int, walls: set[Cell], start: Cell, goal: Cell) -> Iterator[Work]:
    """The work with one cell seen wrongly, for each cell."""
    cells = [(row, column) for row in range(1, n + 1) for column in range(1, n + 1)]
    rng.shuffle(cells)
    for cell in cells:
        if cell not in (start, goal):
            lines, found_by = _search(n, walls ^ {cell}, start, goal)
            yield lines, _walk(found_by, start)


def _misled(rng: Random, n: int, walls: set[Cell], start: Cell, goal: Cell) -> Iterator[Work]:
    """The right search, and a walk that turns once to a cell that did not find the one before, for each such turn."""
    lines, found_by = _search(n, walls, start, goal)
    order = list(found_by)
    turns = [(cell, wrong) for cell in _walk(found_by, start) for wrong in order[: order.index(cell)]]
    rng.shuffle(turns)
    for cell, wrong in turns:
        yield lines, _walk({**found_by, cell: wrong}, start)


def _layers(n: int, walls: set[Cell], start: Cell, goal: Cell) -> list[list[Cell]]:
    """Cells at distance 0, 1, 2 ... from the start, up to the layer of the goal."""
    layers, seen = [[start]], {start}
    while goal not in seen and layers[-1]:
        layer = {near for cell in layers[-1] for near in _near(cell) if _free(n, walls, near)} - seen
        seen |= layer
        layers.append(sorted(layer))
    return layers
