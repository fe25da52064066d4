"""A log lives again to the bit; what differs is named, and another model is refused."""

import math
from dataclasses import replace

import pytest
import torch

from fathom.batching.plan import Sampled
from fathom.engine.engine import Engine, EngineConfig
from fathom.engine.record import StepLog, read_header, read_steps
from fathom.engine.replay import config_digest, describe_engine, probe, replay_log
from fathom.errors import InputError
from fathom.model import LatentCache, Transformer, init_weights
from tests.engine.tiny import CONFIG, request, run, tiny

PAGE_BYTES = LatentCache(CONFIG, 1, 4).page_bytes


def recorded(folder):
    """A log with preemptions, copies and pages that go to the spill file and come back."""
    limits = {"max_batch_tokens": 9, "max_sequences": 3, "page_tokens": 4, "num_pages": 12, "max_stretch": math.inf}
    spill = {"spill_path": str(folder / "spill"), "spill_bytes": 20 * PAGE_BYTES}
    engine = Engine(tiny(), config=EngineConfig(record=str(folder / "log"), **limits, **spill))
    prompts = [tuple(range(i, i + 9)) for i in range(4)]
    run(engine, [request(i, p, max_tokens=9, temperature=0.9, seed=i, logprobs=3) for i, p in enumerate(prompts)])
    run(engine, [request(9, prompts[0], max_tokens=2), request(10, prompts[0], max_tokens=9, temperature=0.9, seed=1)])
    stats = engine.stats()
    assert stats.preemptions and stats.copied_pages and stats.spilled_pages and stats.restored_pages
    return folder / "log", stats


def test_a_recorded_run_lives_again_with_the_same_tokens_and_the_same_bits(tmp_path):
    log, stats = recorded(tmp_path)
    found = replay_log(log, tiny())
    assert found.difference is None and found.same_model  # log-probabilities too, to the last bit
    assert (found.steps, found.tokens) == (stats.steps, stats.computed_tokens)
    records = list(read_steps(log))
    assert found.predicted == sum(record.predicted_s is not None for record in records) > 0
    assert found.error >= 0.0 and found.recorded_s == pytest.approx(sum(record.step_s for record in records))


def test_the_first_step_that_differs_is_named(tmp_path):
    log, _ = recorded(tmp_path)
    records = list(read_steps(log))
    changed = next(number for number, record in enumerate(records) if number > 3 and record.sampled)
    record = records[changed]
    other = Sampled((record.sampled[0].token_ids[0] + 1,))
    altered = StepLog(tmp_path / "altered", read_header(log))
    for number, each in enumerate(records):
        altered.write(replaced(each, (other, *each.sampled[1:])) if number == changed else each)
    found = replay_log(tmp_path / "altered", tiny())
    assert found.difference.step == record.plan.step and found.difference.place == 0
    assert found.difference.request_id == record.plan.sampling_rows[0].request_id
    assert (found.difference.recorded, found.difference.replayed) == (other, record.sampled[0])
    assert found.steps == changed + 1 and found.same_model


def replaced(record, sampled):
    return type(record)(record.plan, sampled, record.step_s, record.draft_s)


def test_other_weights_are_told_and_differ(tmp_path):
    log, _ = recorded(tmp_path)
    other = init_weights(Transformer(CONFIG, mtp=False), std=0.3, seed=2).eval().requires_grad_(False)
    found = replay_log(log, other)
    assert not found.same_model and found.difference is not None


def test_a_model_of_another_shape_is_refused(tmp_path):
    log, _ = recorded(tmp_path)
    wider = Transformer(replace(CONFIG, intermediate_size=64), mtp=False)
    with pytest.raises(InputError, match="another model"):
        replay_log(log, wider)


def test_the_header_stands_for_the_engine():
    cache = LatentCache(CONFIG, 7, 4)
    limits = Engine(tiny(), config=EngineConfig(num_pages=7, page_tokens=4)).scheduler.config
    header = describe_engine(tiny(), cache, limits)
    assert (header.page_tokens, header.num_pages, header.mtp, header.spill_slots) == (4, 7, False, 0)
    assert (header.config, header.probe) == (config_digest(CONFIG), probe(tiny()))


def test_a_probe_is_the_weights_to_the_bit():
    other = init_weights(Transformer(CONFIG, mtp=False), std=0.3, seed=1).eval().requires_grad_(False)
    assert probe(other) == probe(tiny())
    with torch.no_grad():
        other.lm_head.weight[5, 5] *= 1.0 + 2**-20
    assert probe(other) != probe(tiny())
