"""All that a handful of runs says about scaling: laws, held-out errors, and where the next dollar buys more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fathom.errors import InputError
from fathom.plan.curves import Cell, joined, read_curve
from fathom.plan.runs import LeftOut, Run, read_runs
from fathom.plan.scaling import Law, Saturation, fit_law, fit_thinking, least_runs
from fathom.plan.thinking import Rates, advise, priced, read_rates
from fathom.plan.worth import Worth, accuracy_per_loss, next_dollar

COMPUTE, SIZES = "compute", "parameters and tokens"


@dataclass(frozen=True)
class Study:
    """Fields: laws: by what the loss is held against. thought: accuracy against it. notes: what could not be fitted."""

    runs: tuple[Run, ...]
    left_out: tuple[LeftOut, ...]
    laws: dict[str, Law]
    thought: Saturation | None
    cells: tuple[Cell, ...]
    worth: Worth | None
    notes: tuple[str, ...] = field(default_factory=tuple)

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        units = {"parameters": "1", "activated": "1", "tokens": "tokens", "flops": "FLOP", "loss": "nats/token"}
        runs = [{"name": run.name, **{name: getattr(run, name) for name in units}} for run in self.runs]
        return {
            "runs": runs, "units": units, "left_out": [{"name": o.name, "reason": o.reason} for o in self.left_out],
            "laws": {name: law.to_dict() for name, law in self.laws.items()},
            "thinking": self.thought.to_dict() if self.thought else None,
            "next_dollar": self.worth.to_dict() if self.worth else None, "notes": self.notes,
        }  # fmt: skip


def study(
    paths: Sequence[str | Path], curve: str | Path | None = None, rates: str | Path | None = None,
    overrides: Sequence[str] = (), thinking_tokens: float | None = None, seed: int = 0,
) -> Study:  # fmt: skip
    """What the runs at these paths say, with a curve of accuracy against thought if there is one.

    Args:   thinking_tokens: of an answer today; None: at the knee of the curve.
    Raises: InputError: no run can be compared.
    """
    if seed < 0:
        raise InputError(f"seed is {seed}; it must be at least 0.")
    found, left_out = read_runs(paths)
    if not found:
        reasons = "; ".join(f"{one.name}: {one.reason}" for one in left_out[:3])
        raise InputError(f"no training run to compare ({reasons}); name runs from random weights.")
    if thinking_tokens is not None and not 0.0 <= thinking_tokens <= 1e9:
        raise InputError(f"{thinking_tokens} tokens of thought; it must be from 0 to 1e9.")
    cells = joined(read_curve(curve)) if curve else ()
    return study_of(found, left_out, cells, read_rates(rates, overrides), thinking_tokens, seed)


def study_of(
    runs: Sequence[Run], left_out: Sequence[LeftOut], curve: Sequence[Cell], rates: Rates,
    thinking_tokens: float | None = None, seed: int = 0,
) -> Study:  # fmt: skip
    """The same, of runs that were read."""
    laws, notes = _laws(runs, seed)
    largest = max(runs, key=lambda run: run.flops)
    cells = tuple(curve) or largest.cells
    single = [cell for cell in cells if cell.samples == 1]
    thought = None
    if len({cell.thinking for cell in single}) >= 3:
        tokens, accuracy, n = zip(*((c.thinking, c.accuracy, c.n) for c in single), strict=True)
        thought = fit_thinking(tokens, accuracy, n, seed)
    elif cells:
        notes.append("accuracy against thought: fewer than three lengths of thought were measured.")
    if thinking_tokens is None:
        thinking_tokens = advise(priced(single, rates), rates).knee.cell.thinking if single else 0.0
    per_loss, law, worth = accuracy_per_loss(runs, seed), laws.get(SIZES), None
    if law is not None or thought is not None:
        worth = next_dollar(largest, law, thought, thinking_tokens, per_loss, rates)
    if law is not None and thought is not None and per_loss is None:
        notes.append("loss and accuracy do not compare: evaluate three runs alike (fathom eval --out RUN/x.eval.json).")
    return Study(tuple(runs), tuple(left_out), laws, thought, cells, worth, tuple(notes))


def _laws(runs: Sequence[Run], seed: int) -> tuple[dict[str, Law], list[str]]:
    """Every law that these runs are enough for, and why another is not there."""
    laws: dict[str, Law] = {}
    notes: list[str] = []
    loss = np.array([run.loss for run in runs])
    x = np.array([[run.flops, run.activated, run.tokens] for run in runs])
    for title, names, columns in ((COMPUTE, (COMPUTE,), [0]), (SIZES, ("parameters", "tokens"), [1, 2])):
        least = least_runs(len(names))
        try:
            if len(runs) < least:
                raise InputError(f"{len(runs)} runs; it takes {least}, better twice as many.")
            laws[title] = fit_law(names, x[:, columns], loss, seed)
        except InputError as error:
            notes.append(f"loss against {title}: {error}")
    return laws, notes
