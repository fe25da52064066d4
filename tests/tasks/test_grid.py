"""Grids: a true search, a shortest path by any route, strict answers."""

from __future__ import annotations

from itertools import product

import pytest

from fathom.tasks.grid import LONGEST_TRACE, SIZE, TEMPLATES, Grid, distance
from fathom.tasks.task import Problem
from tests.tasks import properties

TASK = Grid()
PROBLEM = Problem("grid", 1, "grid 3x3 walls 22 from 11 to 33", "", "", "", "11 12 13 23 33")
AROUND = Problem("grid", 1, "grid 3x3 walls 12 22 from 11 to 13", "", "", "", "11 21 31 32 33 23 13")


def parts(key: str) -> tuple[int, set[str], str, str]:
    before, path = key.split(" from ")
    _, size, _, *walls = before.split(" ")
    start, goal = path.split(" to ")
    return int(size[0]), set(walls), start, goal


def shortest(n: int, walls: set[str], start: str, goal: str) -> int | None:
    """Moves of a shortest path, by sets of strings that grow by one move."""
    digits = "123456"[:n]
    free = {a + b for a, b in product(digits, digits)} - walls
    reached = {start}
    for moves in range(n * n):
        if goal in reached:
            return moves
        reached |= {f"{int(c[0]) + a}{int(c[1]) + b}" for c in reached for a, b in ((1, 0), (-1, 0), (0, 1), (0, -1))}
        reached &= free
    return None


@pytest.mark.parametrize("level", TASK.levels)
def test_the_path_is_as_short_as_can_be(level):
    for sample in properties.samples(TASK, level, 150):
        n, walls, start, goal = parts(sample.key)
        path = sample.answer.split(" ")
        assert n == SIZE[level] and (path[0], path[-1]) == (start, goal)
        assert not walls & set(path)
        steps = [abs(int(a[0]) - int(b[0])) + abs(int(a[1]) - int(b[1])) for a, b in zip(path, path[1:], strict=False)]
        assert set(steps) == {1} and len(steps) == shortest(n, walls, start, goal)
        cells = {(int(wall[0]), int(wall[1])) for wall in walls}
        assert distance(n, cells, (int(start[0]), int(start[1])), (int(goal[0]), int(goal[1]))) == len(steps)


@pytest.mark.parametrize("level", TASK.levels)
def test_cells_are_found_in_order_of_distance_and_the_walk_goes_back(level):
    for sample in properties.samples(TASK, level, 100, seed=3):
        n, walls, start, goal = parts(sample.key)
        *lines, walk = sample.trace.split("\n")
        queue, found_by = [goal], {}
        for at, line in enumerate(lines):
            cell, new = line.split(":")
            assert cell == queue[at]
            for near in new.split():
                assert near not in queue and near not in walls
                assert shortest(n, walls, near, goal) == shortest(n, walls, cell, goal) + 1
                queue.append(near)
                found_by[near] = cell
        assert start in found_by and start in lines[-1]
        path = walk.split(" ")
        assert [found_by[cell] for cell in path[:-1]] == path[1:]
        assert len(sample.trace) <= LONGEST_TRACE[level]


def test_a_goal_behind_walls_has_no_distance():
    assert distance(3, {(2, 1), (2, 2), (2, 3)}, (1, 1), (3, 3)) is None
    assert distance(3, {(2, 1), (2, 2)}, (1, 1), (3, 1)) == 6


@pytest.mark.parametrize(
    "text", ["11 12 13 23 33", "11 21 31 32 33.", "The path is 11 12 13 23 33.", " 11 21 31 32 33\n"]
)
def test_any_shortest_path_is_right(text):
    assert TASK.check(PROBLEM, text)


@pytest.mark.parametrize(
    "text",
    ["11 12 22 32 33", "11 12 13 23", "12 13 23 33", "11 13 23 33", "11 33", "33 23 13 12 11", "11 12 11 12 13 23 33",
     "11 12 13 14 24 34 33", "11 12 13 23 33 33", "11,12,13,23,33", "1112132333", "R R D D", "path 11 12 13 23 33",
     "The path is 11 12 13 23 33 or 11 21 31 32 33."],
)  # fmt: skip
def test_wrong_forms(text):
    assert not TASK.check(PROBLEM, text)


def test_hand_worked_tests_of_answers():
    assert TASK.verify(PROBLEM, "11 21 31 32 33") == "11 D21 D31 R32 R33\n4=2+2\nok"
    assert TASK.verify(PROBLEM, "11 12 22 32 33") == "11 R12 D22 x\nno"
    assert TASK.verify(PROBLEM, "11 33") == "11 ?33 x\nno"
    assert TASK.verify(PROBLEM, "11 12") == "11 R12 x\nno"
    right = "11 D21 D31 R32 R33 U23 U13\n6>0+2\n1: 21\n2: 31\n3: 32\n4: 33\n5: 23\n6: 13\nok"
    assert TASK.verify(AROUND, AROUND.answer) == right


def test_a_detour_is_found_out():
    longer = Problem("grid", 1, "grid 3x3 walls 33 from 11 to 13", "", "", "", "11 12 13")
    assert TASK.verify(longer, "11 21 22 23 13") == "11 D21 R22 R23 U13\n4>0+2\n1: 12 21\n2: 13 22 31\nno"


def test_every_wording_occurs():
    for language, templates in TEMPLATES.items():
        prompts = [sample.prompt for sample in properties.samples(TASK, 2, 200, language=language)]
        for template in templates:
            assert any(prompt.endswith(template.rpartition("}")[2]) for prompt in prompts)


@pytest.mark.parametrize("level", TASK.levels)
def test_languages_ask_the_same(level):
    properties.languages_ask_the_same(TASK, level)


@pytest.mark.parametrize("level", TASK.levels)
def test_a_test_agrees_with_the_checker(level):
    properties.a_test_agrees_with_the_checker(TASK, level)


@pytest.mark.parametrize("level", TASK.levels)
def test_slips_are_found(level):
    properties.slips_are_found(TASK, level, 1.0)
