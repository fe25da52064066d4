"""Load over the last steps, and its trend: a point for each second in which something was computed."""

from __future__ import annotations

import pytest

from fathom.engine import expert_load
from fathom.engine.expert_load import ExpertLoad
from fathom.layout.placement import Placement

EVEN = {3: Placement.contiguous(4, 2), 4: Placement.contiguous(4, 2)}


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(expert_load.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(expert_load.time, "time", lambda: 1000.0 + self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def made(*rows: dict[int, list[int]]) -> ExpertLoad:
    source = iter(rows)
    return ExpertLoad(lambda: next(source), (3, 4), 4, window_steps=10)


def test_rows_add_up_in_the_report(clock: Clock) -> None:
    load = made({3: [4, 0, 1, 1], 4: [1, 1, 1, 1]}, {3: [2, 0, 0, 0]})
    for _ in range(3):
        load.after_step()
    load.count(EVEN)
    load.after_step()
    load.count(EVEN)
    report = load.report(EVEN)
    assert report["steps"] == 4 and report["load"] == {3: [6, 0, 1, 1], 4: [1, 1, 1, 1]}
    assert report["rank_load"] == {3: [6, 2], 4: [2, 2]} and report["ranks"] == 2
    assert report["imbalance"] == pytest.approx((6 + 2) / (4 + 2), abs=1e-4)
    assert report["placements"] == {3: [0, 1, 2, 3], 4: [0, 1, 2, 3]}


def test_the_trend_has_a_point_per_second_of_the_rows_since_the_last(clock: Clock) -> None:
    load = made({3: [9, 0, 0, 0]}, {3: [0, 0, 3, 0]}, {4: [1, 0, 1, 0]}, {})
    for at_s in (0.5, 1.5, 2.0, 9.0):  # the third is too soon after the second; nothing is new at the fourth but that
        clock.now = at_s
        load.after_step()
        load.count(EVEN)
    assert list(load.trend) == [(1001.5, 1.5), (1009.0, 1.0)]
    assert load.rank_rows == (1, 1)


def test_a_look_without_steps_takes_nothing(clock: Clock) -> None:
    load = made({3: [0, 0, 0, 0]})
    clock.now = 5.0
    load.count(EVEN)
    assert load.window.steps == 0 and not load.trend and load.report(EVEN)["imbalance"] == 1.0


def test_many_ranks_are_not_told_one_by_one(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expert_load, "MOST_RANKS", 1)
    load = made({3: [9, 0, 0, 0]})
    clock.now = 2.0
    load.after_step()
    load.count(EVEN)
    assert load.trend and load.rank_rows == ()
