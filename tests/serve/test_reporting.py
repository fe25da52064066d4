"""What a worker tells: counts of all lanes, what the engine shows, and why it does not."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from fathom.errors import ConfigError
from fathom.serve import messages
from fathom.serve.reporting import seen, stats


@dataclass
class Counts:
    """As EngineStats: it knows more than is told, and less."""

    running: int = 3
    steps: int = 17
    sampled_tokens: int = 99
    accepted_by_depth: tuple[int, ...] = (4, 1)


@dataclass
class Engine:
    """It shows itself."""

    shown: dict[str, Any] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    @property
    def seeing(self) -> Engine:
        return self

    def stats(self) -> Counts:
        return Counts()

    def figures(self) -> dict[str, Any]:
        return self.shown

    def experts(self) -> dict[str, Any]:
        return {"load": {3: [1, 2]}}

    def trace(self, *, name: str, first_pid: int) -> bytes:
        return f"{name} {first_pid}".encode()

    def rebalance(self) -> None:
        if self.asked:
            raise ConfigError("eplb is off")
        self.asked.append("rebalance")


def test_counts_are_the_engines_own_by_name() -> None:
    told = stats(Engine(), None)
    assert told == messages.Stats(running=3, steps=17, accepted_by_depth=(4, 1))


def test_figures_of_experts_and_ops_travel_along() -> None:
    engine = Engine({"op_s": {"forward": 1.5}, "experts": {"imbalance": 1.25, "rank_rows": (3, 2)}})
    told = stats(engine, None)
    assert told.op_s == {"forward": 1.5} and told.experts == messages.Experts(1.25, (3, 2))
    assert engine.shown["experts"], "what is asked is not changed"


def test_looks_are_answered_under_their_number() -> None:
    engine = Engine()
    answer = seen(engine, messages.Look(5, "experts"))
    assert answer.number == 5 and json.loads(answer.payload) == {"load": {"3": [1, 2]}}
    assert seen(engine, messages.Look(6, "timeline", "both-1", 1000)) == messages.Seen(6, b"both-1 1000")
    assert seen(engine, messages.Rebalance(7)) == messages.Seen(7)
    assert seen(engine, messages.Rebalance(8)) == messages.Seen(8, error="eplb is off")
