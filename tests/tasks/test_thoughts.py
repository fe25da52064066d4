"""Thoughts: made of a task's pieces, a slip found by its test, never longer than their budget."""

from __future__ import annotations

from random import Random

import pytest

from fathom.tasks import FAMILIES
from fathom.tasks.thoughts import AGAIN, CHECK, budgeted, concise, reflective

FAMILY = pytest.mark.parametrize("family", FAMILIES)


def problems(family: str, count: int = 15):
    rng = Random(2)
    task = FAMILIES[family]
    return [(task, task.sample(rng, task.levels[i % len(task.levels)])) for i in range(count)]


def characters(text: str) -> int:
    return len(text) + 1


@FAMILY
def test_a_concise_thought_is_the_trace(family):
    for _, problem in problems(family):
        assert concise(problem) == problem.trace


@FAMILY
def test_a_reflective_thought_without_a_slip_ends_in_a_test_that_passes(family):
    for task, problem in problems(family):
        lines = reflective(task, problem, Random(1), slip_share=0.0).split("\n")
        assert "\n".join(lines).startswith(f"{problem.trace}\n{CHECK}\n")
        assert lines.count("ok") == 1 and lines[-1] == "ok"
        assert "no" not in lines and AGAIN not in lines


@FAMILY
def test_a_slip_is_found_and_followed_by_the_right_trace(family):
    found = 0
    for seed, (task, problem) in enumerate(problems(family, 30)):
        thought = reflective(task, problem, Random(seed), slip_share=1.0)
        lines = thought.split("\n")
        assert lines.count("no") == lines.count(AGAIN) <= 1
        if AGAIN in lines:
            found += 1
            assert lines[lines.index(AGAIN) - 1] == "no"
            assert f"\n{AGAIN}\n{problem.trace}\n{CHECK}\n" in thought
            assert lines.count(CHECK) == 2
        else:
            assert thought == reflective(task, problem, Random(seed), slip_share=0.0)
        assert lines[-1] == "ok"
    assert found >= 8


@FAMILY
def test_a_share_of_thoughts_has_a_slip(family):
    thoughts = [reflective(task, problem, Random(i)) for i, (task, problem) in enumerate(problems(family, 60))]
    assert 1 <= sum(f"\n{AGAIN}\n" in thought for thought in thoughts) <= 28


@FAMILY
def test_a_budget_is_never_exceeded_and_nearly_used(family):
    for task, problem in problems(family):
        whole = [*problem.trace.split("\n"), CHECK, *task.verify(problem, problem.answer).split("\n")]
        longest = max(len(line) for line in whole) + 1
        for budget in (0, 1, 10, 40, 100, 400, 1000):
            thought = budgeted(task, problem, budget, characters)
            assert thought == "" or characters(thought) <= budget
            assert budget - characters(thought) <= longest


def test_a_thought_is_cut_after_a_whole_line_and_tests_come_over_and_over():
    task, problem = problems("chain", 1)[0]
    trace, test = problem.trace, f"{CHECK}\n{task.verify(problem, problem.answer)}"
    twice = f"{trace}\n{test}\n{test}"
    assert budgeted(task, problem, characters(twice), characters) == twice
    for budget in range(characters(twice)):
        thought = budgeted(task, problem, budget, characters)
        assert thought == "" or f"{twice}\n".startswith(f"{thought}\n")
