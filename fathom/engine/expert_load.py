"""How many tokens chose each expert of late, counted now and then, and how far ranks are from equal load.

    load = ExpertLoad(take, layers, experts)
    load.after_step()               after every step
    load.count(placements)          now and then: takes what was counted meanwhile
    load.report(placements)         plain data, for people

Counting is done where tokens are: `take` fetches it, which costs a message to every rank and back.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fathom.layout.load import LoadWindow, imbalance
from fathom.layout.placement import Placement

TREND_EVERY_S = 1.0  # at 58 layers of 256 experts a point takes some milliseconds
TREND_POINTS = 600
MOST_RANKS = 64  # whose rows are told one by one

Rows = Mapping[int, Sequence[int]]  # layer -> tokens that chose each expert
Placements = Mapping[int, Placement]


class ExpertLoad:
    """Counts over the last steps, and the trend of the imbalance over the last minutes.

    Attributes: window: the counts. trend: when [s since 1970], and the load of the busiest ranks over that of mean
                ranks since the point before. rank_rows: of the same time, rows that each rank computed in all layers;
                empty beyond MOST_RANKS.
    """

    def __init__(self, take: Callable[[], Rows], layers: Sequence[int], experts: int, window_steps: int = 1000) -> None:
        self.take = take
        self.window = LoadWindow(layers, experts, window_steps)
        self.trend: deque[tuple[float, float]] = deque(maxlen=TREND_POINTS)
        self.rank_rows: tuple[int, ...] = ()
        self.uncounted = 0  # steps
        self._recent = self._zeros()
        self._pointed_s = time.monotonic()

    def _zeros(self) -> dict[int, list[int]]:
        return {layer: [0] * self.window.experts for layer in self.window.layers}

    def after_step(self) -> None:
        """A step was computed."""
        self.uncounted += 1

    def count(self, placements: Placements) -> None:
        """Take in what was counted since the last time, when experts lay like this."""
        rows, steps, self.uncounted = self.take(), self.uncounted, 0
        if not steps:
            return
        self.window.add(rows, steps)
        for layer, counts in rows.items():
            self._recent[layer] = list(map(int.__add__, self._recent[layer], map(int, counts)))
        now_s = time.monotonic()
        if now_s - self._pointed_s >= TREND_EVERY_S and any(map(any, self._recent.values())):
            self.trend.append((round(time.time(), 1), round(imbalance(self._recent, placements), 4)))
            self.rank_rows = self._rank_rows(placements)
            self._recent, self._pointed_s = self._zeros(), now_s

    def _rank_rows(self, placements: Placements) -> tuple[int, ...]:
        if next(iter(placements.values())).ranks > MOST_RANKS:
            return ()
        loads = [placement.rank_loads(self._recent[layer]) for layer, placement in placements.items()]
        return tuple(round(sum(rows)) for rows in zip(*loads, strict=True))

    def report(self, placements: Placements) -> dict[str, Any]:
        """Load by layer, as plain data; `slots` of a layer say which expert lies where, in the order of ranks."""
        load = self.window.load()
        return {
            "steps": self.window.steps,
            "imbalance": round(imbalance(load, placements), 4),
            "trend": list(self.trend),
            "load": {layer: list(rows) for layer, rows in load.items()},
            "ranks": next(iter(placements.values())).ranks,
            "rank_load": {layer: p.rank_loads(load[layer]) for layer, p in placements.items()},
            "placements": {layer: list(p.slots) for layer, p in placements.items()},
        }
