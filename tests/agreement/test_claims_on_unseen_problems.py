"""No problem that a claim is measured on is read in training: both sets are drawn as they are there, and compared."""

import hashlib
from collections.abc import Callable
from random import Random

import pytest

from fathom import tasks
from fathom.config import find_model
from fathom.posttrain import traces
from fathom.posttrain.prompts import ProblemConfig, draw_prompt
from fathom.posttrain.reject import RejectConfig, draw_problems
from fathom.think.evaluate import EvalConfig, draw
from fathom.tokenizer import Tokenizer
from fathom.train.data import Stage, draw_text

SEEDS = (1, 20_26)  # of evaluations: recipes/speedrun-*.toml, the model card
EVERY = {family: list(task.levels) for family, task in tasks.FAMILIES.items()}


def name(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def claimed(split: str) -> set[str]:
    found = set()
    for seed in SEEDS:
        config = EvalConfig(n=1, seed=seed, split=split)
        for family, level, language, _ in config.cells():
            found |= {name(problem.key) for problem in draw(config, family, level, language)}
    return found


@pytest.fixture(scope="module")
def claims() -> set[str]:
    return claimed("test") | claimed("validation")


def pretraining() -> None:
    rng = Random(0)
    for _ in range(1000):
        draw_text(rng, Stage())


def cold_start() -> None:
    traces.build(traces.TraceConfig(samples=200), Tokenizer.load(find_model("nano")))


def reinforcement() -> None:
    config = ProblemConfig(levels=EVERY, chinese=0.3)
    tokenizer = Tokenizer.load(find_model("nano"))
    for place in range(500):
        draw_prompt(config, tokenizer, f"0/0/0/{place}")


def rejection() -> None:
    draw_problems(RejectConfig(count=200))


@pytest.mark.parametrize("source", [pretraining, cold_start, reinforcement, rejection])
def test_a_stage_reads_no_problem_of_a_claim(
    source: Callable[[], None], claims: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: set[str] = set()
    real = tasks.draw

    def noting(*args, **options):
        problem = real(*args, **options)
        read.add(name(problem.key))
        return problem

    monkeypatch.setattr(tasks, "draw", noting)
    source()
    assert len(read) > 100
    assert read & claims == set()


def test_problems_that_are_not_kept_apart_do_meet(claims: set[str]) -> None:
    """The comparison above can fail: on small levels, draws of one split share problems."""
    rng = Random(5)
    again = {name(tasks.draw("chain", 1, "test", rng).key) for _ in range(500)}
    assert again & claims
