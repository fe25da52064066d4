"""Sudoku with four rows, by elimination cell by cell. 0 is an empty cell; cell 12 is row 1, column 2.

    0013 1320 3000 4002
    11 134 2               in row, column and box of cell 11 are 1, 3 and 4; only 2 is left: the board with it
    2013 1320 3000 4002
    12 123 4
    2413 1320 3000 4002
    24 123 4
    2413 1324 3000 4002
    32 34 12               two are left: nothing to fill in yet
    ...

Empty cells are gone through from the top left, over and over. The last board is the answer. With one solution and nine
empty cells at most, some cell has always one digit left, so there is nothing to guess and nothing to take back.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from random import Random

from fathom.tasks.task import NO, OK, Problem, require_language, require_level, stated, wording

EMPTY = {1: (4, 4), 2: (5, 5), 3: (6, 7), 4: (8, 9)}  # level -> fewest and most
LONGEST_TRACE = {1: 150, 2: 180, 3: 350, 4: 350}  # characters

TEMPLATES = {
    "en": (
        "Solve this 4x4 sudoku, 0 is empty: {rows}",
        "Fill in the zeros of the 4x4 sudoku {rows}",
        "4x4 sudoku: {rows}. What is the solution?",
        "Complete the small sudoku {rows} so that each row, column and box has 1 to 4.",
        "sudoku {rows}",
    ),
    "zh": (
        "解 4x4 数独，0 为空：{rows}",
        "4x4 数独 {rows} 的答案是什么？",
        "完成这个小数独：{rows}",
        "填满数独 {rows}，每行、每列、每宫都是 1 到 4。",
    ),
}
REPLIES = {"en": "The solution is {}.", "zh": "答案是 {}。"}
ANSWER = re.compile(r"[1-4]{4}(?: [1-4]{4}){3}")

CELLS = range(16)
ROWS = [[4 * row + column for column in range(4)] for row in range(4)]
COLUMNS = [[4 * row + column for row in range(4)] for column in range(4)]
BOXES = [
    [8 * down + 2 * right + 4 * row + column for row in (0, 1) for column in (0, 1)]
    for down in (0, 1)
    for right in (0, 1)
]
UNITS = [*ROWS, *COLUMNS, *BOXES]
PEERS = [sorted({other for unit in UNITS if cell in unit for other in unit} - {cell}) for cell in CELLS]
DIGITS = "1234"


@dataclass(frozen=True)
class Sudoku:
    """Four to nine empty cells and one solution."""

    name: str = "sudoku"
    levels: tuple[int, ...] = (1, 2, 3, 4)

    def sample(self, rng: Random, level: int, language: str = "en") -> Problem:
        require_level(self, level)
        require_language(language)
        while True:
            solution = list(rng.choice(GRIDS))
            for cell in rng.sample(CELLS, rng.randint(*EMPTY[level])):
                solution[cell] = "0"
            board = "".join(solution)
            lines, solved = _work(board)
            trace = "\n".join(lines)
            one_solution = sum(_agrees(board, grid) for grid in GRIDS) == 1
            if one_solution and "0" not in solved and len(trace) <= LONGEST_TRACE[level]:
                break
        answer = _rows(solved)
        prompt = wording(rng).choice(TEMPLATES[language]).format(rows=_rows(board))
        key = f"{self.name} {_rows(board)}"
        return Problem(self.name, level, key, prompt, trace, REPLIES[language].format(answer), answer, language)

    def check(self, problem: Problem, text: str) -> bool:
        given, board = _read(problem.key), _board(text)
        return _agrees(given, board) and all(sorted(board[cell] for cell in unit) == list(DIGITS) for unit in UNITS)

    def verify(self, problem: Problem, answer: str) -> str:
        """Each row (r), column (c) and box (b) of the answer, then the rows as given (g), up to the first wrong one."""
        given, board = _read(problem.key), _board(answer)
        if not board:
            return NO
        lines: list[str] = []
        for mark, units in (("r", ROWS), ("c", COLUMNS), ("b", BOXES)):
            line = mark
            for unit in units:
                digits = "".join(board[cell] for cell in unit)
                line += f" {digits}"
                if len(set(digits)) < 4:
                    return "\n".join([*lines, f"{line} x", NO])
            lines.append(line)
        line = "g"
        for row in ROWS:
            digits = "".join(given[cell] for cell in row)
            line += f" {digits}"
            if not _agrees(digits, "".join(board[cell] for cell in row)):
                return "\n".join([*lines, f"{line} x", NO])
        return "\n".join([*lines, line, OK])

    def slip(self, rng: Random, problem: Problem) -> tuple[str, str] | None:
        """A digit of the row, column or box of a cell misread, so that the cell is filled in wrongly."""
        board = _read(problem.key)
        misreadings = [(at, digit) for at in range(board.count("0")) for digit in DIGITS]
        rng.shuffle(misreadings)
        for misread in misreadings:
            lines, solved = _work(board, misread)
            trace, answer = "\n".join(lines), _rows(solved)
            if "0" not in solved and len(trace) <= LONGEST_TRACE[problem.level] and not self.check(problem, answer):
                return trace, answer
        return None


def _work(board: str, misread: tuple[int, str] | None = None) -> tuple[list[str], str]:
    """The work, line by line, and the board it ends with, which has empty cells where the work came to a stop.

    Args: misread: at which filling, from 0, a digit of the peers is taken for the one that is missing there.
    """
    lines, filled, before = [_rows(board)], 0, ""
    while before != board:
        before = board
        for cell in (cell for cell in CELLS if board[cell] == "0"):
            seen = {board[peer] for peer in PEERS[cell]} - {"0"}
            left = "".join(digit for digit in DIGITS if digit not in seen)
            if len(left) == 1:
                if misread is not None and filled == misread[0]:
                    seen, left = {*seen, left} - {misread[1]}, misread[1]
                filled += 1
            lines.append(f"{_name(cell)} {''.join(sorted(seen))} {left or 'x'}")
            if not left:
                return lines, board
            if len(left) == 1:
                board = board[:cell] + left + board[cell + 1 :]
                lines.append(_rows(board))
    return lines, board


def _grids() -> tuple[str, ...]:
    """All 288 boards that have each digit once in each row, column and box."""
    boards = [""]
    for cell in CELLS:
        earlier = [peer for peer in PEERS[cell] if peer < cell]
        boards = [
            board + digit for board in boards for digit in DIGITS if all(board[peer] != digit for peer in earlier)
        ]
    return tuple(boards)


GRIDS = _grids()


def _agrees(given: str, board: str) -> bool:
    """Whether a board keeps the given digits."""
    return len(board) == len(given) and all(one in ("0", two) for one, two in zip(given, board, strict=True))


def _read(key: str) -> str:
    """The board of a key, row after row, without spaces."""
    return key.removeprefix("sudoku ").replace(" ", "")


def _board(text: str) -> str:
    """The board that a text answers; empty if it is none."""
    line = stated(text, REPLIES, ANSWER) or ""
    return line.replace(" ", "")


def _rows(board: str) -> str:
    return " ".join(board[start : start + 4] for start in range(0, 16, 4))


def _name(cell: int) -> str:
    return f"{cell // 4 + 1}{cell % 4 + 1}"
