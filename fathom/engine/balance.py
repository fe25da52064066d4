"""Experts follow their load, while steps go on: count, propose, load what is missing, switch between two steps.

A copy of an expert holds the same bytes wherever it lies, so a move changes no token. What it was expected to bring and
what it brought are both kept, for people to look at.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any

from fathom.engine.crew import Crew
from fathom.engine.expert_load import ExpertLoad
from fathom.layout.load import Proposal, Rebalance
from fathom.layout.placement import Placement

log = logging.getLogger(__name__)

COUNT_EVERY = 16  # steps: each costs a message to every rank and back
MEASURED_STEPS = 100


@dataclass(frozen=True)
class Moved:
    """One switch of placements.

    Fields: step: the first with the new placements. moves: experts loaded or copied. predicted_gain: throughput after
            over before, if the busiest ranks decide. measured_gain: of tokens per second over MEASURED_STEPS on either
            side; None until then. imbalance_before, imbalance_after: load of the busiest ranks over that of mean ranks.
    """

    step: int
    moves: int
    predicted_gain: float
    imbalance_before: float
    imbalance_after: float
    measured_gain: float | None = None


class Balancer:
    """Told of every step of a crew, moves its experts now and then.

    Attributes: load: counted on the way. moved: what was done so far, the newest last. before: placements until the
                last move.
    """

    def __init__(self, crew: Crew, policy: Rebalance, window_steps: int = 1000) -> None:
        self.crew, self.policy = crew, policy
        self.placements = crew.placements
        config = crew.model.config
        self.load = ExpertLoad(crew.take_load, tuple(self.placements), config.n_routed_experts, window_steps)
        self.moved: list[Moved] = []
        self.before: dict[int, Placement] = {}
        self._groups = config.n_group if config.topk_method != "greedy" else 1
        self._steps = self._since_move = self._uncounted = 0
        self._asked = False
        self._proposal: Proposal | None = None
        self._rate = _Rate()
        self._rate_before = 0.0

    def ask(self) -> None:
        """Rebalance as soon as possible. Raises: ConfigError: the policy is off."""
        if self.policy.mode == "off":
            self.policy.propose(self.load.window, self.placements, 0, asked=True)
        self._asked = True

    def after_step(self, tokens: int, seconds: float) -> None:
        """A step computed so many tokens in so many seconds."""
        self._steps, self._since_move, self._uncounted = self._steps + 1, self._since_move + 1, self._uncounted + 1
        self._rate.add(tokens, seconds)
        self.load.after_step()
        if self.moved and self._since_move == MEASURED_STEPS and self._rate_before:
            gain = self._rate.value / self._rate_before
            self.moved[-1] = replace(self.moved[-1], measured_gain=round(gain, 4))
        if self._uncounted >= COUNT_EVERY or self._asked:
            self.load.count(self.placements)
            self._uncounted = 0
            if self._proposal is None:
                self._propose()
        if self._proposal is not None and self.crew.prepared:
            self._switch(self._proposal)

    def report(self) -> dict[str, Any]:
        """Load, placements and moves, as plain data for people."""
        return {
            **self.load.report(self.placements),
            "placements_before": {layer: list(p.slots) for layer, p in self.before.items()},
            "moving": self._proposal is not None,
            "moved": [vars(moved) for moved in self.moved],
        }

    def _propose(self) -> None:
        asked, self._asked = self._asked, False
        found = self.policy.propose(
            self.load.window, self.placements, self._since_move, groups=self._groups, asked=asked
        )
        if found is None:
            return
        log.info(
            "experts: %d moves should bring %.1f %% (busiest over mean rank %.2f -> %.2f)",
            len(found.moves), 100 * (found.gain - 1), found.imbalance_before, found.imbalance_after,
        )  # fmt: skip
        self._proposal = found
        self.crew.prepare({layer: p for layer, p in found.placements.items() if p != self.placements[layer]})

    def _switch(self, proposal: Proposal) -> None:
        self.crew.switch()
        self.before, self.placements, self._proposal = self.placements, dict(proposal.placements), None
        self._since_move, self._rate_before, self._rate = 0, self._rate.value, _Rate()
        self.moved.append(
            Moved(
                self._steps + 1, len(proposal.moves), round(proposal.gain, 4), round(proposal.imbalance_before, 4),
                round(proposal.imbalance_after, 4),
            )
        )  # fmt: skip


class _Rate:
    """Tokens per second, later steps counting more."""

    def __init__(self) -> None:
        self._tokens = self._seconds = 0.0

    @property
    def value(self) -> float:
        return self._tokens / self._seconds if self._seconds else 0.0

    def add(self, tokens: int, seconds: float) -> None:
        keep = 1.0 - 1.0 / MEASURED_STEPS
        self._tokens, self._seconds = keep * self._tokens + tokens, keep * self._seconds + seconds
