"""What it saves to give each kind of problem its own budget of thought.

For each kind (family and level) the cheapest mode whose accuracy is within a margin of that kind's best. Where every
answer is known, modes are chosen on one half of the problems and judged on the other, both ways round; so what is
reported is what a new problem of that kind can expect. Otherwise they are judged on the problems they were chosen on,
and that is said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fathom.errors import InputError
from fathom.plan.curves import Cell
from fathom.plan.quantity import Quantity
from fathom.plan.thinking import Rates


@dataclass(frozen=True)
class Policy:
    """A budget for each kind, against the mode that is right most often for all of them.

    Fields: chosen: mode by kind, on all problems. cost, accuracy: of the policy. uniform: the mode it is held against,
            with its cost and accuracy. saving: of the cost, 0 to 1. held_out: judged on other problems than chosen on.
    """

    chosen: dict[str, str]
    cost: Quantity
    accuracy: Quantity
    uniform: str
    uniform_cost: Quantity
    uniform_accuracy: Quantity
    saving: Quantity
    held_out: bool

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        names = ("cost", "accuracy", "uniform_cost", "uniform_accuracy", "saving")
        named = {name: getattr(self, name).to_dict() for name in names}
        return {"chosen": self.chosen, "uniform": self.uniform, **named, "held_out": self.held_out}


def budget_policy(cells: Sequence[Cell], rates: Rates, margin: float = 0.01) -> Policy | None:
    """The policy over the kinds that every mode was asked; None if that is one kind, or one mode.

    Args:   margin: of accuracy that may be lost in a kind, against its best mode.
    Raises: InputError: the margin is not from 0 to 1.
    """
    if not 0.0 <= margin <= 1.0:
        raise InputError(f"margin is {margin}; it must be a share of answers from 0 to 1, such as 0.01.")
    table: dict[str, dict[str, Cell]] = {}
    for cell in cells:
        table.setdefault(cell.kind, {})[cell.label] = cell
    modes = list(dict.fromkeys(cell.label for cell in cells))
    table = {kind: by_mode for kind, by_mode in table.items() if len(by_mode) == len(modes)}
    if len(table) < 2 or len(modes) < 2:
        return None
    held_out = all(
        cell.n > 1 and len(cell.right) == len(cell.used) == cell.n for by in table.values() for cell in by.values()
    )
    halves = [(slice(0, None, 2), slice(1, None, 2)), (slice(1, None, 2), slice(0, None, 2))]
    splits = halves if held_out else [(slice(None), slice(None))]
    weights, outcomes, uniform = [], [], []
    everywhere = _uniform(table, modes)
    for by_mode in table.values():
        for choose, judge in splits:
            mode = _choice(by_mode, rates, margin, choose)
            weights.append(by_mode[mode].n or 1)
            outcomes.append(_outcome(by_mode[mode], rates, judge))
            uniform.append(_outcome(by_mode[everywhere], rates, judge))
    (cost, accuracy), (base_cost, base) = (np.average(rows, axis=0, weights=weights) for rows in (outcomes, uniform))
    chosen = {kind: _choice(by_mode, rates, margin, slice(None)) for kind, by_mode in table.items()}
    right = "share of answers that are right"
    return Policy(
        chosen, Quantity(float(cost), rates.currency, "an answer, with a budget by kind"),
        Quantity(float(accuracy), "1", right, source="measured"), everywhere,
        Quantity(float(base_cost), rates.currency, "an answer, one mode for all"),
        Quantity(float(base), "1", right, source="measured"),
        Quantity(float(1.0 - cost / base_cost) if base_cost else 0.0, "1", "of the cost, against one mode for all"),
        held_out,
    )  # fmt: skip


def _uniform(table: dict[str, dict[str, Cell]], modes: Sequence[str]) -> str:
    """The mode that is right most often over all kinds; the first of equals."""

    def accuracy(mode: str) -> float:
        return sum(by_mode[mode].accuracy * (by_mode[mode].n or 1) for by_mode in table.values())

    return max(modes, key=accuracy)


def _outcome(cell: Cell, rates: Rates, part: slice) -> tuple[float, float]:
    """Cost of an answer and accuracy, over a part of the problems where each is known."""
    whole = not cell.right or part == slice(None)
    accuracy = cell.accuracy if whole else float(np.mean(cell.right[part]))
    thinking = cell.thinking if whole else float(np.mean(cell.used[part]))
    return rates.money(rates.seconds(thinking + cell.answer, cell.samples)), accuracy


def _choice(by_mode: dict[str, Cell], rates: Rates, margin: float, part: slice) -> str:
    """The cheapest mode within the margin of the best."""
    found = {mode: _outcome(cell, rates, part) for mode, cell in by_mode.items()}
    best = max(accuracy for _, accuracy in found.values())
    return min((m for m, (_, accuracy) in found.items() if accuracy >= best - margin), key=lambda mode: found[mode][0])
