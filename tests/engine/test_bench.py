"""What is measured is the real engine at the shape that was asked for. No test here looks at how fast it is."""

import pytest
import torch

from fathom.engine.bench import Bench, Dictated, Spread, Watched, compare_drafting
from fathom.engine.engine import Engine, EngineConfig
from fathom.errors import ConfigError, EngineError
from fathom.model import LatentCache
from tests.engine.tiny import CONFIG, tiny


@pytest.fixture(autouse=True)
def one_thread():
    """A tiny model gains nothing from a second thread, and loses much to any neighbour."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def watch_plans(bench):
    """The plans that the bench's engine executes from now on."""
    plans, execute = [], bench.runner.execute

    def watched(plan):
        plans.append(plan)
        return execute(plan)

    bench.runner.execute = watched
    return plans


def test_a_spread_is_of_all_samples():
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0, (3.0, 1.0, 2.0))


@pytest.mark.parametrize(("sequences", "context", "tokens"), [(1, 0, 3), (1, 40, 6), (5, 33, 4)])
def test_decoding_steps_have_all_sequences_at_their_contexts(sequences, context, tokens):
    bench = Bench(tiny(), sequences, context, tokens)
    plans = watch_plans(bench)
    speed = bench.decode(repeats=2)
    decodes = [p for p in plans if len(p.rows) == sequences and all(len(row.token_ids) == 1 for row in p.rows)]
    last = decodes[-tokens:]
    first = max(1, context)
    assert [[row.start for row in plan.rows] for plan in last] == [[first + i] * sequences for i in range(tokens)]
    assert len(speed.tokens_per_s.samples) == 2
    for rate, step_ms in zip(speed.tokens_per_s.samples, speed.ms_per_step.samples, strict=True):
        assert rate == pytest.approx(1e3 * sequences / step_ms)
    assert 0.0 < speed.ms_in_model.median <= speed.ms_per_step.median


def test_what_is_fed_is_random_and_seeded():
    fed = []
    for seed in (0, 0, 1):
        bench = Bench(tiny(), tokens=24, seed=seed)
        plans = watch_plans(bench)
        bench.decode(repeats=1)
        fed.append([row.token_ids for plan in plans[-24:] for row in plan.rows])
    assert fed[0] == fed[1] != fed[2]
    assert len(set(fed[0])) > 12  # of 24 draws from 64: a model left to itself repeats two or three


def test_no_prompt_of_a_prefill_is_found_in_the_cache():
    bench = Bench(tiny(), context=48)
    speed = bench.prefill(repeats=3)
    assert bench.engine.stats().prefix_hit_tokens == 0
    assert bench.engine.stats().computed_tokens == 4 * 48
    for rate, ms in zip(speed.tokens_per_s.samples, speed.ms_per_step.samples, strict=True):
        assert rate == pytest.approx(48e3 / ms)


@pytest.mark.parametrize(("options", "word"), [
    ({"sequences": 0}, "sequences is 0"), ({"context": -1}, "context is -1"), ({"tokens": 0}, "tokens is 0"),
    ({"context": 250, "tokens": 8}, "need 259 positions; the model has 256"),
])  # fmt: skip
def test_what_cannot_be_measured_is_refused(options, word):
    with pytest.raises(ConfigError, match=word):
        Bench(tiny(), **options)


def test_a_step_that_is_not_what_it_should_be_is_no_sample():
    bench = Bench(tiny(), sequences=2)
    with pytest.raises(EngineError, match="fewer than its 2 sequences"):
        bench._step(2)  # nothing was added


def test_a_dictated_runner_computes_in_full():
    runner = Dictated(tiny(), LatentCache(CONFIG, 4, 16)).dictate(seed=0)
    engine = Engine(tiny(), config=EngineConfig(num_pages=4, spec="off"))
    plain = engine.runner
    assert isinstance(runner.model, Watched) and runner.model.config is plain.model.config
    assert runner.model_s == 0.0


@pytest.mark.parametrize("together", [1, 2, 3])
def test_drafting_is_compared_text_by_text(together):
    def engine():
        return Engine(tiny(), config=EngineConfig(num_pages=16, spec="off"))

    prompts = {"one": [[1, 2, 3], [4, 5]], "two": [[7]]}
    found = dict(compare_drafting(engine(), engine(), prompts, max_tokens=6, repeats=2, together=together))
    assert list(found) == ["one", "two"]
    assert found["one"].tokens == 12 and found["two"].tokens == 6
    assert all(each.identical and each.acceptance == () for each in found.values())
    assert len(found["one"].plain.samples) == len(found["one"].drafted.samples) == 2
