"""Gcd: true lines, the gcd of the library, tests that tell right from wrong."""

from __future__ import annotations

import math
import re
from random import Random

import pytest

from fathom.tasks.gcd import LARGEST, Gcd
from fathom.tasks.task import Problem
from tests.tasks.hostile import wrong_texts
from tests.tasks.two_languages import assert_family_holds

TASK = Gcd()
LINE = re.compile(r"(\d+)\*(\d+)=(\d+) (\d+)-(\d+)=(\d+)")
PROBLEM = Problem("gcd", 1, "gcd 84 36", "", "36*2=72 84-72=12\n12*3=36 36-36=0", "The gcd is 12.", "12")


@pytest.mark.parametrize("level", TASK.levels)
def test_the_family_holds_in_both_languages(level):
    assert_family_holds(TASK, level)


@pytest.mark.parametrize("level", TASK.levels)
def test_every_line_is_true_and_hands_its_numbers_on(level):
    rng = Random(level)
    for _ in range(300):
        sample = TASK.sample(rng, level)
        _, *numbers = sample.key.split(" ")
        pair = tuple(map(int, numbers))
        assert LARGEST[level] >= pair[0] > pair[1] > 0
        for line in sample.trace.split("\n"):
            b, part, product, a, same, rest = map(int, LINE.fullmatch(line).groups())
            assert (a, b) == pair and same == product
            assert product == b * part <= a < product + b * 10 ** (len(str(part)) - 1)
            assert rest == a - product
            pair = (max(rest, b), min(rest, b))
        assert pair[1] == 0
        assert sample.answer == str(pair[0]) == str(math.gcd(*map(int, numbers)))


def test_a_quotient_of_two_digits_takes_two_lines():
    rng = Random(0)
    while (sample := TASK.sample(rng, 2)).key != "gcd 117 9":
        pass
    assert sample.trace == "9*10=90 117-90=27\n9*3=27 27-27=0"


@pytest.mark.parametrize(
    ("answer", "lines"),
    [
        ("12", "12*7=84 84-84=0|12*3=36 36-36=0|7 3=3|7%3=1|ok"),
        ("6", "6*10=60 84-60=24|6*4=24 24-24=0|6*6=36 36-36=0|14 6=2*3|14%2=0|no"),
        ("36", "36*2=72 84-72=12|no"),
        ("90", "90*0=0 84-0=84|no"),
        ("0", "no"),
        ("two", "no"),
    ],
)
def test_known_tests_of_an_answer(answer, lines):
    assert TASK.verify(PROBLEM, answer) == lines.replace("|", "\n")


def test_the_test_of_every_answer_agrees_with_the_library():
    for a in range(2, 40):
        for b in range(1, a):
            problem = Problem("gcd", 1, f"gcd {a} {b}", "", "", "", str(math.gcd(a, b)))
            for answer in range(a + 2):
                right = answer == math.gcd(a, b)
                assert TASK.verify(problem, str(answer)).endswith("ok") == TASK.check(problem, str(answer)) == right


@pytest.mark.parametrize("text", ["12", "12.", "The gcd is 12.", "The gcd is 12"])
def test_right_forms(text):
    assert TASK.check(PROBLEM, text)


@pytest.mark.parametrize("text", ["6", "012", "gcd 12", "the gcd is 12", "答案：最大公约数是12。"])
def test_wrong_forms(text):
    assert not TASK.check(PROBLEM, text)


def test_hostile_forms():
    for text in wrong_texts(PROBLEM):
        assert not TASK.check(PROBLEM, text), text[:80]


def test_the_checker_does_not_trust_the_solver():
    assert not TASK.check(Problem("gcd", 1, "gcd 84 36", "", "", "", "6"), "6")
