"""What a model writes between <think> and </think>, made of the pieces that a task gives: concise, reflective, or as
long as it was told.

    384+2957 4+7=11 1        the trace
    ...
    check                    then, in a reflective thought, a test of the answer by another way
    3341-2957 ...
    ok

A reflective thought may begin with a slip: the test finds it (`no`), and after `again` comes the right trace.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from fathom.tasks.task import Problem, Task

SLIP_SHARE = 0.25
CHECK, AGAIN = "check", "again"


def concise(problem: Problem) -> str:
    """The trace alone."""
    return problem.trace


def reflective(task: Task, problem: Problem, rng: Random, slip_share: float = SLIP_SHARE) -> str:
    """The trace and its test; sometimes a slip, the test that finds it, and the trace anew."""
    tested = [problem.trace, CHECK, task.verify(problem, problem.answer)]
    slip = task.slip(rng, problem) if rng.random() < slip_share else None
    if slip is None:
        return "\n".join(tested)
    trace, answer = slip
    return "\n".join([trace, CHECK, task.verify(problem, answer), AGAIN, *tested])


def budgeted(task: Task, problem: Problem, budget: int, count: Callable[[str], int]) -> str:
    """A thought of at most `budget` tokens, and of nearly so many: the trace, cut where it must be, then tests of the
    answer over and over.

    Args: count: tokens of a text, with whatever its end costs.
    """
    lines: list[str] = []
    test = [CHECK, *task.verify(problem, problem.answer).split("\n")]
    source = problem.trace.split("\n")
    while True:
        for line in source:
            if count("\n".join([*lines, line])) > budget:
                return "\n".join(lines)
            lines.append(line)
        source = test
