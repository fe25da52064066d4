"""Pipeline schedules: idle slots are counted by playing a schedule, and agree with the published formulas."""

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fathom.errors import ConfigError
from fathom.layout.pipeline import NAMES, Durations, Schedule, Work, bubble, play, schedule

UNIT = Durations(forward=1, backward=2, weight=1)
SIZES = [(2, 4), (4, 8), (4, 16), (8, 24), (16, 64)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("ranks", "micro_batches"), SIZES)
def test_idle_slots_of_unit_works_equal_the_formula(name: str, ranks: int, micro_batches: int) -> None:
    chunks = 2 if name == "interleaved" else 1
    played = play(schedule(name, ranks, micro_batches, chunks), UNIT)
    assert played.idle == (bubble(name, ranks, UNIT, chunks),) * ranks


def test_the_published_bubbles_of_eight_ranks() -> None:
    """F = 1, B = 2, W = 1, F&B = 3, by hand: 7 x 3; 7 x (3 - 2); 3 x (3 + 2 - 3)."""
    assert [bubble(name, 8, UNIT) for name in ("1f1b", "zb1p", "dualpipe")] == [21, 7, 6]


@given(forward=st.floats(0.5, 2), weight=st.floats(0.1, 1), ranks=st.sampled_from([2, 4, 8]))
def test_bubbles_of_uneven_works_equal_the_formula(forward: float, weight: float, ranks: int) -> None:
    """ZB1P where the gradients of weights are no longer than the wait that they fill; 1F1B always."""
    times = Durations(forward, forward + weight, weight=min(weight, forward))
    for name in ("1f1b", "zb1p"):
        idle = play(schedule(name, ranks, 3 * ranks), times).idle
        assert idle == pytest.approx([bubble(name, ranks, times)] * ranks, rel=1e-9)


def test_dualpipe_with_overlap_is_within_five_percent_of_a_step() -> None:
    """V3: PP16, 120 micro-batches, times of the published step (deepseek_v3 table 4 over the counts of rank 0)."""
    times = Durations(forward=49.1, backward=107.4, weight=32.0, both=143.8)
    played = play(schedule("dualpipe", 16, 120), times)
    assert max(played.idle) == pytest.approx(bubble("dualpipe", 16, times), rel=0.05)
    assert max(played.idle) / played.span < 0.1


def test_counts_of_dualpipe_are_those_of_the_open_schedule() -> None:
    plan = schedule("dualpipe", 16, 120)

    def counts(rank: int) -> dict[str, int]:
        return Counter("".join(work.kind for work in slot) for slot in plan.ranks[rank])

    assert counts(0) == {"F": 23, "FB": 97, "I": 15, "B": 8, "W": 15}
    assert counts(7) == {"F": 17, "FB": 103, "I": 8, "B": 9, "W": 8}


@pytest.mark.parametrize(
    ("name", "kept"), [("1f1b", 8), ("zb1p", 8), ("dualpipe", 9), ("dualpipev", 17)]
)  # DualPipeV: of half as long a chunk
def test_activations_in_flight_are_those_of_the_table(name: str, kept: int) -> None:
    plan = schedule(name, 8, 32)
    assert max(plan.in_flight(rank) for rank in range(8)) == kept


@pytest.mark.parametrize("name", NAMES)
def test_every_micro_batch_passes_every_stage_forward_and_back_once(name: str) -> None:
    plan = schedule(name, 4, 16, 2 if name == "interleaved" else 1)
    done = Counter(work for row in plan.ranks for slot in row for work in slot)
    assert set(done.values()) == {1}
    forward = {(work.path, work.stage, work.micro) for work in done if work.kind == "F"}
    backward = [(work.path, work.stage, work.micro) for work in done if work.kind in "BI"]
    weights = [(work.path, work.stage, work.micro) for work in done if work.kind in "BW"]
    assert len(forward) == plan.stages * 16
    assert sorted(backward) == sorted(weights) == sorted(forward)
    assert {path for path, _, _ in forward} == set(range(2 if name == "dualpipe" else 1))


@pytest.mark.parametrize("name", NAMES)
def test_weights_have_their_gradient_after_the_inputs(name: str) -> None:
    plan = schedule(name, 4, 16, 2 if name == "interleaved" else 1)
    for row in plan.ranks:
        order = [work for slot in row for work in slot]
        for first, second in (("F", "I"), ("F", "B"), ("I", "W")):
            for work in order:
                if work.kind == second:
                    earlier = Work(first, work.path, work.stage, work.micro)  # type: ignore[arg-type]
                    assert order.index(earlier) < order.index(work)


@pytest.mark.parametrize("name", NAMES)
def test_more_micro_batches_take_longer_and_wait_no_longer(name: str) -> None:
    spans = [play(_of(name, count), UNIT) for count in (8, 16, 32)]
    assert all(one.span < other.span for one, other in pairwise(spans))
    assert len({max(one.idle) for one in spans}) == 1


@pytest.mark.parametrize(
    ("name", "ranks", "micro_batches", "what"),
    [
        ("gpipe", 4, 8, "use one of"),
        ("1f1b", 0, 8, "at least 1"),
        ("interleaved", 4, 6, "use 8"),
        ("dualpipe", 3, 8, "even"),
        ("dualpipe", 8, 12, "Use 16"),
        ("dualpipev", 8, 12, "use 16"),
    ],
)
def test_schedules_that_do_not_exist_say_what_would(name: str, ranks: int, micro_batches: int, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        schedule(name, ranks, micro_batches)


def _of(name: str, micro_batches: int) -> Schedule:
    return schedule(name, 4, micro_batches, 2 if name == "interleaved" else 1)
