"""How many rows each expert received of late, and whether another placement would be worth its moves.

    window = LoadWindow(layers, experts)
    window.add(counts)                                              after every step, or every so many
    policy.propose(window, placements, steps, groups=n_group)       a Proposal, or None: stay

Pure arithmetic: the engine counts, and carries the moves out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from fathom.errors import ConfigError
from fathom.layout.placement import Move, Placement, balance, plan_moves, settle

Load = Mapping[int, Sequence[float]]  # layer -> rows that each expert received
PARTS = 10


class LoadWindow:
    """Rows per layer and expert over the last `steps` steps, in whole numbers.

    They are kept in ten parts, the oldest of which goes as a whole: a full window holds about 9/10 of them to all.

    Attributes: steps: those it holds now.
    """

    def __init__(self, layers: Sequence[int], experts: int, steps: int = 1000) -> None:
        if not layers or experts < 1 or steps < 1:
            raise ConfigError(f"a window of {len(layers)} layers, {experts} experts, {steps} steps; each must be >= 1.")
        self.layers, self.experts = tuple(layers), experts
        self._part_steps = -(-steps // PARTS)
        self._most = -(-steps // self._part_steps)
        self._parts: deque[tuple[int, dict[int, list[int]]]] = deque()
        self._total = self._zeros()
        self.steps = 0

    def _zeros(self) -> dict[int, list[int]]:
        return {layer: [0] * self.experts for layer in self.layers}

    def add(self, counts: Mapping[int, Sequence[int]], steps: int = 1) -> None:
        """Take in the rows of `steps` steps: for each layer, one count per expert. Layers that did not run may lack.

        Raises: ConfigError: a layer or an expert is not of this window; nothing was taken in.
        """
        for layer, rows in counts.items():
            if layer not in self._total or len(rows) != self.experts:
                raise ConfigError(f"counts of layer {layer} have {len(rows)} experts; the window has {self.experts} "
                                  f"in layers {', '.join(map(str, self.layers))}.")  # fmt: skip
        if not self._parts or self._parts[-1][0] >= self._part_steps:
            if len(self._parts) == self._most:
                self._forget()
            self._parts.append((0, self._zeros()))
        held, part = self._parts[-1]
        self._parts[-1] = (held + steps, part)
        self.steps += steps
        for layer, rows in counts.items():
            for total in (part[layer], self._total[layer]):
                total[:] = map(int.__add__, total, map(int, rows))

    def _forget(self) -> None:
        steps, part = self._parts.popleft()
        self.steps -= steps
        for layer, rows in part.items():
            self._total[layer] = list(map(int.__sub__, self._total[layer], rows))

    def load(self) -> dict[int, tuple[int, ...]]:
        """Rows that each expert received, per layer."""
        return {layer: tuple(rows) for layer, rows in self._total.items()}

    def halves(self) -> tuple[dict[int, tuple[int, ...]], dict[int, tuple[int, ...]]]:
        """The older and the newer half of `load`; both are all of it while it has but one part."""
        parts = [part for _, part in self._parts]
        if len(parts) < 2:
            return self.load(), self.load()
        older = parts[: len(parts) // 2]
        first = {layer: tuple(map(sum, zip(*(part[layer] for part in older), strict=True))) for layer in self.layers}
        whole = self._total
        return first, {layer: tuple(map(int.__sub__, whole[layer], rows)) for layer, rows in first.items()}


def imbalance(load: Load, placements: Mapping[int, Placement]) -> float:
    """What the busiest ranks of all layers receive over what mean ranks do: the factor by which they wait."""
    mean = sum(sum(load[layer]) / placement.ranks for layer, placement in placements.items())
    return _slowest(load, placements) / mean if mean else 1.0


def predicted_gain(
    load: Load, old: Mapping[int, Placement], new: Mapping[int, Placement], *, expert_share: float = 1.0
) -> float:
    """Time of a step with `old` over that with `new`: 1.1 is 10 % more throughput at the same load.

    In every layer all ranks wait for the one with most rows, at the same time per row. Where time per rank does not
    follow rows (few of them, when reading the weights takes longer) the gain is smaller.

    Args: expert_share: part of a step with `old` that routed experts take; the rest stays as it is.
    """
    before, after = _slowest(load, old), _slowest(load, new)
    return 1.0 / (1.0 - expert_share + expert_share * after / before) if before else 1.0


def _slowest(load: Load, placements: Mapping[int, Placement]) -> float:
    return sum(max(placement.rank_loads(load[layer])) for layer, placement in placements.items())


@dataclass(frozen=True)
class Proposal:
    """Placements for all layers, what they should bring, and the moves that lead there.

    The placements are made from the whole window. gain, imbalance_before and imbalance_after are those of the newer
    half, with the old placements and with such as the older half asks for: the future is not known either, and what
    fits the very load it was made from looks better than it is.
    """

    placements: dict[int, Placement]
    moves: tuple[Move, ...]
    gain: float
    imbalance_before: float
    imbalance_after: float


@dataclass(frozen=True)
class Rebalance:
    """When experts follow the load. DeepSeek does it about every ten minutes (V3, section 3.4.1).

    Fields: threshold: least predicted gain that is worth moving for: 1.05 is 5 %. every: least steps between two moves,
            and before the first. expert_share: part of a step that routed experts take, for the prediction.
    """

    mode: Literal["off", "auto", "manual"] = "off"
    threshold: float = 1.05
    every: int = 1000
    expert_share: float = 1.0

    def __post_init__(self) -> None:
        if not self.threshold >= 1.0:
            raise ConfigError(f"threshold is {self.threshold}; a gain worth moving for is at least 1.0, such as 1.05.")
        if self.every < 1:
            raise ConfigError(f"every is {self.every} steps; it must be at least 1.")
        if not 0.0 < self.expert_share <= 1.0:
            raise ConfigError(f"expert_share is {self.expert_share}; it must be above 0 and at most 1.")

    def due(self, steps_since_move: int) -> bool:
        """Whether it is time to look for a better placement by itself."""
        return self.mode == "auto" and steps_since_move >= self.every

    def propose(
        self, window: LoadWindow, placements: Mapping[int, Placement], steps_since_move: int, *, groups: int = 1,
        nodes: int = 1, asked: bool = False,
    ) -> Proposal | None:  # fmt: skip
        """Placements that the load of the window asks for; None: stay.

        Layers that would not gain keep theirs. `asked`, somebody wants it now, passes over threshold and wait.

        Raises: ConfigError: asked for while the mode is off.
        """
        if asked and self.mode == "off":
            raise ConfigError("experts stay where they are: eplb is off; start with eplb = 'manual' or 'auto'.")
        if not asked and not self.due(steps_since_move):
            return None
        (older, newer), load = window.halves(), window.load()
        tried = {layer: _better(older[layer], old, groups, nodes) for layer, old in placements.items()}
        gain = predicted_gain(newer, placements, tried, expert_share=self.expert_share)
        if gain < self.threshold and not asked:
            return None
        new = {layer: _better(load[layer], old, groups, nodes) for layer, old in placements.items()}
        moves = tuple(plan_moves(placements, new))
        before, after = imbalance(newer, placements), imbalance(newer, tried)
        return Proposal(new, moves, gain, before, after) if moves else None


def _better(load: Sequence[float], old: Placement, groups: int, nodes: int) -> Placement:
    """The balanced placement, near the old one; the old one itself, if it is as good."""
    new = balance(load, slots=len(old.slots), groups=groups, nodes=nodes, ranks=old.ranks)
    if new.imbalance(load) >= old.imbalance(load):
        return old
    return settle(old, new, nodes=1 if groups % nodes else nodes)
