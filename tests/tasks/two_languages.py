"""What every family of problems in two languages must keep."""

from __future__ import annotations

from random import Random

from fathom.tasks import Task


def assert_family_holds(task: Task, level: int) -> None:
    """Same problems in both languages; right replies; tests and slips that agree with the checker."""
    english, chinese, rng = Random(level), Random(level), Random(100 + level)
    slips = 0
    for _ in range(150):
        one, two = task.sample(english, level), task.sample(chinese, level, "zh")
        assert (one.language, two.language) == ("en", "zh")
        assert (one.key, one.trace, one.answer) == (two.key, two.trace, two.answer)
        assert one.prompt.isascii() and not two.prompt.isascii()
        assert one.reply.isascii() and not two.reply.isascii()
        assert one.trace.isascii()
        for problem, other in ((one, two), (two, one)):
            assert task.check(problem, problem.reply), problem
            assert task.check(problem, problem.answer), problem
            assert task.check(problem, other.reply), problem  # the language of a reply is judged elsewhere
            assert task.verify(problem, problem.answer).split("\n")[-1] == "ok", problem
        if (slip := task.slip(rng, one)) is not None:
            slips += 1
            trace, answer = slip
            assert trace != one.trace
            assert not task.check(one, answer), (one, slip)
            assert task.verify(one, answer).split("\n")[-1] == "no", (one, slip)
    assert slips > 75  # most problems can be got wrong
    assert english.random() == chinese.random()
