"""Predictions of measured points, and how far off they are: by kind, device, engine or model.

A file of points has the columns of data/measured.csv (`value` in `unit`, a `group` of rows that hang together). A row
that is not understood is refused by name and counted. A group that the knobs were fitted to can be left out of the fit
that predicts it (`without`), so that the error is that on a system never seen.
"""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from fathom.errors import ConfigError, InputError
from fathom.plan import refit
from fathom.plan.hardware import Catalogue
from fathom.plan.kernel_rows import predict_kernel
from fathom.plan.knobs import Knobs, shipped
from fathom.plan.predict import predict_memory, predict_serving
from fathom.plan.quantity import Quantity
from fathom.plan.rows import COLUMNS, NEEDED, Refusal, engine_of, model

FILE = Path(__file__).parent / "data" / "measured.csv"
SERVING = ("serving_mixed", "serving_decode", "serving_prefill")
BY = ("kind", "metric", "hardware", "engine", "model", "group")
Row = Mapping[str, str]


@dataclass(frozen=True)
class Outcome:
    """A row, its measured value, and the prediction or why there is none."""

    row: Row
    measured: float
    found: Quantity | Refusal

    @property
    def error(self) -> float | None:
        """Predicted over measured, less 1."""
        return None if isinstance(self.found, Refusal) else self.found.value / self.measured - 1

    @property
    def covered(self) -> bool:
        """Whether the interval holds what was measured."""
        one = self.found
        return not isinstance(one, Refusal) and one.low is not None and one.low <= self.measured <= (one.high or 0.0)

    def named(self, by: str) -> str:
        """What the row counts under. Args: by: one of BY."""
        if by == "engine":
            return engine_of(self.row["system"]) or "other"
        if by == "hardware":
            return _known(lambda: Catalogue.read().find(self.row["hardware"]).name, self.row["hardware"])
        if by == "model":
            return _known(lambda: model(self.row["model"]).name, self.row["model"])
        if by == "metric":
            return metric_of(self.row)
        return self.row[by] or "unnamed"

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        said = {name: self.row[name] for name in ("id", "kind", "system", "model", "hardware", "metric", "unit")}
        if isinstance(self.found, Refusal):
            return said | {"measured": self.measured, "refused": self.found.reason}
        return said | {"measured": self.measured, "predicted": self.found.to_dict(), "error": self.error}


@dataclass(frozen=True)
class Errors:
    """Of the rows under one name. median, p90: of the absolute error; bias: median of the error; all over measured.
    coverage: share of what was measured that lies in its 80 % interval, of the rows that have one."""

    name: str
    rows: int
    refused: int
    median: float | None
    p90: float | None
    bias: float | None
    coverage: float | None

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return dict(vars(self))


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a file, each with all columns.

    Raises: InputError: no such file, not CSV, or columns are missing.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            found = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as CSV: {error}; give a file like data/measured.csv.") from None
    missing = [name for name in NEEDED if not found or name not in found[0]]
    if missing:
        raise InputError(f"{path} has no {', '.join(missing)}; a file of points has {', '.join(NEEDED)}, and rows.")
    return [{name: (row.get(name) or "").strip() for name in COLUMNS} for row in found]


@lru_cache(maxsize=1)
def fitted() -> tuple[Row, ...]:
    """The rows that the knobs are fitted to."""
    return tuple(read(FILE))


def validate(rows: Iterable[Row], *, catalogue: Catalogue | None = None, leave_out: bool = False) -> list[Outcome]:
    """The outcome of each row.

    Args: leave_out: predict a row whose group had a part in the fit by knobs fitted without that group.
    """
    catalogue, rows = catalogue or Catalogue.read(), list(rows)
    others = without({group_of(row) for row in rows}, catalogue) if leave_out else {}
    return [_outcome(row, catalogue, others.get(group_of(row), shipped())) for row in rows]


def group_of(row: Row) -> str:
    """The group of a row, as data/measured.csv names it."""
    return row["group"].removeprefix("serving_mixed:ix_")


def without(groups: Iterable[str], catalogue: Catalogue) -> dict[str, Knobs]:
    """Knobs for each group that had a part in the fit, from all others."""
    found = refit.cases(fitted(), catalogue)
    wanted = sorted(set(groups) & {one.group for one in found})
    if not wanted:
        return {}
    token, first = refit.tpot_pool(found, shipped()), refit.ttft_pool(found, shipped())
    return {group: refit.into(refit.into(shipped(), token, token.without(group)), first, first.without(group))
            for group in wanted}  # fmt: skip


def _outcome(row: Row, catalogue: Catalogue, knobs: Knobs) -> Outcome:
    try:
        measured = float(row["value"])
    except ValueError:
        measured = math.nan
    if not (math.isfinite(measured) and measured > 0):
        return Outcome(row, 0.0, Refusal(f"value is {row['value']!r}; a number above 0 is needed"))
    return Outcome(row, measured, predict(row, catalogue, knobs))


def predict(row: Row, catalogue: Catalogue, knobs: Knobs | None = None) -> Quantity | Refusal:
    """What the planner says of a row, in its unit; or why it says nothing."""
    try:
        return _predict(row, catalogue, knobs)
    except ConfigError as error:
        return Refusal(str(error))


def _predict(row: Row, catalogue: Catalogue, knobs: Knobs | None) -> Quantity | Refusal:
    """One function for each kind."""
    kind = row["kind"]
    if kind in SERVING:
        return predict_serving(row, catalogue, knobs)
    if kind == "kernel":
        found = predict_kernel(row)
        return Refusal(found) if isinstance(found, str) else found
    if kind == "memory" and row["metric"] != "peak_train_memory":
        return predict_memory(row, catalogue)
    if kind in ("training", "memory"):
        from fathom.plan.training.predict import predict_training

        return predict_training(row)
    return Refusal(f"kind {kind!r} is not predicted; {', '.join((*SERVING, 'training', 'kernel', 'memory'))} are")


def errors(outcomes: Sequence[Outcome], by: str) -> list[Errors]:
    """Errors under each name, and of all.

    Raises: ConfigError: `by` is not one of BY.
    """
    if by not in BY:
        raise ConfigError(f"--by is {by!r}; use {', '.join(BY)}.")
    names = sorted({one.named(by) for one in outcomes})
    return [_errors(name, [one for one in outcomes if one.named(by) == name]) for name in names]


def _errors(name: str, outcomes: Sequence[Outcome]) -> Errors:
    found = sorted(one.error for one in outcomes if one.error is not None)
    if not found:
        return Errors(name, len(outcomes), len(outcomes), None, None, None, None)
    absolute = sorted(map(abs, found))
    sure = [one for one in outcomes if isinstance(one.found, Quantity) and one.found.low is not None]
    coverage = sum(one.covered for one in sure) / len(sure) if sure else None
    return Errors(name, len(outcomes), len(outcomes) - len(found), at(absolute, 0.5), at(absolute, 0.9),
                  at(found, 0.5), coverage)  # fmt: skip


def at(ordered: Sequence[float], share: float) -> float:
    """The quantile of sorted numbers, between neighbours."""
    place = share * (len(ordered) - 1)
    low = int(place)
    return ordered[low] + (place - low) * (ordered[min(low + 1, len(ordered) - 1)] - ordered[low])


def refusals(outcomes: Iterable[Outcome]) -> list[tuple[str, int]]:
    """Why rows were refused, and how many, the commonest first."""
    return Counter(one.found.reason for one in outcomes if isinstance(one.found, Refusal)).most_common()


def metric_of(row: Row) -> str:
    """The kind of a metric: tpot, ttft, throughput, or as the row says."""
    metric = row["metric"]
    for name in ("tpot", "ttft"):
        if metric.startswith(name):
            return name
    return "throughput" if "tokens_per_s" in metric else metric


def _known(find: Callable[[], str], otherwise: str) -> str:
    try:
        return find()
    except ConfigError:
        return otherwise
