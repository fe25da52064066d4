"""Bases: true lines, numbers as Python reads them, strict answers."""

from __future__ import annotations

import re
from random import Random

import pytest

from fathom.tasks.bases import BASES, LARGEST, Bases
from fathom.tasks.task import Problem
from tests.tasks.hostile import wrong_texts
from tests.tasks.two_languages import assert_family_holds

TASK = Bases()
SUM = re.compile(r"(\d+)\*(\d+)=(\d+)\+(\d+)=(\d+)(?: [0-9A-F]+)?")
DIVISION = re.compile(r"(\d+)\*(\d+)=(\d+) (\d+)-(\d+)=(\d+) ([0-9A-F]+)")
PROBLEM = Problem("bases", 4, "bases 1011 2 3", "", "1 011\n1*2=2+0=2 11\n...", "The result is 102.", "102")


@pytest.mark.parametrize("level", TASK.levels)
def test_the_family_holds_in_both_languages(level):
    assert_family_holds(TASK, level)


@pytest.mark.parametrize("level", TASK.levels)
def test_every_line_is_true_and_the_answer_is_the_same_number(level):
    rng = Random(level)
    for _ in range(300):
        sample = TASK.sample(rng, level)
        _, digits, one, two = sample.key.split(" ")
        bases = {int(one), int(two)}
        assert bases - {10} <= set(BASES[level]) and (10 in bases) == (level < 4) and len(bases) == 2
        number = int(digits, int(one))
        assert number <= LARGEST[level]
        assert int(sample.answer, int(two)) == number
        for line in sample.trace.split("\n"):
            if match := SUM.fullmatch(line):
                a, base, product, b, total = map(int, match.groups()[:5])
                assert (base, a * base, product + b) == (int(one), product, total)
            elif match := DIVISION.fullmatch(line):
                a, base, product, total, same, b = map(int, match.groups()[:6])
                assert (base, a * base, product) == (int(two), product, same) and total - product == b < base
                assert int(match[7], base) == number % base ** len(match[7])
            else:
                assert line in (f"{digits[0]} {digits[1:]}", f"{digits[0]}={int(digits[0], 16)} {digits[1:]}")


def test_a_known_trace():
    rng = Random(0)
    while (sample := TASK.sample(rng, 1)).key != "bases 45 10 3":
        pass
    assert sample.trace == "15*3=45 45-45=0 0\n5*3=15 15-15=0 00\n1*3=3 5-3=2 200\n0*3=0 1-0=1 1200"


@pytest.mark.parametrize(
    ("key", "answer", "lines"),
    [
        (
            "bases 1011 2 3",
            "102",
            "1 02|1*3=3+0=3 2|3*3=9+2=11|5*2=10 11-10=1 1|2*2=4 5-4=1 11|1*2=2 2-2=0 011|0*2=0 1-0=1 1011|1011 1011|ok",
        ),
        ("bases 45 10 16", "2D", "2 D|2*16=32+13=45|45 45|ok"),
        ("bases 45 10 16", "A", "A=10|10 45|no"),
        ("bases 20 3 10", "7", "2*3=6 7-6=1 1|0*3=0 2-0=2 21|21 20|no"),
        ("bases 1011 2 3", "103", "no"),  # no digit of base 3
        ("bases 1011 2 3", "0102", "no"),
        ("bases 1011 2 3", "", "no"),
    ],
)
def test_known_tests_of_an_answer(key, answer, lines):
    assert TASK.verify(Problem("bases", 1, key, "", "", "", ""), answer) == lines.replace("|", "\n")


@pytest.mark.parametrize("text", ["102", "102.", "The result is 102.", "The result is 102"])
def test_right_forms(text):
    assert TASK.check(PROBLEM, text)


@pytest.mark.parametrize("text", ["11", "0102", "1011", "102 (base 3)", "0x102", "1_02", "答案：结果是102。"])
def test_wrong_forms(text):
    assert not TASK.check(PROBLEM, text)


def test_hexadecimal_digits_are_capitals():
    problem = Problem("bases", 3, "bases 45 10 16", "", "", "", "2D")
    assert TASK.check(problem, "2D")
    assert not TASK.check(problem, "2d")


def test_hostile_forms():
    for text in wrong_texts(PROBLEM):
        assert not TASK.check(PROBLEM, text), text[:80]


def test_the_checker_does_not_trust_the_solver():
    assert not TASK.check(Problem("bases", 1, "bases 11 2 10", "", "", "", "4"), "4")
