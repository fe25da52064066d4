"""Facts of every family that thinks: languages, tests of answers, slips."""

from __future__ import annotations

import re
from random import Random

from fathom.tasks import Problem, Task

HAN = re.compile(r"[\u4e00-\u9fff]")


def samples(task: Task, level: int, count: int, seed: int = 0, language: str = "en") -> list[Problem]:
    rng = Random(seed)
    return [task.sample(rng, level, language) for _ in range(count)]


def languages_ask_the_same(task: Task, level: int) -> None:
    english, chinese = samples(task, level, 60), samples(task, level, 60, language="zh")
    assert [(p.key, p.trace, p.answer) for p in english] == [(p.key, p.trace, p.answer) for p in chinese]
    for one, two in zip(english, chinese, strict=True):
        assert one.prompt.isascii() and one.reply.isascii() and one.trace.isascii()
        assert HAN.search(two.prompt) and HAN.search(two.reply) and two.language == "zh"
        assert task.check(two, two.reply) and task.check(two, two.answer)
        assert task.check(one, two.reply)  # the language of a reply is judged elsewhere


def a_test_agrees_with_the_checker(task: Task, level: int) -> None:
    rng = Random(level)
    problems = samples(task, level, 60, seed=1)
    for at, problem in enumerate(problems):
        others = [problem.answer, problem.reply, problems[at - 1].answer, "", "x", f"{problem.answer} 1"]
        others += [changed(rng, problem.answer) for _ in range(5)]
        for answer in others:
            *_, last = task.verify(problem, answer).split("\n")
            assert last == ("ok" if task.check(problem, answer) else "no"), (problem, answer)


def changed(rng: Random, answer: str) -> str:
    at = rng.choice([at for at, sign in enumerate(answer) if sign != " "])
    return answer[:at] + rng.choice("123456") + answer[at + 1 :]


def slips_are_found(task: Task, level: int, share: float) -> None:
    """Args: share: of the problems, at least so many have a slip."""
    problems = samples(task, level, 60, seed=2)
    slips = [(problem, task.slip(Random(at), problem)) for at, problem in enumerate(problems)]
    found = [(problem, slip) for problem, slip in slips if slip is not None]
    assert len(found) >= share * len(problems)
    for problem, (trace, answer) in found:
        assert trace != problem.trace and trace.isascii()
        assert not task.check(problem, answer)
        assert task.verify(problem, answer).endswith("no")
    assert slips == [(problem, task.slip(Random(at), problem)) for at, problem in enumerate(problems)]
