"""What comes of a demand later, what moves it most, and which of its inputs nobody can tell apart."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fathom.plan.flow import DEFAULTS, Demand, flow
from fathom.plan.inputs import Array, Spread, samples, values
from fathom.plan.quantity import Quantity

YEARLY = ("tokens", "accelerators_peak", "bought", "capital", "bill", "revenue_day", "power")


@dataclass(frozen=True)
class Swing:
    """How far one input moves a result: at its P10 and at its P90, all others as they were said."""

    name: str
    low: Quantity
    high: Quantity
    at_low: Quantity
    at_high: Quantity

    @property
    def width(self) -> float:
        """Between the two results, in the result's unit."""
        return abs(self.at_high.value - self.at_low.value)

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        ends = ("low", "high", "at_low", "at_high")
        return {"name": self.name, **{end: getattr(self, end).to_dict() for end in ends}}


@dataclass(frozen=True)
class Composite:
    """Inferred inputs that enter a result only as one product: figures of the result cannot tell them apart.

    factors: the power of each. value: the product.
    """

    of: str
    factors: dict[str, int]
    value: Quantity

    def formula(self) -> str:
        """The product, in words."""
        above = " x ".join(name for name, power in self.factors.items() if power > 0) or "1"
        below = "".join(f" / {name}" for name, power in self.factors.items() if power < 0)
        return above + below

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {"of": self.of, "formula": self.formula(), "factors": self.factors, "value": self.value.to_dict()}


def target(demand: Demand) -> str:
    """The result that sensitivities are said of: the bill, else capital, else accelerators."""
    made = flow(demand, values(demand.inputs))
    return next(name for name in ("bill", "capital", "accelerators_peak") if name in made)


def tornado(demand: Demand, of: str) -> tuple[Swing, ...]:
    """Every uncertain input by how far it moves the result, the furthest first."""
    stated, unit = values(demand.inputs), demand.unit(of)
    swings = []
    for name, one in demand.inputs.items():
        if one.low is None or one.high is None:
            continue
        ends = [float(flow(demand, {**stated, name: end})[of]) for end in (one.low, one.high)]
        here, there = (Quantity(end, one.term.unit, one.term.meaning) for end in (one.low, one.high))
        swings.append(Swing(name, here, there, *(Quantity(end, unit) for end in ends)))
    return tuple(sorted(swings, key=lambda swing: -swing.width))


def composite(demand: Demand, of: str = "accelerators_peak") -> Composite | None:
    """The product in which inferred inputs are hidden; None if fewer than two are.

    An input is a factor where the result is a whole power of it, near its value and far from it.
    """
    stated = values(demand.inputs)
    base, factors = float(flow(demand, stated)[of]), {}
    for name, one in demand.inputs.items():
        if one.tag != "inferred" or one.value <= 0.0 or base <= 0.0:
            continue
        powers = []
        for step in (0.9, 0.5):
            moved = float(flow(demand, {**stated, name: one.value * step})[of])
            powers.append(math.log(moved / base) / math.log(step) if moved > 0.0 else 0.0)
        whole = round(powers[0])
        if whole and all(abs(power - whole) < 1e-6 for power in powers):
            factors[name] = whole
    if len(factors) < 2:
        return None
    value = math.prod(stated[name] ** power for name, power in factors.items())
    return Composite(
        of, factors, Quantity(value, "product of their units", "all that the result fixes", source="inferred")
    )


def years(demand: Demand, count: int, seed: int) -> tuple[dict[str, Spread], ...]:
    """Each year from now on: what is asked, what is bought that year, what it costs.

    Accelerators are those of today: later ones do more for the money, which the prices of a year say. What is bought is
    used for `money.life` years, in whole years, and then replaced; a bill of owned servers is what each year's
    purchases still cost. Rented ones are paid at the year's price.
    """
    drawn = samples(demand.inputs, count, seed) if any(one.low is not None for one in demand.inputs.values()) else None
    x: Mapping[str, Any] = drawn if drawn is not None else {k: np.full(1, v) for k, v in values(demand.inputs).items()}
    life = max(1, round(demand.inputs["money.life"].value)) if "money.life" in demand.inputs else None
    cohorts: list[tuple[Array, Array]] = []  # servers bought in each year, and what they cost
    found = []
    for year in range(demand.years + 1):
        made = flow(demand, x, float(year))
        if "capital" in made:
            need = made["servers_peak"]
            alive = cohorts[-(life - 1) :] if life and life > 1 else [] if life else cohorts
            bought = np.maximum(0.0, need - sum((servers for servers, _ in alive), np.zeros_like(need)))
            made["bought"] = bought
            made["capital"] = made["capital"] * bought / np.maximum(need, 1.0)
            cohorts.append((bought, made["capital"]))
            if "bill" in made and "money.gpu_hour" not in x and life:
                made["bill"] = _owned(made, x, [cost for _, cost in cohorts[-life:]])
        found.append({name: _spread(demand, name, made[name]) for name in YEARLY if name in made})
    return tuple(found)


def _owned(made: Mapping[str, Any], x: Mapping[str, Any], costs: list[Array]) -> Array:
    """A year's bill for what was bought in the years before and is still used."""
    share = 1.0 / x["money.life"] + x.get("money.operations", DEFAULTS["money.operations"])
    bill: Array = sum(costs[1:], costs[0]) * share
    if "power" in made and "money.kwh" in x:
        bill = bill + made["power"] * 1e3 * 24.0 * 365.0 * x["money.kwh"]
    return bill


def _spread(demand: Demand, name: str, drawn: Array) -> Spread:
    if name == "bought":
        return Spread.of(drawn, "servers", "bought in the year")
    meaning = "spent on servers in the year" if name == "capital" else ""
    return Spread.of(drawn, demand.unit(name), meaning)
