"""A model that answers as a script says, and results to render and to pair."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest

from fathom.batching import ThinkingParams
from fathom.tasks import Problem
from fathom.think.evaluate import EvalConfig, run
from fathom.think.modes import Mode
from fathom.think.results import Result
from fathom.train import ledger as ledger_module
from fathom.train.ledger import Ledger

MODES = tuple(Mode.effort(name) for name in ("own", "none"))
BUDGETS = (Mode.forced(8), Mode.forced(16), Mode.asked_for(20), Mode.asked_for(40), Mode.budget(30))
CONFIG = EvalConfig(families=("chain", "sorting"), levels=(1,), modes=MODES, n=6)

#: (problem, number of the answer) -> its text, and how many tokens of thought went before it
Script = Callable[[Problem, int], tuple[str, int]]


class Scripted:
    """Stands for an LLM whose prompts are the problems themselves (see `prompts_are_problems`)."""

    tokenizer = None
    engine = SimpleNamespace(context_tokens=2048)

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
    def ask(mode, tokenizer, context_tokens, problem, max_tokens):
        return problem, None if mode.limit is None else ThinkingParams(7, mode.limit)

    monkeypatch.setattr(Mode, "ask", ask)


def right(problem: Problem, number: int) -> tuple[str, int]:
    return problem.reply, 10


def make_run(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two stages with ledgers, three evaluations: before, after, and one with samples."""
    prompts_are_problems(monkeypatch)
    seconds = count(1000)
    monkeypatch.setattr(ledger_module, "time", SimpleNamespace(time=lambda: float(next(seconds))))
    for stage, key in (("base", "loss"), ("grpo", "reward")):
        ledger = Ledger(directory / stage)
        ledger.append("start", step=0)
        for step in range(1, 6):
            ledger.append("step", step=step, tokens_per_s=1000.0, **{key: 0.5 + step / 7})
        ledger.close()
    ledger = Ledger(directory)
    ledger.append("stage", stage="cold start", seconds=12.0, model="sft/model")
    ledger.close()

    def half(problem, number):
        return (problem.reply if number % 2 else "no"), 10 + number

    def evaluation(name, script, config, time_s):
        made = Result.of("nano", config, run(Scripted(script), config))
        replace(made, time_s=time_s).write(directory / f"{name}.eval.json")

    evaluation("base", half, replace(CONFIG, modes=MODES + BUDGETS), 1.0)
    evaluation("distil", right, replace(CONFIG, modes=MODES + BUDGETS), 2.0)
    evaluation("samples", half, replace(CONFIG, modes=MODES[:1], samples=4, temperature=1.0), 3.0)
    return directory
