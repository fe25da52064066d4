"""A Plan becomes tensors and back: each row in its pages, logits only where they are asked for."""

import pytest
import torch

from fathom.batching.plan import Plan, Row, Sampling
from fathom.batching.request import SamplingParams
from fathom.engine.engine import Engine, EngineConfig
from fathom.engine.runner import Runner
from fathom.engine.spill import LostPages, SpillFile
from fathom.errors import EngineError
from fathom.model import LatentCache, OneAtATime
from tests.engine.hashing import Hashing
from tests.engine.tiny import CONFIG, plain_logits, request, run, tiny


def runner():
    return Runner(OneAtATime(tiny()), LatentCache(CONFIG, 8, 4))


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


def test_a_sibling_samples_from_the_row_before_it():
    executor = runner()
    states = [Sampling(3, SamplingParams(seed=seed, logprobs=2)) for seed in range(3)]
    pages, prompt = (3,), (5, 9, 2)
    lone = [executor.execute(Plan(1, (Row("a", prompt, 0, pages, state),)))[0] for state in states]
    first, *others = states
    rows = [Row("other", (1, 2), 0, (6,)), Row("a", prompt, 0, pages, first)]
    rows += [Row(str(i), (), 3, pages, state) for i, state in enumerate(others)]
    rows.append(Row("late", (8, 1, 40), 0, (5,), greedy(3)))
    assert executor.execute(Plan(2, tuple(rows))) == [*lone, *executor.execute(Plan(3, (rows[-1],)))]
    assert len({answer.logprobs[0].logprob for answer in lone}) > 1


def test_pages_are_copied_before_anything_is_written():
    executor = runner()
    executor.execute(Plan(1, (Row("a", (5, 9, 2), 0, (3,)),)))
    before = [part.clone() for part in executor.cache.page(3)]
    row = Row("b", (7,), 3, (4,), greedy(4))
    (answer,) = executor.execute(Plan(2, (Row("a", (11,), 3, (3,)), row), copies=((3, 4),)))
    assert answer.token_ids[0] == best([5, 9, 2, 7])
    for copied, kept, own in zip(executor.cache.page(4), before, executor.cache.page(3), strict=True):
        assert torch.equal(copied[:, :3], kept[:, :3])
        assert not torch.equal(copied[:, 3], own[:, 3])


def test_moves_come_in_the_order_spills_copies_restores(tmp_path):
    executor = runner()
    cache = executor.cache
    executor.spill = SpillFile(tmp_path / "spill", 2 * cache.page_bytes, cache)
    for page in range(3):
        cache.latent[:, page] = page
    executor.execute(Plan(1, spills=((0, 1),)))
    executor.execute(Plan(2, spills=((1, 0),), copies=((2, 1),), restores=((1, 2),)))  # 1 -> file, 2 -> 1, file -> 2
    assert [float(cache.latent[0, page, 0, 0]) for page in range(3)] == [0.0, 2.0, 0.0]
    assert executor.restore_s > 0
    executor.execute(Plan(3, restores=((0, 0),)))
    assert float(cache.latent[0, 0, 0, 0]) == 1.0


def test_a_lost_page_voids_the_plan_before_anything_is_computed(tmp_path):
    executor = runner()
    executor.spill = SpillFile(tmp_path / "spill", 2 * executor.cache.page_bytes, executor.cache)
    executor.execute(Plan(1, spills=((0, 1),)))
    with pytest.raises(LostPages) as caught:
        executor.execute(Plan(2, (Row("a", (5, 9, 2), 0, (3,)),), restores=((0, 4), (1, 5))))
    assert caught.value.slots == (0,)
    assert not executor.cache.latent.any()
    with pytest.raises(EngineError, match="set spill_path"):
        runner().execute(Plan(1, spills=((0, 1),)))


class Counted(Hashing):
    """It counts its forwards."""

    def forward(self, tokens, batch, cache):
        self.made[0] += 1
        return super().forward(tokens, batch, cache)

    def predict_ahead(self, *args, **options):
        self.made[1] += 1
        return super().predict_ahead(*args, **options)


@pytest.mark.parametrize("spec", ["off", 1, 3, "auto"])
@pytest.mark.parametrize("pages", [24, 200])
def test_a_plan_knows_how_many_forwards_it_takes(spec, pages, monkeypatch):
    """Whoever shares experts with it makes as many."""
    counted, seen = Counted(right=5), set()
    worker = Engine(
        counted, config=EngineConfig(16, 5, page_tokens=2, num_pages=pages, spec=spec), eos_token_ids=(7,)
    )  # fmt: skip
    execute = Runner.execute

    def check(self, plan, *args):
        counted.made = [0, 0]
        found = execute(self, plan, *args)
        assert tuple(counted.made) == plan.forwards
        seen.add(plan.forwards)
        return found

    monkeypatch.setattr(Runner, "execute", check)
    prompts = [tuple(range(5 + i % 3, 5 + i % 3 + 3 * (i % 4 + 1))) for i in range(12)]  # siblings among them
    run(worker, [request(i, prompt, max_tokens=1 + i, seed=i, temperature=1.0) for i, prompt in enumerate(prompts)])
    assert Plan(1).forwards == Plan(1, copies=((1, 2),)).forwards == (0, 0)
    assert max(seen) == {"off": (1, 0), 1: (1, 1), 3: (1, 3)}.get(spec, max(seen)) and (spec != 3 or len(seen) > 2)
