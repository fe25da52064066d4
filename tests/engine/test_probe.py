"""What a profile rests on is the real engine at the sizes that were asked for. No test looks at how fast it is."""

import pytest

from fathom.engine import probe as room
from fathom.engine.probe import (
    ATTENTION,
    DECODED,
    FEWEST,
    FORWARD_ROWS,
    Forward,
    Kernel,
    Probe,
    Size,
    count_kernels,
    kernels,
    measure,
)
from fathom.errors import ConfigError
from tests.engine.tiny import tiny
from tests.model.packing import open_model
from tests.ops.conftest import library, native

__all__ = ["library", "native"]
STEPS = [Size(3, 1, 40), Size(1, 1, 7), Size(1, 24, 32), Size(1, 16, 0)]


class Ticks:
    """A clock that moves on by one at each look."""

    def __init__(self):
        self.now = 0

    def __call__(self):
        self.now += 1
        return float(self.now)


def watched(probe):
    """The plans that the probe's engine executes from now on."""
    plans, execute = [], probe.engine.runner.execute
    probe.engine.runner.execute = lambda plan: (plans.append(plan), execute(plan))[1]
    return plans


def test_a_decode_is_measured_with_all_sequences_at_their_contexts():
    probe = Probe(tiny(), STEPS)
    plans = watched(probe)
    whole, logged = probe.sample(STEPS[0])
    last = [[(row.start, len(row.token_ids)) for row in plan.rows] for plan in plans[-DECODED:]]
    first = last[0][0][0]
    assert 40 <= first <= 40 + 4 and last == [[(first + i, 1)] * 3 for i in range(DECODED)]
    assert 0.0 < logged <= whole


@pytest.mark.parametrize("step", STEPS[2:])
def test_a_chunk_is_measured_after_its_context_and_never_found_in_the_cache(step):
    probe = Probe(tiny(), STEPS)
    plans = watched(probe)
    for _ in range(2):
        probe.sample(step)
        (row,) = plans[-1].rows
        assert (row.start, len(row.token_ids)) == (step.context, step.tokens)
    assert plans[-1].rows[0].token_ids != plans[-2].rows[0].token_ids


@pytest.mark.parametrize("sampling", ["greedy", "drawn", "filtered"])
def test_tokens_are_chosen_as_asked(sampling):
    size = Size(2, 1, 20, sampling)
    probe = Probe(tiny(), [size])
    plans = watched(probe)
    probe.sample(size)
    params = plans[-1].rows[0].sampling.params
    assert (params.temperature > 0.0, params.top_p < 1.0) == (sampling != "greedy", sampling == "filtered")


def test_contexts_are_computed_once():
    probe = Probe(tiny(), STEPS)
    measure(probe, 1)
    before = probe.engine.stats().computed_tokens
    probe.sample(STEPS[0])
    # of each text of 40 tokens: the last 8, which fill no page, twice; then the steps themselves
    assert probe.engine.stats().computed_tokens - before <= 3 * (2 * 16 + 4 + DECODED)


def test_all_points_take_turns_and_count_with_their_medians(monkeypatch):
    probe, seen = Probe(tiny(), STEPS), []
    times = iter(float(i) for i in range(100))
    monkeypatch.setattr(probe, "sample", lambda step: (next(times), 0.5))
    found = measure(probe, 3, seen=lambda step, turn, seconds: seen.append((STEPS.index(step), turn)))
    assert [turn for _, turn in seen] == [0] * 4 + [1] * 4 + [2] * 4
    turns = [[step for step, turn in seen if turn == this] for this in range(3)]
    assert [sorted(turn) for turn in turns] == [[0, 1, 2, 3]] * 3 and len(set(map(tuple, turns))) == 3
    for step, sample in enumerate(found):  # the clock counts samples
        assert sample.samples == tuple(float(seen.index((step, turn))) for turn in range(3))
        assert (sample.seconds, sample.logged_s) == (sorted(sample.samples)[1], 0.5)


def test_of_a_kernel_counts_the_shortest_turn_and_of_a_difference_the_median(monkeypatch, native):
    taken = iter([[Kernel("read", s), Kernel("attention", 2 * s)] for s in (3.0, 1.0, 50.0)])
    monkeypatch.setattr(room, "_kernels", lambda model, clock: next(taken))
    assert [kernel.seconds for kernel in kernels(open_model(tiny(), "i8"))] == [1.0, 6.0]


def test_turns_end_with_the_time_but_some_are_always_taken():
    found = measure(Probe(tiny(), STEPS[1:2]), 50, seconds=0.0)
    assert len(found[0].samples) == FEWEST
    with pytest.raises(ConfigError, match="at least 1"):
        measure(Probe(tiny(), STEPS[1:2]), 0)


def test_a_clock_is_read_around_each_step():
    assert Probe(tiny(), STEPS, clock=Ticks()).sample(STEPS[1])[0] == 1.0


@pytest.mark.parametrize(
    ("step", "message"),
    [(Size(1, 1, 250), "the model has 256"), (Size(2, 24, 0), "one sequence"), (Size(1, 24, 30), "whole pages")],
)
def test_what_cannot_be_measured_is_refused(step, message):
    with pytest.raises(ConfigError, match=message):
        Probe(tiny(), [step])


# ---- kernels -------------------------------------------------------------------------------------------------------


def test_a_profile_has_some_twenty_kernels(native, monkeypatch):
    monkeypatch.setattr(room, "FOOTPRINTS", (1 << 16,))
    monkeypatch.setattr(room, "step_s", lambda kind, reads, threads: 1e-5)
    monkeypatch.setattr(room, "ENOUGH_S", 0.0)
    monkeypatch.setattr(room, "FORWARD_ROWS", (1, 8))
    found = list(kernels(open_model(tiny(), "i8")))
    names = [kernel.name for kernel in found]
    assert names == ["read"] + ["product"] * 3 + ["forward"] * 2 + ["attention"] * 6 + ["drawn", "filtered"]
    assert all(kernel.seconds > 0.0 for kernel in found) and len(found) == count_kernels()
    assert found[0] == Kernel("read", 1e-5, bytes=1 << 16)
    longest = tiny().config.max_position_embeddings
    assert longest < 2 * 256  # shorter than most of the contexts
    assert [(k.sequences, k.tokens, k.context) for k in found[-8:-2]] == [
        (s, min(t, 128), min(c, longest - min(t, 128))) for s, t, c in ATTENTION
    ]


def test_about_twenty_as_they_are():
    assert 18 <= count_kernels() <= 24 and FORWARD_ROWS[0] == 1


def test_a_forward_is_of_the_rows_that_were_asked_for(native, monkeypatch):
    model, calls = open_model(tiny(), "i8"), []
    run = model.kernels.forward

    def forward(ids, positions, lengths, *cache):
        calls.append((ids.tolist(), positions.tolist(), lengths))
        return run(ids, positions, lengths, *cache)

    monkeypatch.setattr(model.kernels, "forward", forward)
    monkeypatch.setattr(room, "ENOUGH_S", 0.0)
    assert Forward(model, 2, 3, 50, Ticks()).seconds() == 1.0
    assert {tuple(positions) for _, positions, _ in calls} == {(50, 51, 52) * 2}
    assert all(lengths == [3, 3] for _, _, lengths in calls) and calls[0][0] != calls[1][0]


def test_plain_torch_has_no_profile():
    with pytest.raises(ConfigError, match="C compiler"):
        next(kernels(tiny()))
