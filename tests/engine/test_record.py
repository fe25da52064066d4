"""The step log is the engine's life: it can be read back, and lived again."""

import math

import pytest

from fathom.batching.plan import Plan, Sampled
from fathom.engine.engine import Engine, EngineConfig
from fathom.engine.record import StepLog, StepRecord, read_steps, replay
from fathom.engine.runner import Runner
from fathom.engine.spill import SpillFile
from fathom.errors import InputError
from fathom.model import LatentCache
from tests.engine.tiny import CONFIG, request, run, tiny

PAGE_BYTES = LatentCache(CONFIG, 1, 4).page_bytes


def test_records_are_read_back_as_written(tmp_path):
    log = StepLog(tmp_path / "log")
    records = [StepRecord(Plan(step), (Sampled((step,)),), 0.5) for step in (1, 2)]
    for record in records:
        log.write(record)
    assert list(read_steps(tmp_path / "log")) == records


def test_a_torn_last_line_is_left_out(tmp_path):
    path = tmp_path / "log"
    log = StepLog(path)
    for step in (1, 2):
        log.write(StepRecord(Plan(step), (), 0.5))
    path.write_bytes(path.read_bytes()[:-9])
    assert [record.plan.step for record in read_steps(path)] == [1]


def test_a_damaged_line_is_named(tmp_path):
    path = tmp_path / "log"
    StepLog(path).write(StepRecord(Plan(1), (), 0.5))
    with path.open("ab") as file:
        file.write(b'{"plan": 3}\n')
    with pytest.raises(InputError, match="line 2"):
        list(read_steps(path))


def test_a_new_log_begins_anew(tmp_path):
    StepLog(tmp_path / "log").write(StepRecord(Plan(1), (), 0.5))
    StepLog(tmp_path / "log")
    assert list(read_steps(tmp_path / "log")) == []


def test_a_recorded_run_lives_again_with_the_same_tokens_and_the_same_bits(tmp_path):
    limits = {"max_batch_tokens": 9, "max_sequences": 3, "page_tokens": 4, "num_pages": 12, "max_stretch": math.inf}
    spill = {"spill_path": str(tmp_path / "spill"), "spill_bytes": 20 * PAGE_BYTES}
    engine = Engine(tiny(), config=EngineConfig(record=str(tmp_path / "log"), **limits, **spill))
    prompts = [tuple(range(i, i + 9)) for i in range(4)]
    run(engine, [request(i, p, max_tokens=9, temperature=0.9, seed=i, logprobs=3) for i, p in enumerate(prompts)])
    run(engine, [request(9, prompts[0], max_tokens=2), request(10, prompts[0], max_tokens=9, temperature=0.9, seed=1)])
    stats = engine.stats()
    assert stats.preemptions and stats.copied_pages and stats.spilled_pages and stats.restored_pages
    cache = LatentCache(CONFIG, 12, 4)
    runner = Runner(tiny(), cache, SpillFile(tmp_path / "spill", 20 * PAGE_BYTES, cache))
    steps = list(replay(read_steps(tmp_path / "log"), runner))
    assert len(steps) == engine.stats().steps
    assert all(record.sampled == again for record, again in steps)  # log-probabilities too, to the last bit
