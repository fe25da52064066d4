"""A model that answers as a script says, and results to render and to pair."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from fathom.tasks import Problem
from fathom.think.modes import Mode

#: (problem, number of the answer) -> its text, and how many tokens of thought went before it
Script = Callable[[Problem, int], tuple[str, int]]


class Scripted:
    """Stands for an LLM whose prompts are the problems themselves (see `prompts_are_problems`)."""

    tokenizer = SimpleNamespace(end_think_id=7, settings={})

    def __init__(self, script: Script) -> None:
        self.script, self.asked = script, []

    def generate(self, prompts, params):
        answers = []
        for problem, one in zip(prompts, params, strict=True):
            text, thought = self.script(problem, len(self.asked))
            self.asked.append((problem, one))
            ids = tuple(range(thought + 4))
            usage = SimpleNamespace(reasoning_tokens=thought)
            reason = "length" if len(ids) >= one.max_tokens else "stop"
            answers.append(SimpleNamespace(text=text, token_ids=ids, usage=usage, finish_reason=reason))
        return answers


def prompts_are_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Mode, "prompt", lambda self, tokenizer, problem: problem)


def right(problem: Problem, number: int) -> tuple[str, int]:
    return problem.reply, 10
