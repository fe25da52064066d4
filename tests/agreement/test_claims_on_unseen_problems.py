"""No problem that a claim is measured on is read in training: both sets are drawn as they are there, and compared."""

import hashlib
from random import Random

import pytest

from fathom import tasks
from fathom.think.evaluate import EvalConfig, draw
from fathom.train.data import Stage, draw_text

SEEDS = (0, 1, 20_26)  # of evaluations: the default, another, the model card's


def name(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def claimed(split: str = "test") -> set[str]:
    found = set()
    for seed in SEEDS:
        config = EvalConfig(n=20, seed=seed, split=split)
        for family, level, language, _ in config.cells():
            found |= {name(problem.key) for problem in draw(config, family, level, language)}
    return found


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Fills with every problem that is drawn while something is made to train on."""
    seen: set[str] = set()
    real = tasks.draw

    def draw(*args, **options):
        problem = real(*args, **options)
        seen.add(name(problem.key))
        return problem

    monkeypatch.setattr(tasks, "draw", draw)
    return seen


def test_pretraining_reads_no_problem_of_a_claim(read: set[str]) -> None:
    rng, stage = Random(0), Stage()
    for _ in range(4000):
        draw_text(rng, stage)
    trained = set(read)
    assert len(trained) > 2000
    assert trained & claimed("test") == set()
    assert trained & claimed("validation") == set()
    assert trained & claimed("train"), "problems of the train split do meet: this test can fail"
