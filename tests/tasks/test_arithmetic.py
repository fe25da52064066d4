"""Arithmetic: true columns, all wordings, no credit for near answers."""

from __future__ import annotations

import re
from random import Random

import pytest

from fathom.tasks.arithmetic import OWN_TEMPLATES, OWN_TEMPLATES_ZH, TEMPLATES, TEMPLATES_ZH, Arithmetic
from fathom.tasks.task import Problem
from tests.tasks.plain import value

TASK = Arithmetic()
LINE = re.compile(r"(\d+)([-+*])(\d+) (\S+) (\d+)")


def problem(key: str, answer: str) -> Problem:
    return Problem("arithmetic", 3, key, "", "", "", answer)


def problems(count: int, seed: int = 0):
    rng = Random(seed)
    return [TASK.sample(rng, level) for _ in range(count) for level in TASK.levels]


def test_every_equation_of_a_trace_is_true():
    for sample in problems(500):
        for equation in re.findall(r"\S+=\S+", sample.trace):
            sides = equation.split("=")
            assert len({value(side) for side in sides}) == 1, (equation, sample)


def test_every_line_follows_from_the_one_above():
    for sample in problems(500, seed=1):
        above = None
        for line in sample.trace.split("\n"):
            match = LINE.fullmatch(line)
            if match is None:
                above = None
                continue
            a, operator, b, column, done = match.groups()
            total = column.split("=")[-1]
            if above is not None:
                assert int(a) == above[0] // 10
                assert int(b) == (above[1] if operator == "*" else above[1] // 10)
                assert done == (total if int(a) < 10 and (operator == "*" or int(b) < 10) else total[-1]) + above[2]
                above = (int(a), int(b), done)
            assert column[0] == a[-1] or column.startswith(f"1{a[-1]}"), (line, sample)
            is_last = int(a) < 10 and (operator == "*" or int(b) < 10)
            above = None if is_last else (int(a), int(b), done)


def test_a_trace_ends_in_the_answer():
    for sample in problems(1000, seed=2):
        _, a, operator, b = sample.key.split(" ")
        assert int(sample.trace.rpartition(" ")[2]) == int(sample.answer) == value(f"{a}{operator}{b}")


def test_the_trace_of_a_known_sum():
    rng = Random(0)
    while (sample := TASK.sample(rng, 1)).key != "arithmetic 8 + 57":
        pass
    assert sample.trace in ("57+8 7+8=15 5\n5+0 5+0+1=6 65", "8+57 8+7=15 5\n0+5 0+5+1=6 65")


def test_all_operators_lengths_and_wordings_occur():
    samples = problems(1500, seed=3)
    assert {sample.key.split(" ")[2] for sample in samples} == set("+-*")
    sums = [sample.key.split(" ") for sample in samples if "+" in sample.key]
    assert {(len(a), len(b)) for _, a, _, b in sums} >= {(1, 1), (3, 4), (2, 5), (5, 5)}
    starts = {
        template.partition("{")[0] for template in (*TEMPLATES, *(t for own in OWN_TEMPLATES.values() for t in own))
    }
    assert all(any(sample.prompt.startswith(start) for sample in samples) for start in starts)
    assert any("×" in sample.prompt for sample in samples) and any(" x " in sample.prompt for sample in samples)


def test_every_chinese_wording_occurs():
    rng = Random(5)
    prompts = [TASK.sample(rng, 2, "zh").prompt for _ in range(600)]
    for template in (*TEMPLATES_ZH, *(t for own in OWN_TEMPLATES_ZH.values() for t in own)):
        pattern = re.sub(r"\\{\w+\\}", r"(?:[0-9]+| ?[-+*×x] ?|[加减乘])", re.escape(template))
        assert any(re.fullmatch(pattern, prompt) for prompt in prompts), template


def test_the_order_of_terms_is_not_part_of_the_problem():
    for sample in problems(300, seed=4):
        _, a, operator, b = sample.key.split(" ")
        assert operator == "-" or int(a) <= int(b)
        assert operator != "-" or int(a) >= int(b)


@pytest.mark.parametrize("text", ["3341", "3341.", "384 + 2957 = 3341", "2957+384=3341"])
def test_right_forms_of_a_sum(text):
    assert TASK.check(problem("arithmetic 384 + 2957", "3341"), text)


@pytest.mark.parametrize(
    "text",
    ["3342", "03341", "3341 or 3342", "384 + 2957", "384 - 2957 = 3341", "384 * 2957 = 3341", "385 + 2956 = 3341",
     "3,341",
     "384 + 2957 = 3341 = 3341", "= 3341", "3 341", "384 + 2957 == 3341", "1 + 384 + 2957 = 3341"],
)  # fmt: skip
def test_wrong_forms_of_a_sum(text):
    assert not TASK.check(problem("arithmetic 384 + 2957", "3341"), text)


def test_a_difference_is_not_turned_round():
    difference = problem("arithmetic 9 - 4", "5")
    assert TASK.check(difference, "9 - 4 = 5")
    assert not TASK.check(difference, "4 - 9 = 5")


@pytest.mark.parametrize("text", ["7 × 8 = 56", "8 * 7 = 56", "7x8=56"])
def test_any_sign_of_times(text):
    assert TASK.check(problem("arithmetic 7 * 8", "56"), text)


def test_the_checker_does_not_trust_the_solver():
    assert not TASK.check(problem("arithmetic 2 + 2", "5"), "5")


@pytest.mark.parametrize(
    ("key", "answer", "test"),
    [
        ("384 + 2957", "3341",
         "3341-2957 11-7=4 4\n334-295 14-5-1=8 84\n33-29 13-9-1=3 384\n3-2 3-2-1=0 0384\n384=384\nok"),
        ("8 + 57", "64", "64-57 14-7=7 7\n6-5 6-5-1=0 07\n7<8\nno"),
        ("8 + 57", "8 + 57 = 5", "5<57\nno"),
        ("57 - 8", "49", "49+8 9+8=17 7\n4+0 4+0+1=5 57\n57=57\nok"),
        ("7 * 384", "2688", "2688 26/7=3 5 3\n588 58/7=8 2 38\n28 28/7=4 0 384\n384=384\nok"),
        ("7 * 201", "1407", "1407 14/7=2 0 2\n07 0/7=0 0 20\n7 7/7=1 0 201\n201=201\nok"),
        ("4 * 607", "2428", "2428 24/4=6 0 6\n28 2/4=0 2 60\n28 28/4=7 0 607\n607=607\nok"),
        ("7 * 384", "2690", "2690 26/7=3 5 3\n590 59/7=8 3 38\n30 30/7=4 2 384\nno"),
        ("0 * 7", "0", "7*0 7*0=0 0\n0=0\nok"),
    ],
)  # fmt: skip
def test_a_test_goes_back(key, answer, test):
    assert TASK.verify(problem(f"arithmetic {key}", ""), answer) == test


def test_long_products_are_worked_out_with_the_factors_swapped():
    lines = TASK.verify(problem("arithmetic 12 * 34", "408"), "408").split("\n")
    assert lines[0] == "12*34=12*4+12*30"
    assert lines[-2:] == ["408=408", "ok"]


def test_every_equation_of_a_test_is_true():
    for sample in problems(150, seed=6):
        for equation in re.findall(r"\S+=\S+", TASK.verify(sample, sample.answer).rpartition("\n")[0]):
            left, right = equation.split("=")[0], equation.split("=")[-1]
            expected = int(left.split("/")[0]) // int(left.split("/")[1]) if "/" in left else value(left)
            assert expected == value(right), (equation, sample)


def test_a_slip_forgets_a_carry_where_there_is_one():
    trace = "57+8 7+8=15 5\n5+0 5+0=5 55"
    assert TASK.slip(Random(0), Problem("arithmetic", 1, "arithmetic 8 + 57", "", "57+8 ...", "", "65")) == (
        trace,
        "55",
    )


def test_a_product_with_nothing_has_no_slip():
    assert TASK.slip(Random(0), problem("arithmetic 0 * 7", "0")) is None


@pytest.mark.parametrize("digit", range(1, 10))
def test_a_quotient_and_its_remainder_are_right(digit):
    for product in range(0, 9000, 7):
        lines = TASK.verify(problem(f"arithmetic {digit} * 10000", ""), str(product)).split("\n")
        assert lines[-1] == "no"
        last = lines[-2] if product % digit else lines[-3]
        *_, remainder, quotient = last.split(" ")
        assert (int(quotient), int(remainder)) == divmod(product, digit)
