"""Sudoku: true elimination, one solution, strict answers."""

from __future__ import annotations

from itertools import permutations, product

import pytest

from fathom.tasks.sudoku import EMPTY, GRIDS, LONGEST_TRACE, TEMPLATES, Sudoku
from fathom.tasks.task import Problem
from tests.tasks import properties

TASK = Sudoku()
PROBLEM = Problem("sudoku", 1, "sudoku 0013 1320 3000 4002", "", "", "", "2413 1324 3241 4132")


def solved(board: list[str]) -> bool:
    columns = ["".join(column) for column in zip(*board, strict=True)]
    boxes = [board[r][c : c + 2] + board[r + 1][c : c + 2] for r in (0, 2) for c in (0, 2)]
    return all(sorted(unit) == list("1234") for unit in [*board, *columns, *boxes])


def solutions(board: list[str]) -> list[str]:
    """All solutions, by trying every permutation in every row."""
    rows = [
        ["".join(p) for p in permutations("1234") if all(g in ("0", d) for g, d in zip(row, p, strict=True))]
        for row in board
    ]
    return [" ".join(tried) for tried in product(*rows) if solved(list(tried))]


def test_there_are_288_full_boards():
    assert len(set(GRIDS)) == 288
    assert all(solved([grid[at : at + 4] for at in (0, 4, 8, 12)]) for grid in GRIDS)


@pytest.mark.parametrize("level", TASK.levels)
def test_the_answer_is_the_only_solution(level):
    for sample in properties.samples(TASK, level, 40):
        board = sample.key.split(" ")[1:]
        assert EMPTY[level][0] <= "".join(board).count("0") <= EMPTY[level][1]
        assert solutions(board) == [sample.answer]


@pytest.mark.parametrize("level", TASK.levels)
def test_every_line_is_true_and_the_last_board_is_the_answer(level):
    for sample in properties.samples(TASK, level, 100, seed=3):
        first, *lines = sample.trace.split("\n")
        assert sample.key == f"sudoku {first}" and len(sample.trace) <= LONGEST_TRACE[level]
        board = first.split(" ")
        while lines:
            cell, seen, left = lines.pop(0).split(" ")
            row, column = int(cell[0]) - 1, int(cell[1]) - 1
            top, side = row // 2 * 2, column // 2 * 2
            peers = board[row] + "".join(line[column] for line in board)
            peers += board[top][side : side + 2] + board[top + 1][side : side + 2]
            assert board[row][column] == "0"
            assert seen == "".join(sorted(set(peers) - {"0"}))
            assert sorted(seen + left) == list("1234")
            if len(left) == 1:
                board[row] = board[row][:column] + left + board[row][column + 1 :]
                assert lines.pop(0) == " ".join(board)
        assert sample.answer == " ".join(board)


@pytest.mark.parametrize(
    "text", ["2413 1324 3241 4132", "The solution is 2413 1324 3241 4132.", " 2413 1324 3241 4132.\n"]
)
def test_right_forms(text):
    assert TASK.check(PROBLEM, text)


@pytest.mark.parametrize(
    "text",
    ["1234 3412 2143 4321", "2413 1324 3241 4122", "2413 1324 3241", "2413132432414132", "2413 1324 3241 4132 1234",
     "2413 1324 3041 4132", "2413 1324 3251 4132", "2413  1324 3241 4132", "2413,1324,3241,4132",
     "The solution is 2413 1324 3241 4132 I think."],
)  # fmt: skip
def test_wrong_forms(text):
    assert not TASK.check(PROBLEM, text)


def test_hand_worked_tests_of_answers():
    right = "r 2413 1324 3241 4132\nc 2134 4321 1243 3412\nb 2413 1324 3241 4132\ng 0013 1320 3000 4002\nok"
    assert TASK.verify(PROBLEM, PROBLEM.answer) == right
    assert TASK.verify(PROBLEM, "2413 1324 3241 4122") == "r 2413 1324 3241 4122 x\nno"
    assert TASK.verify(PROBLEM, "2413 1324 3241 1432") == "r 2413 1324 3241 1432\nc 2131 x\nno"
    boxes = "r 1234 2341 3412 4123\nc 1234 2341 3412 4123\nb 1223 x\nno"
    assert TASK.verify(PROBLEM, "1234 2341 3412 4123") == boxes
    assert TASK.verify(PROBLEM, "1234 3412 2143 4321").endswith("\ng 0013 x\nno")


def test_every_wording_occurs():
    for language, templates in TEMPLATES.items():
        prompts = [sample.prompt for sample in properties.samples(TASK, 2, 200, language=language)]
        for template in templates:
            before, _, after = template.partition("{rows}")
            assert any(prompt.startswith(before) and prompt.endswith(after) for prompt in prompts)


@pytest.mark.parametrize("level", TASK.levels)
def test_languages_ask_the_same(level):
    properties.languages_ask_the_same(TASK, level)


@pytest.mark.parametrize("level", TASK.levels)
def test_a_test_agrees_with_the_checker(level):
    properties.a_test_agrees_with_the_checker(TASK, level)


@pytest.mark.parametrize("level", TASK.levels)
def test_slips_are_found(level):
    properties.slips_are_found(TASK, level, 1.0)
