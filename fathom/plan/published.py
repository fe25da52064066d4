"""What was measured and published, to hold an estimate against: tokens a second per accelerator, and capital."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from fathom.config import build, read_toml
from fathom.plan.hardware import Catalogue
from fathom.plan.quantity import Quantity

DATA = Path(__file__).parent / "data"


@dataclass(frozen=True)
class System:
    """One measured system, as data/productivity.toml describes it; rates in tok/s of one accelerator."""

    name: str
    device: str
    source: str
    fleet: float | None = None
    prefill: float | None = None
    decode: float | None = None
    mixed: float | None = None
    input: int = 0
    output: int = 0

    @property
    def mean_context(self) -> float:
        """Tokens in the cache of a sequence while it is decoded, on average [tokens]."""
        return self.input + self.output / 2

    def all_tokens(self, output_share: float) -> float:
        """Input and output tokens together, a second per accelerator [tok/s].

        Args: output_share: of output in all tokens; a system measured on a mix of its own keeps that.
        """
        if self.prefill is not None and self.decode is not None:
            return 1.0 / ((1.0 - output_share) / self.prefill + output_share / self.decode)
        return self.fleet if self.fleet is not None else (self.mixed or 0.0) * (1.0 + self.input / self.output)


@dataclass(frozen=True)
class Place:
    """Where a figure lies among those measured.

    Fields: implied: tok/s per accelerator. below: measured systems that do less, of `systems`. median: of them.
            ratio_per_flop: the median of tok/s per peak BF16 FLOP/s, over the figure's own. rows: name, tok/s, tok/s
            per peak BF16 TFLOP/s and source of each, ascending.
    """

    implied: Quantity
    below: int
    systems: int
    median: Quantity
    ratio: Quantity
    ratio_per_flop: Quantity | None
    rows: tuple[tuple[str, float, float, str], ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        named = {name: getattr(self, name) for name in ("implied", "median", "ratio", "ratio_per_flop")}
        rows = [
            {"name": name, "tok/s/GPU": rate, "tok/s per peak BF16 TFLOP/s": per, "source": source}
            for name, rate, per, source in self.rows
        ]
        return {
            **{name: one.to_dict() for name, one in named.items() if one is not None},
            "below": self.below, "systems": self.systems, "rows": rows,
        }  # fmt: skip


@dataclass(frozen=True)
class Capex:
    """Capital expenditure that a company announced or spent. value in `unit`, USD or RMB."""

    who: str
    value: float
    unit: Literal["USD", "RMB"]
    year: int
    kind: Literal["forecast", "spent"]
    source: str

    def quantity(self) -> Quantity:
        """For a table or JSON."""
        return Quantity(
            self.value, self.unit, f"{self.who}, {self.kind} {self.year}", source="published", note=self.source
        )


@lru_cache(maxsize=1)
def systems() -> tuple[System, ...]:
    """The measured systems."""
    file = DATA / "productivity.toml"
    return tuple(build(System, table, f"{file}: {table.get('name')}") for table in read_toml(file)["system"])


@lru_cache(maxsize=1)
def capex() -> tuple[Capex, ...]:
    """Published capital expenditure."""
    file = DATA / "capex.toml"
    return tuple(build(Capex, table, f"{file}: {table.get('who')}") for table in read_toml(file)["capex"])


def clouds() -> tuple[tuple[Capex, ...], Quantity]:
    """The four clouds' forecasts for 2025, and their sum."""
    four = tuple(one for one in capex() if one.unit == "USD" and one.year == 2025)
    names = ", ".join(one.who for one in four)
    total = Quantity(sum(one.value for one in four), "USD", f"{names}, forecast 2025", note=four[0].source)
    return four, total


def place(rate: float, output_share: float, peak_flops: float | None = None) -> Place:
    """A rate of all tokens per accelerator [tok/s/GPU] among the measured ones.

    Args: peak_flops: dense BF16 peak of the accelerator that the rate is said of [FLOP/s]; None: not compared.
    """
    catalogue = Catalogue.read()
    rows = []
    for system in systems():
        measured = system.all_tokens(output_share)
        rows.append((system.name, measured, measured / catalogue[system.device].bf16_tflops, system.source))
    rows.sort(key=lambda row: row[1])
    middle, per_flop = _median([row[1] for row in rows]), None
    if peak_flops:
        value = _median([row[2] for row in rows]) / (rate / (peak_flops / 1e12))
        per_flop = Quantity(value, "1", "the same per peak BF16 FLOP/s")
    unit = "tok/s/GPU"
    return Place(
        Quantity(rate, unit, "mean demand over accelerators bought"), sum(row[1] < rate for row in rows), len(rows),
        Quantity(middle, unit, "median of the measured systems", source="measured"),
        Quantity(middle / rate, "1", "median measured over implied"), per_flop, tuple(rows),
    )  # fmt: skip


def _median(ordered: Sequence[float]) -> float:
    ordered = sorted(ordered)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
