"""The queens that are missing on a board of 4 to 7 rows, by trying columns row by row. Square 23 is row 2, column 3.

    c5 4 3+6 7 8-1 4 7             queens at 15, 34 and 53 of 5x5: their columns, row + column, row - column + 5
    2: 1+3-6                       in row 2, column 1: neither it, nor 3, nor 6 is in these lists, so it is taken
    c5 4 3 1+6 7 8 3-1 4 7 6       the lists with it
    4: 1c 2+6x 3c 4c 5c x          row 4: columns 1, 3, 4 and 5 are taken, 2 is on a diagonal; so back to the row above
    c5 4 3+6 7 8-1 4 7
    2: 2+4-5                       row 2 again, from the next column on
    c5 4 3 2+6 7 8 4-1 4 7 5
    4: 1+5-8

Given queens are never moved.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from itertools import permutations
from random import Random

from fathom.tasks.task import NO, OK, Problem, require_language, require_level, stated, wording

SIZES = {1: (4, 5, 6, 7), 2: (5, 6, 7), 3: (6, 7), 4: (6, 7)}
MISSING = {1: (1, 2), 2: (2, 3), 3: (3, 4), 4: (4, 6)}  # level -> fewest and most
LONGEST_TRACE = {1: 200, 2: 220, 3: 480, 4: 480}  # characters

TEMPLATES = {
    "en": (
        "Place {n} queens on a {n}x{n} board so that none attacks another. Given: {given}. Where are the others?",
        "{n} queens, {n}x{n} board, already placed: {given}. Add the missing ones.",
        "On a {n}x{n} board there are queens at {given}. Complete them to {n} queens that do not attack each other.",
        "queens {n}x{n}, given {given}, place the rest",
        "Which squares complete {given} to {n} peaceful queens on a {n}x{n} board?",
    ),
    "zh": (
        "{n}x{n} 棋盘放 {n} 个互不攻击的皇后，已有 {given}，其余放哪里？",
        "在 {n}x{n} 棋盘上补全 {n} 皇后：{given}",
        "{n} 皇后，{n}x{n} 棋盘，已放 {given}，补全其余。",
        "{n}x{n} 棋盘上皇后在 {given}，补成 {n} 个互不攻击的皇后。",
    ),
}
REPLIES = {"en": "The others are at {}.", "zh": "其余在 {}。"}
KEY = re.compile(r"queens (\d) given ([\d ]+)")

Board = dict[int, int]  # row -> column of its queen


@dataclass(frozen=True)
class Queens:
    """One to six queens are missing; any squares that complete the board are right, in any order."""

    name: str = "queens"
    levels: tuple[int, ...] = (1, 2, 3, 4)

    def sample(self, rng: Random, level: int, language: str = "en") -> Problem:
        require_level(self, level)
        require_language(language)
        while True:
            n = rng.choice(SIZES[level])
            columns = rng.choice(solutions(n))
            missing = rng.sample(range(1, n + 1), min(rng.randint(*MISSING[level]), n - 1))
            given = {row: column for row, column in enumerate(columns, 1) if row not in missing}
            lines, board = _search(n, given)
            trace = "\n".join(lines)
            if len(trace) <= LONGEST_TRACE[level]:
                break
        answer = _names({row: board[row] for row in sorted(missing)})
        prompt = wording(rng).choice(TEMPLATES[language]).format(n=n, given=_names(given))
        key = f"{self.name} {n} given {_names(given)}"
        return Problem(self.name, level, key, prompt, trace, REPLIES[language].format(answer), answer, language)

    def check(self, problem: Problem, text: str) -> bool:
        n, squares = _read(problem.key)
        added = _squares(text, n)
        whole = squares + added
        if len(whole) != n or not added:
            return False
        lines = ([r for r, _ in whole], [c for _, c in whole], [r + c for r, c in whole], [r - c for r, c in whole])
        return all(len(set(line)) == n for line in lines)

    def verify(self, problem: Problem, answer: str) -> str:
        """Columns, then row + column and row - column (the two diagonals) of all queens by row: each value once."""
        n, squares = _read(problem.key)
        whole = sorted(squares + _squares(answer, n))
        if [row for row, _ in whole] != list(range(1, n + 1)) or len(whole) == len(squares):
            return NO
        lines = [" ".join(f"{row}{column}" for row, column in whole)]
        for mark, values in zip("c+-", _lines(dict(whole), n), strict=True):
            line = mark
            for at, value in enumerate(values):
                line += f" {value}"
                if value in values[:at]:
                    return "\n".join([*lines, f"{line} x", NO])
            lines.append(line)
        return "\n".join([*lines, OK])

    def slip(self, rng: Random, problem: Problem) -> tuple[str, str] | None:
        """A search that does not see one attack."""
        n, squares = _read(problem.key)
        given = dict(squares)
        missing = [row for row in range(1, n + 1) if row not in given]
        attacks = [(row, column, other) for row in missing for column in range(1, n + 1) for other in range(1, n + 1)]
        rng.shuffle(attacks)
        for attack in attacks:
            lines, board = _search(n, given, attack)
            trace, answer = "\n".join(lines), _names({row: board[row] for row in missing})
            if len(trace) <= LONGEST_TRACE[problem.level] and not self.check(problem, answer):
                return trace, answer
        return None


@cache
def solutions(n: int) -> tuple[tuple[int, ...], ...]:
    """All ways to place n queens, as columns by row."""
    return tuple(
        columns
        for columns in permutations(range(1, n + 1))
        if len({row + column for row, column in enumerate(columns)}) == n
        and len({row - column for row, column in enumerate(columns)}) == n
    )


def _read(key: str) -> tuple[int, list[tuple[int, int]]]:
    """Size and given squares."""
    match = KEY.fullmatch(key)
    assert match is not None, f"{key!r} is not the key of a board of queens"
    return int(match[1]), [(int(name[0]), int(name[1])) for name in match[2].split(" ")]


def _squares(text: str, n: int) -> list[tuple[int, int]]:
    """The squares that a text answers; none if it is no list of squares."""
    line = stated(text, REPLIES, re.compile(rf"[1-{n}]{{2}}(?: [1-{n}]{{2}})*"))
    if line is None:
        return []
    return [(int(name[0]), int(name[1])) for name in line.split(" ")]


def _names(board: Board) -> str:
    return " ".join(f"{row}{column}" for row, column in board.items())


def _lines(board: Board, n: int) -> tuple[list[int], list[int], list[int]]:
    """Columns of the queens, and the numbers of their two diagonals; n more than the difference: none has a sign."""
    columns = list(board.values())
    return columns, [r + c for r, c in board.items()], [r - c + n for r, c in board.items()]


def _state(board: Board, n: int) -> str:
    return "".join(f"{mark}{' '.join(map(str, line))}" for mark, line in zip("c+-", _lines(board, n), strict=True))


def _try(board: Board, n: int, row: int, column: int, unseen: tuple[int, int, int] | None) -> tuple[str, bool]:
    """The tests of a square up to the first that fails, and whether none does."""
    seen = {other: at for other, at in board.items() if (row, column, other) != unseen}
    columns, ups, downs = _lines(seen, n)
    if column in columns:
        return f"{column}c", False
    tried = f"{column}+{row + column}"
    if row + column in ups:
        return f"{tried}x", False
    tried += f"-{row - column + n}"
    return (f"{tried}x", False) if row - column + n in downs else (tried, True)


def _search(n: int, given: Board, unseen: tuple[int, int, int] | None = None) -> tuple[list[str], Board]:
    """The search, line by line, and the board it found. Args: unseen: row, column, row of the queen not seen there."""
    board, lines = dict(given), []
    missing = [row for row in range(1, n + 1) if row not in given]
    at, first = 0, 1
    while at < len(missing):
        row = missing[at]
        lines.append(_state(board, n))
        line, free = f"{row}:", False
        for column in range(first, n + 1):
            tried, free = _try(board, n, row, column, unseen)
            line += f" {tried}"
            if free:
                board[row] = column
                break
        lines.append(line if free else f"{line} x")
        if free:
            at, first = at + 1, 1
        else:
            at -= 1
            assert at >= 0, f"{given} cannot be completed: only boards that can be are searched"
            first = board.pop(missing[at]) + 1
    return lines, board
