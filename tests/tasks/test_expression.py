"""Expressions: their values, their steps, and no other text."""

from __future__ import annotations

from random import Random

import pytest

from fathom.tasks.expression import evaluate, worked
from tests.tasks.plain import value


@pytest.mark.parametrize(
    ("expression", "result", "numbers"),
    [
        ("1", 1, [1]),
        ("2 + 3 * 4", 14, [2, 3, 4]),
        ("(2 + 3) * 4", 20, [2, 3, 4]),
        ("9 - 3 - 2", 4, [9, 3, 2]),
        ("9 - (3 - 2)", 8, [9, 3, 2]),
        ("2*3*4 - 5*6", -6, [2, 3, 4, 5, 6]),
        (" ( ( 7 ) ) ", 7, [7]),
    ],
)
def test_the_value_of_an_expression(expression, result, numbers):
    assert evaluate(expression) == (result, numbers)


@pytest.mark.parametrize(
    "text", ["", " ", "1 +", "+1", "-1", "1 2", "(1", "1)", "()", "1 ** 2", "1 // 2", "a", "1;2", "1\n+2", "01"]
)
def test_what_is_no_expression_is_refused(text):
    with pytest.raises(ValueError, match="."):
        evaluate(text)


def test_expressions_agree_with_splitting():
    rng = Random(0)
    for _ in range(500):
        text = "".join(f"{rng.randint(0, 99)}{rng.choice('+-*')}" for _ in range(rng.randint(0, 6))) + str(
            rng.randint(0, 99)
        )
        assert evaluate(text)[0] == value(text)


def test_the_steps_are_in_the_order_in_which_they_are_done():
    assert worked("(12 - 3) * 7")[2] == ["12-3=9", "9*7=63"]
    assert worked("9 - (2 + 3) * 4 - 1")[2] == ["2+3=5", "5*4=20", "9-20=-11", "-11-1=-12"]
    assert worked("8")[2] == []
