"""What an engine shows of itself: the load of its experts, and what it and its ranks did of late.

    engine.seeing.experts()          who is busy, where experts lie, what moves brought
    engine.seeing.trace()            the latest steps, for a trace viewer

Both are asked for between two steps. Looking costs a crew a message to every rank and back, and one process the count
of its experts while somebody looks; else a crew counts each COUNT_EVERY steps, or as often as its Balancer wants to.
"""

from __future__ import annotations

from functools import partial
from time import monotonic
from typing import Any

from fathom.engine import orders
from fathom.engine.balance import Balancer
from fathom.engine.crew import Crew
from fathom.engine.expert_load import ExpertLoad
from fathom.engine.timeline import MOST_EVENTS, Timeline, Trace, ask_clock, chrome
from fathom.errors import ConfigError
from fathom.layout.placement import Placement
from fathom.model import Model, PackedTransformer

COUNT_EVERY = 256  # steps
WATCHED_S = 30.0  # since somebody looked
MOST_EVENTS_OF_ALL = 262_144  # of all ranks in one trace: some 30 MB


class Seeing:
    """What one engine shows."""

    def __init__(self, model: Model, crew: Crew | None, balancer: Balancer | None, timeline: Timeline) -> None:
        self.model, self.crew, self.balancer, self.timeline = model, crew, balancer, timeline
        self.load = self._load()
        self._seen_s = -WATCHED_S

    def _load(self) -> ExpertLoad | None:
        """None: there are no experts, or nobody counts them."""
        if self.balancer is not None:
            return self.balancer.load
        config, take = self.model.config, None
        layers = range(config.num_hidden_layers + config.num_nextn_predict_layers)
        routed = [layer for layer in layers if config.is_moe(layer)]
        if self.crew is not None:
            routed, take = list(self.crew.placements), self.crew.take_load
        elif isinstance(self.model, PackedTransformer):
            take = self.model.take_load
        return ExpertLoad(take, routed, config.n_routed_experts) if routed and take is not None else None

    @property
    def placements(self) -> dict[int, Placement]:
        """Where the experts of each layer lie now."""
        if self.balancer is not None:
            return self.balancer.placements
        if self.crew is not None:
            return self.crew.placements
        assert self.load is not None, "only where experts are counted"
        return dict.fromkeys(self.load.window.layers, Placement.contiguous(self.model.config.n_routed_experts, 1))

    def after_step(self) -> None:
        """A step was computed."""
        if self.load is None or self.balancer is not None:
            return
        if self.crew is not None:
            self.load.after_step()
            if self.load.uncounted >= COUNT_EVERY:
                self.load.count(self.placements)
        elif isinstance(self.model, PackedTransformer) and self.model.counts:
            self.load.after_step()
            self.model.counts = monotonic() - self._seen_s < WATCHED_S

    def experts(self) -> dict[str, Any]:
        """Load, placements and moves, as plain data for people; `counted` is false where nobody can count."""
        facts: dict[str, Any] = {
            "counted": self.load is not None, "eplb": "off" if self.balancer is None else self.balancer.policy.mode,
            "ranks": 1, "moved": [], "moving": False,
        }  # fmt: skip
        if self.load is None:
            return facts
        if self.crew is None:
            assert isinstance(self.model, PackedTransformer), "it counts"
            self._seen_s, self.model.counts = monotonic(), True
        self.load.count(self.placements)
        own = self.load.report(self.placements) if self.balancer is None else self.balancer.report()
        return facts | own

    def rebalance(self) -> None:
        """Move experts as soon as possible. Raises: ConfigError: they stay where they are."""
        if self.balancer is None:
            raise ConfigError(
                "experts stay where they are: this engine has no ranks to move them between, or eplb is off; give a "
                "pool a layout with ep and eplb = 'manual' or 'auto'."
            )
        self.balancer.ask()

    def trace(self, *, name: str = "engine", first_pid: int = 0) -> bytes:
        """The latest events of every rank, as `timeline.chrome` has them."""
        return chrome(self._traces(), name=name, first_pid=first_pid)

    def figures(self) -> dict[str, Any]:
        """What metrics tell of it: seconds by op, and of its experts as far as they are counted."""
        found: dict[str, Any] = {"op_s": dict(self.timeline.op_s)}
        if self.load is not None and self.load.trend:
            moved = [] if self.balancer is None else self.balancer.moved
            found["experts"] = {
                "imbalance": self.load.trend[-1][1], "rank_rows": self.load.rank_rows, "moves": len(moved),
                "predicted_gain": moved[-1].predicted_gain if moved else None,
                "measured_gain": moved[-1].measured_gain if moved else None,
            }  # fmt: skip
        return found

    def _traces(self) -> list[Trace]:
        crew = self.crew
        if crew is None:
            return [Trace(0, 0, self.timeline.latest())]
        most = min(MOST_EVENTS, MOST_EVENTS_OF_ALL // crew.layout.world_size)
        own = crew.trace(most)
        found = [Trace(0, own.lane, own.events)]
        for rank in range(1, crew.layout.world_size):
            clock = (0.0, 0.0) if crew.shares_clock(rank) else ask_clock(partial(self._clock, crew, rank))
            theirs = crew.ask(orders.Trace(most), orders.Traced, rank)[rank]
            found.append(Trace(rank, theirs.lane, theirs.events, *clock))
        return found

    def _clock(self, crew: Crew, rank: int) -> float:
        return crew.ask(orders.Trace(), orders.Traced, rank)[rank].now_s
