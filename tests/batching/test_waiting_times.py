"""Nobody waits for long: not a stream for prompts, not a prompt for streams, not a low priority for a high one."""

from math import inf
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fathom.batching.limits import SchedulerConfig
from fathom.batching.plan import Sampled
from fathom.batching.request import Request, SamplingParams
from fathom.batching.scheduler import Scheduler
from fathom.batching.steptime import StepTime
from tests.batching.remembering import Remembering, planned, request, run
from tests.batching.test_scheduler import workloads

times = st.builds(
    StepTime,
    step_s=st.floats(0.1, 10),
    decode_s=st.floats(0, 2),
    decode_key_s=st.floats(0, 0.1),
    prompt_s=st.floats(0.01, 5),
    prompt_key_s=st.floats(0, 0.1),
    restore_s=st.floats(0.01, 5),
)


def cost_of(plan, streams, time):
    """What a plan takes, row by row, and what its streams would take alone."""
    alone_s = time.alone_s(len(streams), sum(row.start + 1 for row in plan.rows if row.request_id in streams))
    chunks = [row for row in plan.rows if row.request_id not in streams]
    return alone_s + sum(time.chunk_s(len(row.token_ids), row.start) for row in chunks), alone_s, chunks


@settings(max_examples=60)
@given(workloads(), times, st.sampled_from((1.0, 1.5, 2.0, 4.0)), st.integers(1, 4))
def test_the_time_between_two_tokens_of_a_stream_is_bounded(workload, time, stretch, least):
    """By `max_stretch` times what the streams take alone, or the least chunk's time (or one page's from the file)."""
    config, arrivals, _ = workload
    config = SchedulerConfig(
        config.max_batch_tokens, config.max_sequences, config.page_tokens, config.num_pages,
        priority_steps=config.priority_steps, spill_slots=config.spill_slots, max_stretch=stretch,
        min_chunk_tokens=least,
    )  # fmt: skip
    scheduler, model = Scheduler(config, (), time), Remembering(config)
    for step in range(2000):
        for each in arrivals.pop(step, ()):
            scheduler.add(each)
        if not scheduler.has_work and not arrivals:
            return
        streams = {s.request.id for s in scheduler.running if s.remaining == 1}
        plan = planned(scheduler)  # every stream that is not preempted gets its token
        streams -= set(plan.preempted)
        if streams:
            seconds, alone_s, chunks = cost_of(plan, streams, time)
            seconds += time.restore_s * len(plan.restores)
            excess = [time.chunk_s(least, max((row.start for row in chunks), default=0)), time.restore_s]
            assert seconds <= max(stretch * alone_s, alone_s + max(excess)) + 1e-6
            assert plan.predicted_s == pytest.approx(seconds)
            assert plan.limit_s == pytest.approx(stretch * alone_s)
        scheduler.update(plan, model.execute(plan))
    raise AssertionError("the scheduler does not come to an end")


def simulate(truth, streams, prompt_tokens, stretch=2.0, change=1.0):
    """A long prompt among streams, timed with noise; for each step with streams: (stretch, prompt tokens).

    change: everything takes so many times as long from step 80 on.
    """
    random, found = Random(1), []
    config = SchedulerConfig(512, 32, 16, 4096, max_stretch=stretch)
    scheduler, model = Scheduler(config, (), StepTime()), Remembering(config)
    for name in range(streams):
        scheduler.add(request(name, range(name, name + 20), max_tokens=3000, ignore_eos=True))
    for step in range(4000):
        if step == 50:
            scheduler.add(request("long", [i % 50 for i in range(prompt_tokens)], max_tokens=1))
        running = {s.request.id for s in scheduler.running if s.remaining == 1}
        plan = scheduler.schedule()
        seconds, alone_s, _ = cost_of(plan, running, truth)
        if step >= 50:
            found.append((seconds / alone_s, sum(len(row.token_ids) for row in plan.rows if row.request_id == "long")))
        noise = random.lognormvariate(0.0, 0.05) * (8.0 if random.random() < 0.01 else 1.0)
        scheduler.step_time.observe(plan, seconds * noise * (change if step >= 80 else 1.0))
        scheduler.update(plan, model.execute(plan))
        if step >= 50 and "long" not in scheduler.live:
            return found
    raise AssertionError("the prompt was starved")


@pytest.mark.parametrize("streams", [1, 8])
@pytest.mark.parametrize(
    "truth",
    [
        StepTime(1e-3, 2e-4, 1e-7, 2e-4, 0.0),
        StepTime(
            1e-3, 2e-4, 1e-7, 5e-5, 2e-7
        ),  # attention outweighs all else: the last chunks cost ten times the first
        StepTime(1e-2, 1e-4, 0.0, 1e-4, 0.0),  # hundreds of tokens at the price of a few streams
    ],
)
def test_a_long_prompt_is_read_at_the_pace_that_streams_allow_though_nothing_is_known_at_first(truth, streams):
    found = simulate(truth, streams, 4096)
    stretches = sorted(stretch for stretch, _ in found)
    assert stretches[int(0.95 * len(stretches))] < 2.2
    assert stretches[-1] < 2.5
    reading = [stretch for stretch, tokens in found if tokens]
    assert sum(reading) / len(reading) > 1.6  # what is allowed is used


@pytest.mark.parametrize("change", [0.5, 2.0, 4.0])
def test_a_machine_that_becomes_slower_or_faster_changes_the_pace_of_both_alike(change):
    """Slower steps that were charged to the prompts alone would leave these with one token a step for long."""
    truth = StepTime(1e-3, 1e-3, 1e-7, 7e-4, 4e-7)
    usual, changed = simulate(truth, 16, 4096), simulate(truth, 16, 4096, change=change)
    assert len(changed) < 1.2 * len(usual)
    stretches = sorted(stretch for stretch, _ in changed)
    assert stretches[int(0.95 * len(stretches))] < 2.2
    assert stretches[-1] < 2.6


def test_pages_are_read_back_at_the_pace_that_streams_allow():
    time = StepTime(step_s=1.0, prompt_s=1.0, restore_s=0.4)
    scheduler = Scheduler(SchedulerConfig(64, 4, 4, 14, spill_slots=20), (), time)
    model = Remembering(scheduler.config)
    long = request("long", range(41), max_tokens=1)
    run(scheduler, {0: [long]}, model=model)
    run(scheduler, {0: [request("other", [49] * 50, max_tokens=1)]}, model=model)  # drives it out of memory
    scheduler.add(request("stream", [1], max_tokens=15, ignore_eos=True))
    scheduler.update(plan := scheduler.schedule(), model.execute(plan))
    before = model.computed
    _, _, plans = run(scheduler, {0: [long]}, model=model)
    restored = [len(plan.restores) for plan in plans if "long" in scheduler.live or plan.restores]
    assert restored[:4] == [2, 2, 2, 2]  # in 0.8 of the 1.0 s that the stream waits at most
    assert sum(restored) in (9, 10)  # all, but for one that may have been in memory still
    assert model.computed - before == 14 + 1  # the stream's own, and one token of the prompt


def test_without_a_limit_prompts_fill_the_step():
    assert [tokens for _, tokens in simulate(StepTime(1e-3, 1e-4, 0, 1e-4), 2, 2000, inf)][:3] == [510, 510, 510]


def test_decodes_run_alone_now_and_then_and_prompts_still_advance():
    found = simulate(StepTime(1e-3, 2e-4, 0.0, 1e-3, 0.0), 4, 1000)
    waits = [index for index, (_, tokens) in enumerate(found) if tokens == 0]
    assert 0 < len(waits) < len(found) / 16
    assert all(tokens >= 1 for stretch, tokens in found if stretch > 1.0)


@settings(max_examples=60)
@given(st.integers(1, 4), st.integers(1, 8), st.integers(1, 3), st.integers(1, 3), st.integers(0, 10))
def test_no_priority_starves_another(gap, priority_steps, sequences, per_step, begin):
    """Whoever is served before a waiting request arrived at most gap * priority_steps steps after it."""
    config = SchedulerConfig(sequences + 3, sequences, 4, 8 * sequences, priority_steps=priority_steps)
    last = begin + gap * priority_steps
    arrivals = {
        step: [request(f"{step}.{i}", [step, i], max_tokens=2, ignore_eos=True) for i in range(per_step)]
        for step in range(last + 40)
    }
    arrivals[begin].append(request("low", [3], max_tokens=1, priority=gap))
    _, _, plans = run(Scheduler(config), arrivals)
    order = list(dict.fromkeys(row.request_id for plan in plans for row in plan.rows))
    assert all(int(name.split(".")[0]) <= last for name in order[: order.index("low")])


def test_a_flood_of_short_prompts_does_not_starve_a_long_one_nor_the_streams():
    config = SchedulerConfig(64, 8, 4, 256, max_stretch=1.1, min_chunk_tokens=4)
    time = StepTime(1.0, 0.1, 0.0, 0.1, 0.0)
    arrivals = {step: [request(step, [step % 50, 1, 2], max_tokens=4, ignore_eos=True)] for step in range(400)}
    arrivals[10].append(request("long", range(600), max_tokens=4, ignore_eos=True))
    _, _, plans = run(Scheduler(config, (), time), arrivals)
    steps = [plan.step for plan in plans if any(row.request_id == "long" for row in plan.rows)]
    assert steps == list(range(steps[0], steps[-1] + 1))  # it advances in every step from its first to its last
    assert steps[-1] - steps[0] < 600 / config.min_chunk_tokens


def test_where_nobody_reads_along_a_prompt_takes_the_whole_step():
    for streamed in (True, False):
        time = StepTime(step_s=1e-3, decode_s=1e-4, prompt_s=1e-4)
        scheduler = Scheduler(SchedulerConfig(256, 4, 16, 256, max_stretch=2.0), (), time)
        scheduler.add(Request("a", (1,), SamplingParams(max_tokens=50, ignore_eos=True), streamed=streamed))
        scheduler.update(scheduler.schedule(), [Sampled((5,))])
        scheduler.add(Request("b", tuple(range(1000)), SamplingParams(max_tokens=1)))
        plan = scheduler.schedule()
        assert plan.num_tokens == (256 if not streamed else 1 + 11), "1.1 ms more, at 0.1 ms a token"
