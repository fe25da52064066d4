"""The day on which answering everybody has cost more than training the model.

With training cost C, inference at c a day today and growth at a rate g a day (continuously),

    spent(t) = c (e^(g t) - 1) / g = C   at   t = ln(1 + g C / c) / g,    and C / c without growth.

Where inference shrinks (g < 0) it comes to c / -g in all; a C beyond that is never reached. Research is counted by the
share that the final run has in all compute for research and development.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fathom.config import nearest, read_toml
from fathom.config.recipe import override
from fathom.errors import ConfigError
from fathom.plan.flow import YEAR_DAYS, Demand, flow
from fathom.plan.inputs import Array, Input, Spread, Term, check_sampling, read_inputs, samples, values
from fathom.plan.quantity import Quantity

FILE = Path(__file__).parent / "data" / "crossover.toml"
LONGEST_DAYS = 1e6  # beyond 2,700 years a crossing is called never
TERMS = {
    "training.model": Term("money", "training of the model: the final run"),
    "training.rl": Term("money", "reinforcement learning, or other training after it"),
    "training.share_of_rd": Term("1", "of the final run in all compute for research and development", "share"),
    "inference.per_day": Term("money/day", "inference today", least=1e-9),
    "growth.inference": Term("1/year", "change of what inference costs", "rate"),
}
NEEDED = ("training.model", "inference.per_day")


@dataclass(frozen=True)
class Spending:
    """What was spent on training and what is spent on inference."""

    title: str
    inputs: Mapping[str, Input]
    currency: str = "USD"

    def changed(self, **given: float | None) -> Spending:
        """With other numbers, as given: names of TERMS with __ for the dot; None leaves one as it is."""
        table = {name.replace("__", "."): value for name, value in given.items() if value is not None}
        made = {
            name: Input(name, TERMS[name], TERMS[name].check(value, name), note="given")
            for name, value in table.items()
        }
        return replace(self, inputs={**self.inputs, **made})


@dataclass(frozen=True)
class Crossing:
    """One way to count training. day: from today; None: never. spread: of samples; None: nothing is uncertain.

    never: share of the samples in which inference does not pass training at all.
    """

    case: str
    training: Quantity
    day: Quantity | None
    spread: Spread | None
    never: float

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "case": self.case, "training": self.training.to_dict(), "day": self.day.to_dict() if self.day else None,
            "years": self.day.value / YEAR_DAYS if self.day else None,
            "spread": self.spread.to_dict() if self.spread else None, "never": self.never,
        }  # fmt: skip


def read_spending(path: str | Path | None = None, overrides: Sequence[str] = ()) -> Spending:
    """The spending of a TOML file; None: DeepSeek's, as published."""
    return from_table(override(read_toml(path or FILE), list(overrides)), str(path or FILE))


def from_table(table: Mapping[str, Any], where: str = "spending") -> Spending:
    """The spending of a table, as a TOML file holds it. Raises: ConfigError: it cannot be one."""
    texts, sections = ("title", "currency"), {name.partition(".")[0] for name in TERMS}
    for key in table:
        if key not in (*texts, *sections):
            raise ConfigError(f"{where}: unknown key {key!r}{nearest(str(key), (*texts, *sections))}.")
    for key in texts:
        if not isinstance(table.get(key, ""), str):
            raise ConfigError(f"{where}: {key} is {table[key]!r}; it must be a text.")
    inputs = read_inputs({name: inner for name, inner in table.items() if name in sections}, TERMS, where)
    missing = [name for name in NEEDED if name not in inputs]
    if missing:
        raise ConfigError(f"{where}: {', '.join(missing)} must be given; add {'it' if len(missing) == 1 else 'them'}.")
    share = inputs.get("training.share_of_rd")
    if share is not None and not share.value > 0:
        raise ConfigError(f"{where}: training.share_of_rd is 0; it must be above 0, or left out.")
    return Spending(str(table.get("title", where)), inputs, str(table.get("currency", "USD")))


def of_demand(spending: Spending, demand: Demand) -> Spending:
    """The same training, with the bill and the growth of a demand. Raises: ConfigError: it has no bill."""
    made = flow(demand, values(demand.inputs))
    if "bill_day" not in made:
        raise ConfigError(
            f"{demand.title}: no bill follows from it; add money.gpu_hour, or money.server and money.life."
        )
    if demand.currency != spending.currency:
        raise ConfigError(
            f"{demand.title} is in {demand.currency} and training in {spending.currency}; use one currency for both."
        )
    later = flow(demand, values(demand.inputs), 1.0)["bill_day"] / made["bill_day"] - 1.0
    return spending.changed(inference__per_day=float(made["bill_day"]), growth__inference=float(later))


def day(training: Any, per_day: Any, growth: Any = 0.0) -> Any:
    """Days until inference has cost as much as training [days]; infinite: never. Numbers or arrays.

    Args: training [money]. per_day: inference today [money/day]. growth: of it, per year (0.5 is half as much again).
    """
    rate = np.log1p(np.asarray(growth, dtype=np.float64)) / YEAR_DAYS
    ratio = np.asarray(training, dtype=np.float64) / np.asarray(per_day, dtype=np.float64)
    steady = np.abs(rate * ratio) < 1e-9
    with np.errstate(divide="ignore", invalid="ignore"):
        grown = np.where(
            rate * ratio > -1.0, np.log1p(np.maximum(rate * ratio, -1.0)) / np.where(steady, 1.0, rate), np.inf
        )
    found = np.where(steady, ratio, grown)
    return np.where(found > LONGEST_DAYS, np.inf, found)


def spent(days: Any, per_day: float, growth: float = 0.0) -> Any:
    """What inference has cost after so many days [money]."""
    rate, days = float(np.log1p(growth)) / YEAR_DAYS, np.asarray(days, dtype=np.float64)
    return per_day * days if abs(rate) < 1e-12 else per_day * np.expm1(rate * days) / rate


def cases(x: Mapping[str, Any]) -> dict[str, Any]:
    """What counts as training [money], by name: the model, with reinforcement learning, with all research."""
    made = {"the model": x["training.model"]}
    rl = x.get("training.rl", 0.0)
    if "training.rl" in x:
        made["and reinforcement learning"] = x["training.model"] + rl
    if "training.share_of_rd" in x:
        made["and all research compute"] = x["training.model"] / x["training.share_of_rd"] + rl
    return made


def crossover(spending: Spending, count: int = 10_000, seed: int = 0) -> tuple[Crossing, ...]:
    """When inference passes training, for each way to count training; the same for the same seed."""
    check_sampling(count, seed)
    stated, drawn = values(spending.inputs), samples(spending.inputs, count, seed)
    drawn_cases, found = cases(drawn), []
    for name, training in cases(stated).items():
        used = {"training.model", "inference.per_day", "growth.inference"}
        used |= {"training.rl"} if name != "the model" else set()
        used |= {"training.share_of_rd"} if "research" in name else set()
        uncertain = any(one.low is not None for key, one in spending.inputs.items() if key in used)
        crossing = float(day(training, stated["inference.per_day"], stated.get("growth.inference", 0.0)))
        sampled = day(drawn_cases[name], drawn["inference.per_day"], drawn.get("growth.inference", 0.0))
        found.append(_crossing(spending, name, training, crossing, sampled if uncertain else None))
    return tuple(found)


def _crossing(spending: Spending, name: str, training: float, crossing: float, sampled: Array | None) -> Crossing:
    never, spread = float(not np.isfinite(crossing)), None
    if sampled is not None:
        never = float(np.mean(~np.isfinite(sampled)))
        capped = np.where(np.isfinite(sampled), sampled, LONGEST_DAYS)
        spread = Spread.of(capped, "days", "in samples that never cross: 1e6 days")
    cost = Quantity(float(training), spending.currency, f"training: {name}")
    when = None
    if np.isfinite(crossing):
        ends = (min(spread.p10, crossing), max(spread.p90, crossing)) if spread else (None, None)
        when = Quantity(crossing, "days", "until inference has cost as much as training", *ends)
    return Crossing(name, cost, when, spread, never)


def curves(spending: Spending, points: int = 60) -> dict[str, Any]:
    """For a chart: days, what inference has cost by then, and each line of training to be crossed [money]."""
    stated = values(spending.inputs)
    growth, per_day = stated.get("growth.inference", 0.0), stated["inference.per_day"]
    lines = cases(stated)
    ends = [float(day(cost, per_day, growth)) for cost in lines.values()]
    until = 1.2 * max((end for end in ends if np.isfinite(end)), default=5 * YEAR_DAYS) or 1.0
    days = np.linspace(0.0, until, points)
    return {"days": days.tolist(), "inference": np.asarray(spent(days, per_day, growth)).tolist(), "training": lines}
