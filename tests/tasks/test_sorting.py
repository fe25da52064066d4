"""Sorting: every line a sorted list with one number more, strict answers."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from fathom.tasks.sorting import LARGEST, LENGTHS, TEMPLATES, Sorting
from fathom.tasks.task import Problem

TASK = Sorting()
PROBLEM = Problem("sorting", 2, "sorting up 42 7 93 7", "", "", "", "7, 7, 42, 93")


@pytest.mark.parametrize("level", TASK.levels)
def test_every_line_puts_the_next_number_in_its_place(level):
    rng = Random(level)
    for _ in range(300):
        sample = TASK.sample(rng, level)
        _, direction, *given = sample.key.split(" ")
        assert LENGTHS[level][0] <= len(given) <= LENGTHS[level][1]
        assert all(0 <= int(number) <= LARGEST[level] for number in given)
        first, *lines = sample.trace.split("\n")
        assert first == given[0]
        for count, line in enumerate(lines, start=2):
            number, _, done = line.partition(": ")
            values = [int(part) for part in done.split(" ")]
            assert number == given[count - 1]
            assert Counter(values) == Counter(map(int, given[:count]))
            pairs = list(zip(values, values[1:], strict=False))
            assert all(a >= b if direction == "down" else a <= b for a, b in pairs)
        assert sample.answer.split(", ") == done.split(" ")


def test_both_directions_every_wording_and_repeated_numbers_occur():
    rng = Random(0)
    samples = [TASK.sample(rng, 1) for _ in range(800)]
    assert 100 < sum(sample.key.startswith("sorting down") for sample in samples) < 300
    assert any(len(set(sample.answer.split(", "))) < len(sample.answer.split(", ")) for sample in samples)
    samples += [TASK.sample(rng, 1, "zh") for _ in range(400)]
    for template in (template for both in TEMPLATES.values() for templates in both for template in templates):
        before, _, after = template.partition("{numbers}")
        assert any(s.prompt.startswith(before) and s.prompt.endswith(after) for s in samples), template


def test_the_prompt_says_the_direction():
    rng = Random(1)
    for _ in range(300):
        sample = TASK.sample(rng, 2, rng.choice(("en", "zh")))
        says = ("descending", "largest to smallest", "high to low", "从大到小", "降序")
        says_down = any(word in sample.prompt for word in says)
        assert says_down == sample.key.startswith("sorting down")


@pytest.mark.parametrize("text", ["7, 7, 42, 93", "7 7 42 93", "7,7,42,93.", " 7, 7, 42, 93\n"])
def test_right_forms(text):
    assert TASK.check(PROBLEM, text)


@pytest.mark.parametrize(
    "text",
    ["93, 42, 7, 7", "7, 42, 93", "7, 7, 7, 42, 93", "07, 7, 42, 93", "7, 7, 93, 42", "7, 7, 42, 93,", "[7, 7, 42, 93]",
     "7, 7, 42, 9 3", "7,, 7, 42, 93", "Sorted: 7, 7, 42, 93"],
)  # fmt: skip
def test_wrong_forms(text):
    assert not TASK.check(PROBLEM, text)


def test_the_checker_does_not_trust_the_solver():
    assert not TASK.check(Problem("sorting", 1, "sorting up 2 1", "", "", "", "2, 1"), "2, 1")


@pytest.mark.parametrize(
    ("answer", "test"),
    [
        ("7, 7, 42, 93", "7 1\n=7 2\n<42 3\n<93 4\n42:3 7:1 93:4 7:2\n4=4\nok"),
        ("7, 42, 7, 93", "7 1\n<42 2\n>7 3\nno"),
        ("7, 42, 93", "7 1\n<42 2\n<93 3\n42:2 7:1 93:3 7:-\nno"),
        ("7, 7, 42, 93, 94", "7 1\n=7 2\n<42 3\n<93 4\n<94 5\n42:3 7:1 93:4 7:2\n4<5\nno"),
        ("7, 7, 42, 93, x", "no"),
    ],
)
def test_a_test_walks_the_neighbours_and_ticks_off_the_list(answer, test):
    assert TASK.verify(PROBLEM, answer) == test


def test_slips_put_a_number_one_place_off_or_lose_one():
    rng = Random(5)
    kinds = Counter()
    for _ in range(300):
        sample = TASK.sample(rng, 2)
        trace, answer = TASK.slip(rng, sample)
        right, wrong = (Counter(text.split(", ")) for text in (sample.answer, answer))
        kinds["lost" if sum((right - wrong).values()) == 1 else "misplaced"] += 1
        assert not wrong - right
        assert trace.split("\n")[-1].partition(": ")[2] == answer.replace(",", "")
    assert min(kinds["lost"], kinds["misplaced"]) > 50
