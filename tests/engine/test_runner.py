"""A Plan becomes tensors and back: each row in its pages, logits only where they are asked for."""

import torch

from fathom.batching.plan import Plan, Row, Sampling
from fathom.batching.request import SamplingParams
from fathom.engine.runner import Runner
from fathom.model import LatentCache
from tests.engine.tiny import CONFIG, plain_logits, tiny


def runner():
    return Runner(tiny(), LatentCache(CONFIG, 8, 4))


def greedy(position):
    return Sampling(position, SamplingParams(temperature=0.0))


def best(tokens):
    return int(plain_logits(tokens).argmax())


def test_rows_of_different_kinds_in_one_plan():
    executor = runner()
    a, b, c = [5, 9, 2, 7, 11, 3], [8, 1, 40], [6, 6, 6, 1]
    assert executor.execute(Plan(1, (Row("a", tuple(a[:5]), 0, (3, 0)),))) == []
    plan = Plan(
        2,
        (
            Row("a", (a[5],), 5, (3, 0), greedy(6)),  # the last token of a prompt, alone
            Row("b", tuple(b[:2]), 0, (7,)),  # a chunk that does not sample
            Row("c", tuple(c), 0, (1,), greedy(4)),
        ),
    )
    assert [s.token_ids[0] for s in executor.execute(plan)] == [best(a), best(c)]
    (answer,) = executor.execute(Plan(3, (Row("b", (b[2],), 2, (7,), greedy(3)),)))
    assert answer.token_ids == (best(b),)


def test_a_plan_can_be_executed_twice():
    executor = runner()
    plan = Plan(1, (Row("a", (5, 9, 2), 0, (3,), Sampling(3, SamplingParams(seed=4, logprobs=5))),))
    assert executor.execute(plan) == executor.execute(plan)


def test_only_the_pages_of_the_plan_are_written():
    executor = runner()
    executor.execute(Plan(1, (Row("a", (5, 9, 2), 0, (3,)),)))
    written = executor.cache.latent.abs().sum(dim=(0, 3)) > 0
    expected = torch.zeros(8, 4, dtype=torch.bool)
    expected[3, :3] = True
    assert torch.equal(written, expected)


def test_logits_are_computed_for_sampling_rows_only(monkeypatch):
    executor, seen = runner(), []
    logits = executor.model.logits
    monkeypatch.setattr(executor.model, "logits", lambda hidden: seen.append(len(hidden)) or logits(hidden))
    executor.execute(Plan(1, (Row("a", (5, 9, 2), 0, (3,)), Row("b", (1, 2, 3, 4), 0, (4,), greedy(4)))))
    executor.execute(Plan(2, (Row("a", (5, 9), 3, (3, 5)),)))
    assert seen == [1]


def test_an_empty_plan_computes_nothing():
    assert runner().execute(Plan(1)) == []
