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


def test_halves_are_the_older_and_the_newer_steps() -> None:
    window = LoadWindow((0,), 2, steps=4)
    window.add({0: [1, 2]})
    assert window.halves() == (window.load(), window.load())
    for rows in ([10, 20], [100, 200], [1000, 2000], [10000, 20000]):
        window.add({0: rows})
    assert window.halves() == ({0: (110, 220)}, {0: (11000, 22000)})


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


def drawn(rng: Random, popularity: Sequence[float], rows: int = 2000) -> list[int]:
    chosen = rng.choices(range(len(popularity)), popularity, k=rows)
    return [chosen.count(expert) for expert in range(len(popularity))]


def test_chance_is_not_taken_for_a_gain() -> None:
    """All experts are as busy, and every draw is uneven: what fits one draw brings nothing in the next."""
    layers = range(8)
    rng, window = Random(0), LoadWindow(layers, 32, steps=2)
    for _ in range(2):
        window.add({layer: drawn(rng, [1.0] * 32, rows=400) for layer in layers})
    start = dict.fromkeys(layers, Placement.contiguous(32, 8))
    fitted = {layer: balance(load, slots=32, ranks=8) for layer, load in window.load().items()}
    assert predicted_gain(window.load(), start, fitted) > 1.1
    found = Rebalance("manual").propose(window, start, 0, asked=True)
    assert found is not None and 0.95 < found.gain < 1.05
    assert Rebalance("auto", threshold=1.05, every=1).propose(window, start, 1) is None


def test_what_holds_on_is_a_gain_and_comes_true() -> None:
    rng, window = Random(0), LoadWindow((0,), 32, steps=2)
    popularity = [1 / (n + 1) ** 0.7 for n in range(32)]
    for _ in range(2):
        window.add({0: drawn(rng, popularity)})
    start = {0: Placement.contiguous(32, 8)}
    found = Rebalance("auto", every=1).propose(window, start, 1)
    assert found is not None
    later = {0: drawn(rng, popularity)}
    assert found.gain == pytest.approx(predicted_gain(later, start, found.placements), rel=0.1) and found.gain > 1.5


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
