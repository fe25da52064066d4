"""Queens: a true search with its dead ends, any completion is right, strict answers."""

from __future__ import annotations

import re
from itertools import combinations, permutations

import pytest

from fathom.tasks.queens import LONGEST_TRACE, MISSING, SIZES, TEMPLATES, Queens, solutions
from fathom.tasks.task import Problem
from tests.tasks import properties

TASK = Queens()
PROBLEM = Problem("queens", 1, "queens 4 given 31", "", "", "", "12 24 43")
TWO_WAYS = Problem("queens", 1, "queens 5 given 11", "", "", "", "23 35 42 54")


def peaceful(squares: list[str]) -> bool:
    pairs = [(int(a[0]) - int(b[0]), int(a[1]) - int(b[1])) for a, b in combinations(squares, 2)]
    return all(down and right and abs(down) != abs(right) for down, right in pairs)


@pytest.mark.parametrize(("n", "count"), [(4, 2), (5, 10), (6, 4), (7, 40)])
def test_the_known_numbers_of_solutions(n, count):
    assert len(set(solutions(n))) == count
    assert all(peaceful([f"{row}{column}" for row, column in enumerate(s, 1)]) for s in solutions(n))


@pytest.mark.parametrize("level", TASK.levels)
def test_the_answer_completes_the_board(level):
    for sample in properties.samples(TASK, level, 150):
        _, n, _, *given = sample.key.split(" ")
        assert int(n) in SIZES[level]
        added = sample.answer.split(" ")
        assert min(MISSING[level][0], int(n) - 1) <= len(added) <= MISSING[level][1]
        assert len(given) + len(added) == int(n) and peaceful(given + added)


@pytest.mark.parametrize("level", TASK.levels)
def test_the_search_is_the_first_completion_in_order_and_every_test_is_true(level):
    for sample in properties.samples(TASK, level, 100, seed=3):
        _, size, _, *given = sample.key.split(" ")
        n = int(size)
        rows = [row for row in "1234567"[:n] if row not in {square[0] for square in given}]
        placed: list[str] = []
        last = 0
        lines = sample.trace.split("\n")
        for state, line in zip(lines[::2], lines[1::2], strict=True):
            whole = [(int(row), int(column)) for row, column in given + placed]
            columns, ups, downs = [c for _, c in whole], [r + c for r, c in whole], [r - c + n for r, c in whole]
            assert state == "".join(
                mark + " ".join(map(str, values)) for mark, values in zip("c+-", (columns, ups, downs), strict=True)
            )
            row, tried = line.split(": ")
            assert row == rows[len(placed)]
            *refused, end = tried.split(" ")
            for attempt in refused:
                last += 1
                column, up, down = last, int(row) + last, int(row) - last + n
                expected = f"{column}c" if column in columns else f"{column}+{up}x" if up in ups else ""
                assert attempt == (expected or f"{column}+{up}-{down}x") and (expected or down in downs)
            if end == "x":
                assert last == n
                last = int(placed.pop()[1])
                continue
            column = last + 1
            assert end == f"{column}+{int(row) + column}-{int(row) - column + n}"
            placed.append(f"{row}{column}")
            assert peaceful([*given, *placed])
            last = 0
        assert sample.answer == " ".join(placed) and len(sample.trace) <= LONGEST_TRACE[level]
        brute = ([r + c for r, c in zip(rows, p, strict=True)] for p in permutations("1234567"[:n], len(rows)))
        assert placed == next(squares for squares in brute if peaceful(given + squares))


def test_a_known_trace():
    sample = next(s for s in properties.samples(TASK, 2, 4000) if s.key == "queens 5 given 15 34 53")
    assert sample.trace.split("\n") == [
        "c5 4 3+6 7 8-1 4 7", "2: 1+3-6",
        "c5 4 3 1+6 7 8 3-1 4 7 6", "4: 1c 2+6x 3c 4c 5c x",
        "c5 4 3+6 7 8-1 4 7", "2: 2+4-5",
        "c5 4 3 2+6 7 8 4-1 4 7 5", "4: 1+5-8",
    ]  # fmt: skip
    assert sample.answer == "22 41"


def test_traces_have_dead_ends_where_problems_are_hard():
    dead = [sum("x" in sample.trace for sample in properties.samples(TASK, level, 200)) for level in TASK.levels]
    assert dead[3] > 100 and dead[3] > dead[0]


@pytest.mark.parametrize("text", ["12 24 43", "43 12 24", "The others are at 12 24 43.", "12 24 43.\n"])
def test_any_order_is_right(text):
    assert TASK.check(PROBLEM, text)


@pytest.mark.parametrize("text", ["23 35 42 54", "24 32 45 53"])
def test_any_completion_is_right(text):
    assert TASK.check(TWO_WAYS, text)


@pytest.mark.parametrize(
    "text",
    ["12 24", "12 24 31 43", "12 24 43 43", "13 24 42", "12 23 44", "12 25 43", "2 4 3", "122443", "12, 24, 43", "31",
     "The others are at 12 24 43 and 31.", "12 24 24", "13 21 34 42"],
)  # fmt: skip
def test_wrong_forms(text):
    assert not TASK.check(PROBLEM, text)


def test_hand_worked_tests_of_answers():
    assert TASK.verify(PROBLEM, "12 24 43") == "12 24 31 43\nc 2 4 1 3\n+ 3 6 4 7\n- 3 2 6 5\nok"
    assert TASK.verify(PROBLEM, "12 24 42") == "12 24 31 42\nc 2 4 1 2 x\nno"
    assert TASK.verify(PROBLEM, "13 24 42") == "13 24 31 42\nc 3 4 1 2\n+ 4 6 4 x\nno"
    assert TASK.verify(PROBLEM, "13 22 44") == "13 22 31 44\nc 3 2 1 4\n+ 4 4 x\nno"
    assert TASK.verify(PROBLEM, "12 23 44") == "12 23 31 44\nc 2 3 1 4\n+ 3 5 4 8\n- 3 3 x\nno"


def test_every_wording_occurs():
    for language, templates in TEMPLATES.items():
        prompts = [sample.prompt for sample in properties.samples(TASK, 2, 200, language=language)]
        for template in templates:
            pattern = re.sub(r"\\{\w+\\}", "[0-9 ]+", re.escape(template))
            assert any(re.fullmatch(pattern, prompt) for prompt in prompts)


@pytest.mark.parametrize("level", TASK.levels)
def test_languages_ask_the_same(level):
    properties.languages_ask_the_same(TASK, level)


@pytest.mark.parametrize("level", TASK.levels)
def test_a_test_agrees_with_the_checker(level):
    properties.a_test_agrees_with_the_checker(TASK, level)


@pytest.mark.parametrize("level", TASK.levels)
def test_slips_are_found(level):
    properties.slips_are_found(TASK, level, {1: 0.35, 2: 0.55, 3: 0.8, 4: 0.9}[level])
