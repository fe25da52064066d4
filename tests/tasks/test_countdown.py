"""Countdown: the trace is the search, the checker reads any right expression and no other text."""

from __future__ import annotations

import re
from itertools import permutations
from random import Random

import pytest

from fathom.tasks.countdown import LARGEST_NUMBER, LARGEST_TARGET, LONGEST_SEARCH, TEMPLATES, TEMPLATES_ZH, Countdown
from fathom.tasks.expression import evaluate
from fathom.tasks.task import Problem
from tests.tasks.plain import value

TASK = Countdown()
FIRST = re.compile(r"(\d+[-+*]\d+)=(\d+) (\d+)((?: [-+*](?:\d+|big))+)( yes)?")
PROBLEM = Problem("countdown", 2, "countdown 3 7 12 > 63", "", "", "", "(12 - 3) * 7")


def samples(level: int, count: int, seed: int = 0):
    rng = Random(seed)
    return [TASK.sample(rng, level) for _ in range(count)]


@pytest.mark.parametrize("level", (1, 2, 3))
def test_every_line_of_the_search_is_true(level):
    for sample in samples(level, 300):
        _, *numbers, _, target = sample.key.split(" ")
        assert max(map(int, numbers)) <= LARGEST_NUMBER[level] and 1 <= int(target) <= LARGEST_TARGET[level]
        header, *lines = sample.trace.split("\n")
        assert sorted(header.split(" > ")[0].split(" "), key=int) == numbers and header.endswith(f" > {target}")
        for line in lines:
            if line.endswith(" big") and "=" not in line:
                assert value(line.removesuffix(" big")) > 99
                continue
            step, first, left, leaves, hit = FIRST.fullmatch(line).groups()
            assert value(step) == int(first) >= 0
            assert sorted([*re.findall(r"\d+", step), left], key=int) == numbers
            for operator, shown in re.findall(r"([-+*])(\w+)", leaves):
                high, low = sorted((int(first), int(left)), reverse=True)
                result = value(f"{high}{operator}{low}")
                assert shown == ("big" if operator == "*" and result > 99 else str(result))
                assert (shown == target) <= (hit is not None)
            assert (hit is not None) == (line == lines[-1])
            assert hit is None or leaves.endswith(target)


@pytest.mark.parametrize("level", (1, 2, 3))
def test_the_search_takes_first_steps_in_a_fixed_order(level):
    for sample in samples(level, 200, seed=1):
        header, *lines = sample.trace.split("\n")
        a, b, c = header.split(" > ")[0].split(" ")
        expected = [(sorted(pair), operator) for pair in ((a, b), (a, c), (b, c)) for operator in "+-*"]
        taken = [re.match(r"(\d+)([-+*])(\d+)", line).groups() for line in lines]
        assert [(sorted((x, y)), operator) for x, operator, y in taken] == expected[: len(taken)]


@pytest.mark.parametrize("level", (1, 2, 3))
def test_parentheses_stand_only_where_they_change_the_meaning(level):
    for sample in samples(level, 500):
        if "(" in sample.answer:
            assert re.fullmatch(r"\(\d+ [-+] \d+\) \* \d+|\d+ - \(\d+ [-+] \d+\)", sample.answer), sample.answer
        else:
            assert evaluate(sample.answer)[0] == value(sample.answer.replace(" ", ""))
        assert sample.reply == f"{sample.answer} = {sample.key.split(' ')[-1]}"


def test_four_numbers_are_searched_step_by_step():
    for sample in samples(4, 150):
        assert len(sample.trace) < LONGEST_SEARCH + 50
        header, *lines = sample.trace.split("\n")
        given = sorted(map(int, header.split(" > ")[0].split(" ")))
        _, *numbers, _, target = sample.key.split(" ")
        assert given == list(map(int, numbers)) and len(given) == 4
        hand = given
        for line in lines:
            step, equals, rest = line.partition("=")
            assert equals or line.endswith(" big")
            if not equals:
                continue
            result, *others = rest.split(" ")
            assert value(step) == int(result)
            left = [int(other) for other in others if other.isdigit()]
            if len(left) == 2:  # from four numbers to three
                assert sorted([*map(int, re.findall(r"\d+", step)), *left]) == given
                hand = sorted([int(result), *left])
            else:
                assert sorted([*map(int, re.findall(r"\d+", step)), *left]) == hand
        assert lines[-1].endswith(f"{target} yes")
        assert evaluate(sample.answer)[0] == int(target)


def test_a_known_search_with_four_numbers():
    problem = Problem("countdown", 4, "countdown 3 4 6 9 > 39", "", "4 9 3 6 > 39", "", "(6 - 3) * (4 + 9)")
    assert TASK.verify(problem, problem.answer) == "6: 3 4 9\n3: 4 9\n4: 9\n9:\n6-3=3\n4+9=13\n3*13=39\n39=39\nok"


@pytest.mark.parametrize(
    ("answer", "test"),
    [
        ("(12 - 3) * 7", "12: 3 7\n3: 7\n7:\n12-3=9\n9*7=63\n63=63\nok"),
        ("12 * 7 - 3", "12: 3 7\n7: 3\n3:\n12*7=84\n84-3=81\n81>63\nno"),
        ("9 * 7", "9: -\nno"),
        ("12 - 3", "12: 3 7\n3: 7\nno"),
        ("(12 - 3) * 7 = 64", "no"),
    ],
)
def test_a_test_ticks_off_the_numbers_and_works_the_answer_out(answer, test):
    assert TASK.verify(PROBLEM, answer) == test


def test_a_slip_changes_one_result():
    rng = Random(3)
    for sample in samples(2, 100, seed=3):
        slip = TASK.slip(rng, sample)
        if slip is None:
            continue
        lines, right = (text.split("\n") for text in (slip[0], sample.trace))
        assert lines[0] == right[0] and lines[-1].endswith(" yes")
        same = next(i for i, (a, b) in enumerate(zip(lines, [*right, ""], strict=False)) if a != b)
        wrong = [line for line in lines[same : same + 1] if not _is_true(line)]
        assert len(wrong) == 1, (slip, sample)


def _is_true(line: str) -> bool:
    if line.endswith(" big") and "=" not in line:
        return True
    step, first, left, leaves, _ = FIRST.fullmatch(line).groups()
    high, low = sorted((int(first), int(left)), reverse=True)
    shown = re.findall(r"([-+*])(\d+)", leaves)
    return value(step) == int(first) and all(value(f"{high}{sign}{low}") == int(result) for sign, result in shown)


def test_every_chinese_wording_occurs():
    rng = Random(4)
    prompts = [TASK.sample(rng, 1, "zh").prompt for _ in range(200)]
    for template in TEMPLATES_ZH:
        pattern = re.sub(r"\\{\w+\\}", r"[0-9 ,，、和]+", re.escape(template))
        assert any(re.fullmatch(pattern, prompt) for prompt in prompts), template


def test_wordings_and_orders_of_numbers_are_one_problem():
    keys: dict[str, set[str]] = {}
    starts = set()
    for sample in samples(1, 4000):
        keys.setdefault(sample.key, set()).add(sample.prompt)
        starts.add(next(t for t in TEMPLATES if sample.prompt.startswith(t.partition("{")[0])))
    assert len(starts) >= 6
    orders = {tuple(re.findall(r"\d+", prompt)) for prompts in keys.values() for prompt in prompts}
    assert any(len({o for o in permutations(order) if o in orders}) > 2 for order in orders)


@pytest.mark.parametrize(
    "text",
    ["(12 - 3) * 7 = 63", "7 * (12 - 3)", "7×(12-3)", "(12 - 3) * 7 = 63.", "((12) - (3)) * 7", "(12-3)*7"],
)
def test_right_forms(text):
    assert TASK.check(PROBLEM, text)


@pytest.mark.parametrize(
    "text",
    ["63", "12 * 7 - 3 * 7", "(12 - 3) * 7 = 64", "(12 - 3) * 7 = 63 = 63", "(12 - 3) * 7 =", "12 - 3 * 7", "(12 - 3)7",
     "(12 - 3) * 7 + 0", "(12 - 3) ** 7", "(12 - 3) * 7 # 63", "(12 - 3 * 7", "12 - 3) * 7", "-(3 - 12) * 7",
     "63 = (12 - 3) * 7",
     "(12 - 3) / 7", "() * 7", "(12 - 3) * ", "(1 2 - 3) * 7", "(12 - 3) * 07", "(12 - 3) * 7 = 063", "(12 - 3) * 7_0"],
)  # fmt: skip
def test_wrong_forms(text):
    assert not TASK.check(PROBLEM, text)


def test_the_checker_does_not_trust_the_solver():
    assert not TASK.check(Problem("countdown", 1, "countdown 1 2 3 > 7", "", "", "", "1 + 2 + 3"), "1 + 2 + 3")
