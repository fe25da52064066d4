"""Demand: read from a file, as a fleet and a bill with intervals, in scenarios, over years, and what moves it most.

    demand = read_demand("recipes/plan/doubao.toml", ["peak.to_average=3"])
    found = estimate(demand, samples=10_000, seed=0)
    found.quantities["capital"]      # a Quantity: at the inputs as they are said, and P10 to P90 of the samples

The arithmetic is in flow.py, what inputs are in inputs.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fathom.config import build, nearest, read_toml
from fathom.config.recipe import override
from fathom.errors import ConfigError
from fathom.plan.families import find
from fathom.plan.flow import DEFAULTS, OUTPUTS, TERMS, Demand, Inputs, Published, flow
from fathom.plan.hardware import Catalogue
from fathom.plan.inputs import Spread, check_sampling, read_input, read_inputs, values
from fathom.plan.inputs import samples as draw
from fathom.plan.outlook import Composite, Swing, composite, target, tornado, years
from fathom.plan.published import Place, clouds, place
from fathom.plan.quantity import Quantity
from fathom.plan.replicas import rates, read_predict


def read_demand(path: str | Path, overrides: Sequence[str] = ()) -> Demand:
    """The demand of a TOML file, with overrides such as users.dau=1e7. Raises: ConfigError: it cannot be one."""
    return from_table(read_toml(path), overrides, str(path))


def from_table(table: Mapping[str, Any], overrides: Sequence[str] = (), where: str = "demand") -> Demand:
    """The demand of a table, as a TOML file holds it.

    Where `fleet.servers` is given, the calibration is that of the table before its overrides: it belongs to what was
    counted there, and more users need more servers.
    """
    demand = _build(table, where)
    if "fleet.servers" in demand.inputs:
        per_server = _value(demand, "fleet.per_server")
        counted = demand.inputs["fleet.servers"].value * per_server
        demand = replace(demand, calibration=counted / float(flow(demand, values(demand.inputs))["accelerators"]))
    if not overrides:
        return demand
    changed = override(_copy(table), list(overrides))
    return replace(_build(changed, where), calibration=demand.calibration)


def _copy(table: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copy(value) if isinstance(value, Mapping) else value for key, value in table.items()}


def _build(table: Mapping[str, Any], where: str) -> Demand:
    sections = {name.partition(".")[0] for name in TERMS}
    known = ("title", "about", "currency", "gpu", "model", "billed", "cached_takes", "scenarios", "alternatives",
             "published", "predict", *sorted(sections))  # fmt: skip
    for key in table:
        if key not in known:
            raise ConfigError(f"{where}: unknown key {key!r}{nearest(str(key), known)}; known: {', '.join(known)}.")
    tables = {
        name: dict(inner) if isinstance(inner, Mapping) else inner for name, inner in table.items() if name in sections
    }
    hours = _hours(tables, where)
    years = tables["growth"].pop("years", 0) if isinstance(tables.get("growth"), dict) else 0
    if type(years) is not int or not 0 <= years <= 30:
        raise ConfigError(f"{where}: growth.years is {years!r}; it must be a whole number from 0 to 30.")
    inputs = read_inputs(tables, TERMS, where)
    texts = {
        key: table.get(key, "") for key in ("title", "about", "currency", "gpu", "model", "billed", "cached_takes")
    }
    for key, text in texts.items():
        if not isinstance(text, str):
            raise ConfigError(f"{where}: {key} is {text!r}; it must be a text.")
    demand = Demand(
        title=texts["title"] or where, about=texts["about"], inputs=inputs, currency=texts["currency"] or "USD",
        device=Catalogue.read().find(texts["gpu"]) if texts["gpu"] else None,
        model=find(texts["model"]) if texts["model"] else None,
        billed=_one_of(texts["billed"] or "peak", ("peak", "average"), f"{where}: billed"),
        cached_takes=_one_of(texts["cached_takes"] or "nothing", ("prefill", "nothing"), f"{where}: cached_takes"),
        hours=hours, years=years, scenarios=_variants(table, "scenarios", where),
        alternatives=_variants(table, "alternatives", where), published=_published(table, where),
    )  # fmt: skip
    if "predict" in table:
        demand = _with_predicted(demand, table["predict"], where)
    _check(demand, where)
    for name, variant in {**demand.scenarios, **demand.alternatives}.items():
        _check(demand.changed(variant), f"{where}: {name}")
    return demand


def _with_predicted(demand: Demand, table: Any, where: str) -> Demand:
    """With rates from the model of a step."""
    if demand.model is None or demand.device is None:
        raise ConfigError(f"{where}: predict needs the model and gpu that it is about; add both.")
    told = [name for name in ("fleet.prefill", "fleet.decode", "fleet.utilisation") if name in demand.inputs]
    if told:
        raise ConfigError(f"{where}: {told[0]} and predict are both given; keep one of them.")
    return demand.changed(rates(read_predict(table, where), demand.model, demand.device, TERMS))


def _hours(tables: Mapping[str, Any], where: str) -> tuple[float, ...]:
    peak = tables.get("peak")
    hours = peak.pop("hours", ()) if isinstance(peak, dict) else ()
    fine = isinstance(hours, (list, tuple)) and len(hours) in (0, 24)
    if not fine or not all(type(h) in (int, float) and 0 <= h < math.inf for h in hours):
        raise ConfigError(f"{where}: peak.hours is {hours!r}; it must be the load of 24 hours, from 0, in any unit.")
    if hours and not sum(hours) > 0:
        raise ConfigError(f"{where}: peak.hours are all 0; one hour at least must have a load.")
    return tuple(float(hour) for hour in hours)


def _one_of(text: str, choices: tuple[str, ...], what: str) -> str:
    if text not in choices:
        raise ConfigError(f"{what} is {text!r}; it must be one of {', '.join(choices)}.")
    return text


def _variants(table: Mapping[str, Any], key: str, where: str) -> dict[str, Inputs]:
    """Named sets of inputs, such as [scenarios.neutral] "traffic.total" = 3e13."""
    found = table.get(key, {})
    if not isinstance(found, Mapping) or not all(isinstance(one, Mapping) for one in found.values()):
        raise ConfigError(f"{where}: {key} is {found!r}; it must be tables, [{key}.NAME].")
    made: dict[str, Inputs] = {}
    for name, changes in found.items():
        made[name] = {}
        for dotted, value in changes.items():
            if dotted not in TERMS:
                raise ConfigError(
                    f'{where}: {key}.{name}: unknown input {dotted!r}{nearest(dotted, TERMS)}; quote it: "users.dau".'
                )
            made[name][dotted] = read_input(dotted, TERMS[dotted], value, f"{where}: {key}.{name}")
    return made


def _published(table: Mapping[str, Any], where: str) -> tuple[Published, ...]:
    found = tuple(build(Published, one, f"{where}: published") for one in table.get("published", ()))
    for one in found:
        if one.of not in OUTPUTS:
            raise ConfigError(f"{where}: published: {one.of!r} is no result{nearest(one.of, OUTPUTS)}.")
        if one.scenario and one.scenario not in table.get("scenarios", {}):
            raise ConfigError(f"{where}: published: {one.scenario!r} is no scenario of this file.")
    return found


def _check(demand: Demand, where: str) -> None:
    """Raises: ConfigError: an input is missing, or two say the same."""
    given = demand.inputs
    forms = [name for name in ("users.dau", "users.mau", "traffic.input", "traffic.total") if name in given]
    needs = {
        "users.dau": ("users.sessions", "users.turns", "tokens.prompt", "tokens.output"),
        "users.mau": ("users.daily_share", "users.sessions", "users.turns", "tokens.prompt", "tokens.output"),
        "traffic.input": ("traffic.output",), "traffic.total": ("traffic.output_share",),
    }  # fmt: skip
    said = [name for name in forms if name.startswith("traffic.")] or forms[:1]
    forms = said if set(forms) - set(said) <= {"users.dau", "users.mau"} else forms  # users may be told beside
    if len(forms) != 1:
        problem = f"{' and '.join(forms)} are given" if forms else "no demand is given"
        raise ConfigError(f"{where}: {problem}; give one of users.dau, users.mau, traffic.input or traffic.total.")
    missing = [name for name in needs[forms[0]] if name not in given]
    rates = [name for name in ("fleet.prefill", "fleet.decode") if name in given]
    if len(rates) == 1:
        missing.append({"fleet.prefill": "fleet.decode", "fleet.decode": "fleet.prefill"}[rates[0]])
    elif not rates and "fleet.utilisation" not in given:
        missing.append("fleet.prefill and fleet.decode, or fleet.utilisation")
    elif rates and "fleet.utilisation" in given:
        raise ConfigError(f"{where}: rates and fleet.utilisation are both given; keep one of them.")
    if "fleet.utilisation" in given:
        missing += [] if "fleet.active_parameters" in given or demand.model else ["fleet.active_parameters, or model"]
        missing += [] if "fleet.flops" in given or demand.device else ["fleet.flops, or gpu"]
        if not given["fleet.utilisation"].value > 0:
            raise ConfigError(f"{where}: fleet.utilisation is 0; it must be above 0.")
    if missing:
        raise ConfigError(f"{where}: {'; '.join(missing)} must be given; add {'it' if len(missing) == 1 else 'them'}.")


def _value(demand: Demand, name: str) -> float:
    return demand.inputs[name].value if name in demand.inputs else DEFAULTS[name]


@dataclass(frozen=True)
class Compared:
    """A published figure beside what the file's inputs give."""

    of: str
    published: Quantity
    computed: Quantity
    scenario: str = ""

    @property
    def error(self) -> float:
        """Computed over published, less one."""
        return self.computed.value / self.published.value - 1.0

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        both = {"published": self.published.to_dict(), "computed": self.computed.to_dict(), "error": self.error}
        return {"of": self.of, **both, **({"scenario": self.scenario} if self.scenario else {})}


@dataclass(frozen=True)
class Estimate:
    """All that a demand comes to.

    Fields: quantities: each of flow.OUTPUTS at the inputs as they are said, with P10 and P90 of the samples.
            spreads: P10, P50 and P90. scenarios, alternatives: other sets of inputs. years: year 0 first. swings: of
            `of`. capex_share: capital over the sum of published forecasts.
    """

    demand: Demand
    quantities: dict[str, Quantity]
    spreads: dict[str, Spread]
    scenarios: dict[str, dict[str, Quantity]]
    alternatives: dict[str, dict[str, Quantity]]
    compared: tuple[Compared, ...]
    years: tuple[dict[str, Spread], ...]
    of: str
    swings: tuple[Swing, ...]
    composite: Composite | None
    place: Place | None
    capex_share: Quantity | None
    samples: int
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        four, total = clouds()
        made: dict[str, Any] = {
            "title": self.demand.title, "currency": self.demand.currency, "samples": self.samples, "seed": self.seed,
            "inputs": {n: {**i.quantity().to_dict(), "distribution": i.spread} for n, i in self.demand.inputs.items()},
            "results": _as_dicts(self.quantities), "spreads": _as_dicts(self.spreads),
            "scenarios": {name: _as_dicts(one) for name, one in self.scenarios.items()},
            "alternatives": {name: _as_dicts(one) for name, one in self.alternatives.items()},
            "published": [one.to_dict() for one in self.compared], "years": [_as_dicts(year) for year in self.years],
            "tornado": {"of": self.of, "unit": self.demand.unit(self.of), "swings": [s.to_dict() for s in self.swings]},
            "composite": self.composite.to_dict() if self.composite else None,
            "measured": self.place.to_dict() if self.place else None,
        }  # fmt: skip
        if self.capex_share is not None:
            published = {one.who: one.quantity().to_dict() for one in four}
            made["capex"] = {"published": published, "sum": total.to_dict(), "share": self.capex_share.to_dict()}
        return made


def _as_dicts(named: Mapping[str, Any]) -> dict[str, Any]:
    return {name: one.to_dict() for name, one in named.items()}


def estimate(demand: Demand, samples: int = 10_000, seed: int = 0) -> Estimate:
    """All that a demand comes to, the same for the same seed.

    Raises: ConfigError: samples or seed cannot be, or a result is not a number.
    """
    check_sampling(samples, seed)
    quantities, spreads = _results(demand, samples, seed)
    scenarios = {name: _results(demand.changed(one), samples, seed)[0] for name, one in demand.scenarios.items()}
    others = {name: _results(demand.changed(one), samples, seed)[0] for name, one in demand.alternatives.items()}
    of = target(demand)
    rate, tokens = quantities.get("tokens_per_accelerator"), quantities["tokens"].value
    peak = demand.device.bf16_tflops * 1e12 if demand.device else None
    where = place(rate.value, quantities["decode"].value / tokens, peak) if rate and rate.value > 0.0 else None
    return Estimate(
        demand=demand, quantities=quantities, spreads=spreads, scenarios=scenarios, alternatives=others,
        compared=tuple(_compared(demand, quantities, scenarios)), years=years(demand, samples, seed), of=of,
        swings=tornado(demand, of), composite=composite(demand), place=where,
        capex_share=_capex_share(demand, quantities.get("capital")), samples=samples, seed=seed,
    )  # fmt: skip


def _results(demand: Demand, count: int, seed: int) -> tuple[dict[str, Quantity], dict[str, Spread]]:
    """Every result at the inputs as they are said with an interval, and its spread."""
    stated = flow(demand, values(demand.inputs))
    uncertain = any(one.low is not None for one in demand.inputs.values())
    drawn = flow(demand, draw(demand.inputs, count, seed)) if uncertain else {}
    quantities, spreads = {}, {}
    reading, writing = stated["accelerators_prefill"], stated["accelerators_decode"]
    bound = "decode" if writing > reading else "prefill"
    for name, (_, meaning) in OUTPUTS.items():
        if name not in stated:
            continue
        low = high = None
        value = float(stated[name])
        if np.ndim(drawn.get(name, 0.0)) and name in drawn:
            spread = spreads[name] = Spread.of(drawn[name], demand.unit(name), meaning)
            low, high = min(spread.p10, value), max(spread.p90, value)
        limit = bound if name in ("accelerators", "servers", "bill", "bill_day", "capital") else ""
        quantities[name] = Quantity(value, demand.unit(name), meaning, low, high, limit)
    return quantities, spreads


def _compared(
    demand: Demand, quantities: Mapping[str, Quantity], scenarios: Mapping[str, Mapping[str, Quantity]]
) -> Iterator[Compared]:
    for one in demand.published:
        found = (scenarios[one.scenario] if one.scenario else quantities).get(one.of)
        if found is None:
            raise ConfigError(
                f"published: {one.of} does not follow from these inputs; leave it out, or add what it needs."
            )
        said = Quantity(one.value, demand.unit(one.of), OUTPUTS[one.of][1], source="published", note=one.note)
        yield Compared(one.of, said, found, one.scenario)


def _capex_share(demand: Demand, capital: Quantity | None) -> Quantity | None:
    """Capital over the sum of the clouds' published capital expenditure of a year."""
    rate = demand.inputs.get("money.per_usd")
    if capital is None or (rate is None and demand.currency != "USD"):
        return None
    factor = 1.0 / (clouds()[1].value * (rate.value if rate and demand.currency != "USD" else 1.0))
    return replace(capital.times(factor, "1"), meaning="capital over the four clouds' capex of a year", bound="")
