"""Parity: groups in their order, running parities, counts from the right."""

from __future__ import annotations

import re
from random import Random

import pytest

from fathom.tasks.parity import LENGTHS, TEMPLATES, Parity
from fathom.tasks.task import Problem
from tests.tasks.hostile import wrong_texts
from tests.tasks.two_languages import assert_family_holds

TASK = Parity()
LINE = re.compile(r"(\d) ([01]{1,4}) ([01]) ([01])")
PROBLEM = Problem("parity", 1, "parity 1011011001", "", "1 1011 1 1\n2 0110 0 1\n3 01 1 0", "The parity is 0.", "0")


@pytest.mark.parametrize("level", TASK.levels)
def test_the_family_holds_in_both_languages(level):
    assert_family_holds(TASK, level)


@pytest.mark.parametrize("level", TASK.levels)
def test_every_line_adds_its_group(level):
    rng = Random(level)
    for _ in range(300):
        sample = TASK.sample(rng, level)
        bits = sample.key.split(" ")[1]
        assert LENGTHS[level][0] <= len(bits) <= LENGTHS[level][1]
        seen = ""
        for number, line in enumerate(sample.trace.split("\n"), 1):
            place, group, own, parity = LINE.fullmatch(line).groups()
            seen += group
            assert (place, own, parity) == (str(number), str(sum(map(int, group)) % 2), str(sum(map(int, seen)) % 2))
        assert seen == bits
        assert sample.answer == parity


def test_every_wording_occurs_and_shows_the_groups():
    for language, templates in TEMPLATES.items():
        rng = Random(0)
        samples = [TASK.sample(rng, 2, language) for _ in range(200)]
        for sample in samples:
            assert " ".join(re.findall("[01]{1,4}", sample.key)) in sample.prompt
        for template in templates:
            assert any(sample.prompt.endswith(template.partition("{bits}")[2]) for sample in samples)


def test_known_tests_of_an_answer():
    lines = "3 01 1 1\n2 0110 2 3\n1 1011 3 6\n6=3*2+0\n"
    assert TASK.verify(PROBLEM, "0") == lines + "ok"
    assert TASK.verify(PROBLEM, "1") == lines + "no"
    assert TASK.verify(PROBLEM, "even") == lines + "no"


@pytest.mark.parametrize("text", ["0", "0.", "The parity is 0."])
def test_right_forms(text):
    assert TASK.check(PROBLEM, text)


@pytest.mark.parametrize("text", ["1", "00", "even", "答案：奇偶位是0。", "The parity is 1."])
def test_wrong_forms(text):
    assert not TASK.check(PROBLEM, text)


def test_hostile_forms():
    for text in wrong_texts(PROBLEM):
        assert not TASK.check(PROBLEM, text), text[:80]


def test_the_checker_does_not_trust_the_solver():
    assert not TASK.check(Problem("parity", 1, "parity 10", "", "", "", "0"), "0")
