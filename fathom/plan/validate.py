"""The planner against measured points: its error by kind, metric, hardware, engine and model, and what it refuses.

A group is one system, model and layout family. With groups left out, each point in flight, and each training run, is
predicted by knobs that its own group had no part in: the error on a system never seen. Kernels' laws are not refitted.
"""

from __future__ import annotations

import csv
import math
import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fathom.errors import ConfigError
from fathom.plan import refit
from fathom.plan.hardware import Catalogue
from fathom.plan.kernel_rows import predict_kernel
from fathom.plan.knobs import shipped
from fathom.plan.memory_rows import predict_memory
from fathom.plan.predict import predict_serving
from fathom.plan.quantity import Quantity
from fathom.plan.rows import ALIASES, ENGINES, Refusal, normal
from fathom.plan.training.knobs import left_out
from fathom.plan.training.predict import computed, predict_training

COLUMNS = (
    "id", "kind", "system", "model", "hardware", "n_gpus", "parallelism", "precision", "input_len", "output_len",
    "batch", "metric", "value", "unit", "conditions", "group",
)  # fmt: skip
DATA = Path(__file__).parent / "data" / "measured.csv"
BY = ("kind", "metric", "hardware", "engine", "model")
Row = Mapping[str, str]


@dataclass(frozen=True)
class Outcome:
    """A row and what was said of it. value, low, high: in the unit of the row; reason: of a refusal."""

    row: Row
    value: float = 0.0
    low: float = 0.0
    high: float = 0.0
    reason: str = ""

    @property
    def measured(self) -> float:
        """The row's value."""
        return float(self.row["value"])

    @property
    def error(self) -> float:
        """Predicted over measured, less one."""
        return self.value / self.measured - 1

    @property
    def inside(self) -> bool:
        """Whether the interval holds what was measured."""
        return self.low <= self.measured <= self.high


@dataclass(frozen=True)
class Errors:
    """Of some rows: how many, how many refused, absolute error (median, p90), bias (median), share in the interval."""

    rows: int
    refused: int
    median: float | None = None
    p90: float | None = None
    bias: float | None = None
    covered: float | None = None


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a file. Raises: ConfigError: it cannot be read, lacks a column, or a value is no number."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise ConfigError(f"{path} has no column {missing[0]!r}; it must have {', '.join(COLUMNS)}.")
            rows: list[dict[str, str]] = []
            for row in reader:
                plain = {name: text or "" for name, text in row.items() if name}
                rows.append(normal(plain, rows[-1] if rows else None))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path} cannot be read as CSV: {error}.") from error
    for number, row in enumerate(rows, 2):
        try:
            good = math.isfinite(float(row["value"])) and float(row["value"]) != 0
        except ValueError:
            good = False
        if not good:
            raise ConfigError(f"{path}, line {number}: value is {row['value']!r}; it must be a number other than 0.")
    if not rows:
        raise ConfigError(f"{path} has no rows.")
    return rows


def predict(row: Row, catalogue: Catalogue) -> Quantity | Refusal:
    """What the planner says of a row, whatever its kind."""
    kind = row["kind"]
    try:
        if kind.startswith("serving"):
            return predict_serving(row, catalogue)
        if kind == "training" or row["metric"] == "peak_train_memory":
            return predict_training(row)
        if kind == "kernel":
            return predict_kernel(row)
        if kind == "memory":
            return predict_memory(row, catalogue)
    except ConfigError as error:
        return Refusal(str(error))
    return Refusal(
        "an input or a result of a demand, which has no one prediction" if kind == "demand" else f"kind {kind}"
    )


def validate(rows: Sequence[Row], *, leave_out: bool = False) -> list[Outcome]:
    """What the planner says of each row, in their order."""
    catalogue = Catalogue.read()
    unseen = {**_in_flight(rows, catalogue), **_trained(rows)} if leave_out else {}
    return [unseen.get(row["id"]) or _outcome(row, predict(row, catalogue)) for row in rows]


def _outcome(row: Row, said: Quantity | Refusal) -> Outcome:
    if isinstance(said, Refusal):
        return Outcome(row, reason=said.reason)
    low, high = (said.value if end is None else end for end in (said.low, said.high))
    return Outcome(row, said.value, low, high)


def _in_flight(rows: Sequence[Row], catalogue: Catalogue) -> dict[str, Outcome]:
    """Times of rows in flight, each by knobs fitted to the package's rows and these without its group."""
    own = {row["id"]: row for row in rows if row["kind"] == "serving_mixed"}
    known = [row for row in read(DATA) if row["id"] not in own]
    mine = [one for one in refit.cases(own.values(), catalogue)]
    if not mine:
        return {}
    cases = [*refit.cases(known, catalogue), *mine]
    token, first = refit.tpot_pool(cases, shipped()), refit.ttft_pool(cases, shipped())
    found = {}
    for group in sorted({one.group for one in mine}):
        knobs = refit.into(refit.into(shipped(), token, token.without(group)), first, first.without(group))
        for one in (one for one in mine if one.group == group):
            found[one.id] = _outcome(own[one.id], predict_serving(own[one.id], catalogue, knobs))
    return found


def _trained(rows: Sequence[Row]) -> dict[str, Outcome]:
    """Training runs that tell of a knob, each without its group."""
    by_knob: dict[str, list[tuple[Row, Any]]] = defaultdict(list)
    for row in (row for row in rows if row["kind"] == "training"):
        try:
            told = computed(row)
        except ConfigError:
            continue
        if told is not None:
            by_knob[told[0]].append((row, told[1]))
    found = {}
    for pairs in by_knob.values():
        for (row, _), (ratio, share) in zip(pairs, left_out([ratio for _, ratio in pairs]), strict=True):
            speed = predict_training(row)
            if isinstance(speed, Refusal):
                continue
            inverse = row["metric"].endswith(("hours", "tokens")) or row["unit"] in ("s", "days")
            factor = ratio.value / share.value if inverse else share.value / ratio.value
            value = float(row["value"]) * factor
            ends = (value / share.low, value / share.high) if inverse else (value * share.low, value * share.high)
            found[row["id"]] = Outcome(row, value, min(ends), max(ends))
    return found


def errors(found: Sequence[Outcome]) -> Errors:
    """Of some outcomes."""
    said = [one for one in found if not one.reason]
    if not said:
        return Errors(len(found), len(found))
    size = sorted(abs(one.error) for one in said)
    return Errors(
        len(found), len(found) - len(said), statistics.median(size), size[min(len(size) - 1, int(0.9 * len(size)))],
        statistics.median(one.error for one in said), sum(one.inside for one in said) / len(said),
    )  # fmt: skip


def grouped(found: Iterable[Outcome], by: str) -> dict[str, Errors]:
    """Errors by one of BY, the largest group first; metrics within their kind."""
    if by not in BY:
        raise ConfigError(f"by is {by!r}; it must be one of {', '.join(BY)}.")
    parts: dict[str, list[Outcome]] = defaultdict(list)
    for one in found:
        parts[_name(one.row, by)].append(one)
    return {name: errors(part) for name, part in sorted(parts.items(), key=lambda item: (-len(item[1]), item[0]))}


def _name(row: Row, by: str) -> str:
    if by == "metric":
        return f"{row['kind']} {row['metric']}"
    if by == "engine":
        return next((name for word, name in ENGINES.items() if word in row["system"].lower()), row["system"] or "none")
    if by == "model":
        return next(
            (name for pattern, name in ALIASES if re.search(pattern, row["model"].lower())), row["model"] or "none"
        )
    if by == "hardware":
        try:
            return Catalogue.read().find(row["hardware"]).name
        except ConfigError:
            return row["hardware"] or "none"
    return row[by]


def refusals(found: Iterable[Outcome]) -> dict[str, int]:
    """Reasons, the most frequent first."""
    return dict(Counter(one.reason for one in found if one.reason).most_common())
