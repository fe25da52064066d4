"""Brackets: traces against a plain stack, tests of answers against the checker, strict forms."""

from __future__ import annotations

from itertools import product
from random import Random

import pytest

from fathom.tasks.brackets import LENGTHS, Brackets
from fathom.tasks.task import Problem
from tests.tasks.hostile import wrong_texts
from tests.tasks.two_languages import assert_family_holds

TASK = Brackets()
NEAR_MISSES = (
    "( [ ] { } )",
    ") }",
    "}  )",
    "], } )",
    "The position is } ).",
    "03",
    "答案：位置是3。",
    "答案：缺少的括号是} )。",
)
PAIRS = ("()", "[]", "{}")
CLOSE = Problem(
    "brackets", 1, "brackets close ([]{", "", "1 ( (\n2 [ ( [\n3 ] (\n4 { ( {", "The missing brackets are } ).", "} )"
)
FAULT = Problem("brackets", 1, "brackets fault ([)]", "", "1 ( (\n2 [ ( [\n3 ) !", "The position is 3.", "3")


def plain_fault(row: str) -> int:
    """The place of the first closer that does not match, or 0."""
    opened: list[str] = []
    for place, bracket in enumerate(row, 1):
        if bracket in "([{":
            opened.append(bracket)
        elif not opened or opened.pop() + bracket not in PAIRS:
            return place
    return 0


@pytest.mark.parametrize("level", TASK.levels)
def test_the_family_holds_in_both_languages(level):
    assert_family_holds(TASK, level)


@pytest.mark.parametrize("level", TASK.levels)
def test_every_line_writes_the_open_brackets(level):
    rng = Random(level)
    for _ in range(300):
        sample = TASK.sample(rng, level)
        _, question, row = sample.key.split(" ")
        assert LENGTHS[level][0] <= len(row) <= LENGTHS[level][1]
        assert " ".join(row) in sample.prompt
        fault = plain_fault(row)
        opened: list[str] = []
        for place, line in enumerate(sample.trace.split("\n"), 1):
            bracket = row[place - 1]
            if place == fault:
                assert line == f"{place} {bracket} !"
                break
            opened = [*opened, bracket] if bracket in "([{" else opened[:-1]
            assert line == " ".join([str(place), bracket, *opened])
        if question == "fault":
            assert sample.answer == str(fault)
            assert place == fault or (not fault and place == len(row))
        else:
            assert fault == 0 and place == len(row)
            assert sample.answer.split(" ") == [dict(PAIRS)[bracket] for bracket in reversed(opened)]


@pytest.mark.parametrize("level", TASK.levels)
def test_faults_are_at_many_places_and_sometimes_nowhere(level):
    rng = Random(level)
    samples = [TASK.sample(rng, level) for _ in range(600)]
    answers = [int(sample.answer) for sample in samples if " fault " in sample.key]
    assert 0.15 < answers.count(0) / len(answers) < 0.55
    assert len(set(answers)) >= LENGTHS[level][0]


@pytest.mark.parametrize(
    ("problem", "answer", "lines"),
    [
        (CLOSE, "} )", "6 ) )|5 } ) }|4 { )|3 ] ) ]|2 [ )|1 (|ok"),
        (CLOSE, ")}", "6 } }|5 ) } )|4 { !|no"),
        (CLOSE, "}", "5 } }|4 {|3 ] ]|2 [|1 ( !|no"),
        (CLOSE, "} ) )", "7 ) )|6 ) ) )|5 } ) ) }|4 { ) )|3 ] ) ) ]|2 [ ) )|1 ( )|no"),
        (CLOSE, "3", "no"),
        (FAULT, "3", "3 ) !|2 [|1 (|ok"),
        (FAULT, "4", "4 ] !|3 ) )|2 [ !|no"),
        (FAULT, "0", "4 ] ]|3 ) ] )|2 [ !|no"),
        (FAULT, "2", "no"),
        (FAULT, "5", "no"),
        (FAULT, ")", "no"),
    ],
)
def test_known_tests_of_an_answer(problem, answer, lines):
    assert TASK.verify(problem, answer) == lines.replace("|", "\n")


@pytest.mark.parametrize("length", range(1, 5))
def test_the_test_of_every_place_agrees_with_a_plain_stack(length):
    for row in map("".join, product("([)]", repeat=length)):
        problem = Problem("brackets", 1, f"brackets fault {row}", "", "", "", "")
        for place in range(length + 2):
            right = place == plain_fault(row)
            assert TASK.verify(problem, str(place)).endswith("ok") == TASK.check(problem, str(place)) == right, row


def test_the_test_of_every_closing_agrees_with_the_checker():
    right = set()
    for count in range(1, 5):
        for answer in map(" ".join, product(")]}", repeat=count)):
            passed = TASK.check(CLOSE, answer)
            assert TASK.verify(CLOSE, answer).endswith("ok") == passed
            right |= {answer} if passed else set()
    assert right == {"} )"}


@pytest.mark.parametrize(
    ("problem", "text"),
    [
        (CLOSE, "} )"),
        (CLOSE, "})"),
        (CLOSE, "The missing brackets are } )."),
        (FAULT, "3"),
        (FAULT, "The position is 3."),
    ],
)
def test_right_forms(problem, text):
    assert TASK.check(problem, text)


@pytest.mark.parametrize("problem", [CLOSE, FAULT])
def test_wrong_forms(problem):
    for text in [*NEAR_MISSES, *wrong_texts(problem)]:
        assert not TASK.check(problem, text), text[:80]


def test_the_checker_does_not_trust_the_solver():
    assert not TASK.check(Problem("brackets", 1, "brackets close (", "", "", "", "]"), "]")
