"""The window counts what it was given; a proposal brings what it says, and only comes when it is wanted."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest

from fathom.errors import ConfigError
from fathom.layout.load import LoadWindow, Rebalance, imbalance, predicted_gain
from fathom.layout.placement import Placement, balance

PLAIN = {0: Placement.contiguous(8, 4), 1: Placement.contiguous(8, 4)}
SKEWED = {0: [40, 30, 1, 1, 1, 1, 1, 1], 1: [1, 1, 1, 1, 1, 1, 1, 1]}


def filled(counts: dict[int, list[int]] = SKEWED, steps: int = 1) -> LoadWindow:
    window = LoadWindow((0, 1), 8)
    window.add(counts, steps)
    return window


def test_the_window_holds_the_last_steps_only() -> None:
    window, rng, seen = LoadWindow((2, 5), 3, steps=20), Random(0), []
    for _ in range(75):
        seen.append({layer: [rng.randrange(9) for _ in range(3)] for layer in (2, 5)})
        window.add(seen[-1])
        assert window.steps == min(len(seen), 20 - len(seen) % 2)
        last = seen[-window.steps :]
        assert window.load() == {
            layer: tuple(sum(step[layer][expert] for step in last) for expert in range(3)) for layer in (2, 5)
        }


@pytest.mark.parametrize("steps", [1, 2, 9, 10, 11, 95])
def test_any_length_keeps_about_as_many(steps: int) -> None:
    window = LoadWindow((0,), 1, steps)
    for _ in range(3 * steps + 30):
        window.add({0: [1]})
        assert window.load()[0] == (window.steps,)
        assert window.steps <= steps + 9
    assert window.steps >= 0.8 * steps


def test_many_steps_may_come_at_once() -> None:
    window = LoadWindow((0,), 2, steps=10)
    for _ in range(12):
        window.add({0: [3, 4]}, steps=5)
    assert window.steps == 50 and window.load() == {0: (30, 40)}


@pytest.mark.parametrize("counts", [{0: [1, 2], 1: [1]}, {7: [1, 2]}])
def test_counts_of_another_shape_are_refused_whole(counts: dict[int, Sequence[int]]) -> None:
    window = LoadWindow((0, 1), 2)
    with pytest.raises(ConfigError, match="the window has 2 in layers 0, 1"):
        window.add(counts)
    assert window.steps == 0 and window.load() == {0: (0, 0), 1: (0, 0)}
    with pytest.raises(ConfigError, match="each must be >= 1"):
        LoadWindow((), 2)


def test_imbalance_is_what_slowest_ranks_cost() -> None:
    assert imbalance(SKEWED, PLAIN) == pytest.approx((70 + 2) / (76 / 4 + 2))
    assert imbalance({0: [0] * 8, 1: [0] * 8}, PLAIN) == 1.0


def test_gain_is_the_ratio_of_the_slowest_ranks() -> None:
    new = {0: Placement((0, 2, 1, 3, 4, 5, 6, 7), 4), 1: PLAIN[1]}
    assert predicted_gain(SKEWED, PLAIN, new) == pytest.approx((70 + 2) / (41 + 2))
    assert predicted_gain(SKEWED, PLAIN, new, expert_share=0.5) == pytest.approx(1 / (0.5 + 0.5 * 43 / 72))
    assert predicted_gain({0: [0] * 8, 1: [0] * 8}, PLAIN, new) == 1.0


def test_a_proposal_says_what_it_brings() -> None:
    window = filled()
    found = Rebalance("auto", every=10).propose(window, PLAIN, 10)
    assert found is not None
    assert found.placements[1] == PLAIN[1], "a layer that gains nothing keeps its placement"
    assert found.gain == predicted_gain(window.load(), PLAIN, found.placements) > 1.6
    assert found.imbalance_before / found.imbalance_after == pytest.approx(found.gain)
    assert {move.layer for move in found.moves} == {0} and len(found.moves) <= 6
    again = Rebalance("auto", every=10).propose(window, found.placements, 10)
    assert again is None, "what is balanced stays"


def test_copies_start_somewhere_and_follow_the_load() -> None:
    start = dict.fromkeys((0, 1), balance([1] * 8, slots=12, ranks=4))
    found = Rebalance("manual").propose(filled(), start, 0, asked=True)
    assert found is not None and len(found.placements[0].replicas[0]) > len(start[0].replicas[0])
    assert found.imbalance_after < found.imbalance_before


def test_moves_wait_for_their_time_and_their_worth() -> None:
    window = filled()
    auto = Rebalance("auto", every=10)
    assert auto.propose(window, PLAIN, 9) is None
    assert Rebalance("auto", every=10, threshold=1.7).propose(window, PLAIN, 10) is None
    assert Rebalance("auto", every=10, expert_share=0.01).propose(window, PLAIN, 10) is None
    assert auto.propose(window, PLAIN, 0, asked=True) is not None
    for mode in ("off", "manual"):
        assert Rebalance(mode, every=10).propose(window, PLAIN, 10) is None
    with pytest.raises(ConfigError, match="eplb is off"):
        Rebalance("off").propose(window, PLAIN, 10, asked=True)


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"threshold": 0.9}, "threshold is 0.9"), ({"every": 0}, "every is 0"), ({"expert_share": 0.0}, "above 0")],
)
def test_settings_are_checked(fields: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Rebalance("auto", **fields)
