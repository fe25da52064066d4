"""The planner's simulator and the engine take the same decisions on the same trace: one scheduler, one policy."""

import random

from fathom.batching import Request, SamplingParams
from fathom.engine import Engine, EngineConfig
from fathom.engine.record import read_steps
from fathom.plan.simulate import Lane, drive
from tests.engine.tiny import CONFIG, tiny


def requests(count: int) -> list[tuple[int, Request]]:
    """(step before which it comes, request): prompts that share beginnings, and lengths that need chunks."""
    chance = random.Random(11)
    found = []
    for index in range(count):
        prompt = [7] * chance.choice((0, 8)) + [
            chance.randrange(2, CONFIG.vocab_size) for _ in range(chance.randint(3, 40))
        ]
        params = SamplingParams(max_tokens=chance.randint(1, 12), temperature=0.0, ignore_eos=True)
        found.append((chance.randint(0, 30), Request(f"r{index}", tuple(prompt), params)))
    return sorted(found, key=lambda pair: pair[0])


def test_the_simulator_decides_what_the_engine_decided(tmp_path) -> None:
    """The engine runs and logs its steps; the simulator gets the arrivals, the times of the steps and the tokens."""
    limits = {"max_batch_tokens": 24, "max_sequences": 6, "page_tokens": 4, "num_pages": 40, "max_stretch": 1.5}
    log = tmp_path / "steps"
    engine = Engine(tiny(), config=EngineConfig(**limits, record=str(log)))
    waiting, step, now = requests(24), 0, 0.0
    arrivals = []
    while waiting or engine.has_work:
        while waiting and (waiting[0][0] <= step or not engine.has_work):
            _, request = waiting.pop(0)
            engine.add(request)
            arrivals.append((now, request))
        engine.step()
        step, now = step + 1, now + engine.step_s
    records = list(read_steps(log))
    seconds = iter([record.step_s for record in records])
    said = {
        (row.request_id, row.start + len(row.token_ids)): sampled
        for record in records
        for row, sampled in zip(record.plan.sampling_rows, record.sampled, strict=True)
    }
    plans = []
    lane = Lane(engine.scheduler.config)
    drive(
        [lane], iter(arrivals), lambda made: next(seconds),
        lambda row: said[row.request_id, row.start + len(row.token_ids)],
        told=lambda made, outputs: plans.append(made[0]),
    )  # fmt: skip
    assert plans == [record.plan for record in records]
    assert len(plans) > 40 and any(len(plan.rows) > 1 for plan in plans)
    assert lane.scheduler.preemptions == engine.scheduler.preemptions
    assert lane.scheduler.prefix_hit_tokens == engine.scheduler.prefix_hit_tokens > 0
