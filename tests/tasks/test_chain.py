"""Chains: true steps in the order asked, results below the modulus, strict answers."""

from __future__ import annotations

import re
from random import Random

import pytest

from fathom.tasks.chain import MODULI, STEPS, TEMPLATES, TEMPLATES_ZH, Chain
from fathom.tasks.task import Problem
from tests.tasks.plain import value

TASK = Chain()
LINE = re.compile(r"(\d+)([-+*]\d)=(-?\d+)(?: ([-+]\d+)=(\d+))?")
PROBLEM = Problem("chain", 1, "chain 7 +5 *3 -4 mod 10", "", "", "", "2")


@pytest.mark.parametrize("level", TASK.levels)
def test_every_step_is_true_and_in_the_order_asked(level):
    rng = Random(level)
    for _ in range(500):
        sample = TASK.sample(rng, level)
        _, start, *steps, _, modulus = sample.key.split(" ")
        assert STEPS[level][0] <= len(steps) <= STEPS[level][1]
        assert MODULI[level][0] <= int(modulus) <= MODULI[level][1]
        lines = sample.trace.split("\n")
        assert len(lines) == len(steps)
        result = start
        for line, step in zip(lines, steps, strict=True):
            before, done, raw, shift, reduced = LINE.fullmatch(line).groups()
            assert (before, done) == (result, step)
            assert int(raw) == value(before + done)
            if shift is None:
                assert 0 <= int(raw) < int(modulus)
            else:
                assert not 0 <= int(raw) < int(modulus)
                assert int(shift) % int(modulus) == 0
                assert int(reduced) == int(raw) + int(shift)
            result = reduced or raw
            assert 0 <= int(result) < int(modulus)
        assert sample.answer == result


def test_every_wording_occurs_and_names_all_numbers():
    rng = Random(0)
    samples = [TASK.sample(rng, 4, language) for language in ("en", "zh") for _ in range(400)]
    for sample in samples:
        assert sorted(re.findall(r"\d+", sample.prompt)) == sorted(re.findall(r"\d+", sample.key))
    for *_, template in TEMPLATES + TEMPLATES_ZH:
        assert any(sample.prompt.startswith(template.partition("{")[0]) for sample in samples)


def test_a_known_trace():
    rng = Random(0)
    while not (sample := TASK.sample(rng, 1)).key.startswith("chain 2 -5 *"):
        pass
    assert sample.trace.startswith("2-5=-3 +10=7\n7*")


@pytest.mark.parametrize("text", ["2", "2.", "The result is 2.", "The result is 2", "结果是2。", "结果是2"])
def test_right_forms(text):
    assert TASK.check(PROBLEM, text)


@pytest.mark.parametrize(
    "text",
    [
        "3",
        "12",
        "32",
        "02",
        "-8",
        "2 modulo 10",
        "The result is 2 or 3.",
        "the result 2",
        "2 2",
        "结果是3。",
        "结果2",
        "结果是二",
        "结果是结果是2",
        "是2",
    ],
)
def test_wrong_forms(text):
    assert not TASK.check(PROBLEM, text)


def test_the_checker_does_not_trust_the_solver():
    assert not TASK.check(Problem("chain", 1, "chain 7 +5 mod 10", "", "", "", "3"), "3")


def test_a_test_walks_on_the_other_side_of_zero():
    assert TASK.verify(PROBLEM, "2") == "-3+5=2 -10=-8\n-8*3=-24 +20=-4\n-4-4=-8\n-8+10=2\n2=2\nok"
    assert TASK.verify(PROBLEM, "结果是4。").endswith("\n2<4\nno")
    assert TASK.verify(PROBLEM, "12").endswith("\n2<12\nno")


def test_every_equation_of_a_test_is_true():
    rng = Random(7)
    for _ in range(300):
        sample = TASK.sample(rng, 4)
        *lines, _, _ = TASK.verify(sample, sample.answer).split("\n")
        for line in lines:
            before, done, raw, shift, reduced = re.fullmatch(
                r"(-?\d+)([-+*]\d+)=(-?\d+)(?: ([-+]\d+)=(-?\d+))?", line
            ).groups()
            expected = int(before) * int(done[1:]) if done[0] == "*" else int(before) + int(done)
            assert int(raw) == expected
            assert shift is None or int(reduced) == int(raw) + int(shift)


def test_slips_leave_a_step_out_turn_a_sign_or_are_one_off():
    found = {TASK.slip(Random(seed), PROBLEM) for seed in range(200)}
    assert ("7+5=12 -10=2\n2*3=6", "6") in found
    assert ("7-5=2\n2*3=6\n6-4=2", "2") not in found
    assert ("7+5=12 -10=2\n2*3=7\n7-4=3", "3") in found
    assert ("7+5=12 -10=2\n2*3=6\n6+4=10 -10=0", "0") in found
