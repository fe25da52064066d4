"""The sections about demand and crossover: from users to servers and a bill, over years, and against training."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from fathom.errors import ConfigError, RequestError
from fathom.plan import crossover as crossing
from fathom.plan import figures
from fathom.plan.demand import Estimate, estimate, from_table
from fathom.plan.flow import Demand
from fathom.plan.hardware import Catalogue
from fathom.plan.inputs import Input, spoken
from fathom.plan.outlook import tornado
from fathom.plan.page.answer import Answer, Plot, Table
from fathom.plan.page.fields import Asked, Sure
from fathom.plan.page.serve import Rates, rates
from fathom.plan.page.train import training
from fathom.plan.quantity import Quantity

SAMPLES, SEED = 4000, 0
FLEET = ("price", "server", "users", "answers", "lengths", "peak", "growth", "cheaper", "years", "of")
SHOWN = (
    ("bill_day", "Bill of a day"), ("bill", "Bill of a year"), ("capital", "Capital"),
    ("accelerators_peak", "Devices bought"), ("servers_peak", "Servers"), ("power", "Power"),
    ("tokens", "Tokens of a day"), ("answer_cost", "Cost of a reply"), ("input_cost", "Input"),
    ("output_cost", "Output"), ("tokens_per_accelerator", "Of each device bought"),
)  # fmt: skip
WORDS = {
    "users.dau": "daily users", "users.sessions": "replies each", "tokens.prompt": "length of prompts",
    "tokens.output": "length of replies", "peak.to_average": "busiest hour", "fleet.prefill": "a device reads",
    "fleet.decode": "a device writes", "growth.demand": "growth", "growth.performance_per_dollar": "tokens per dollar",
}  # fmt: skip


def demand_of(asked: Asked, rate: Rates) -> Demand:
    """The demand that the inputs describe, on machines that read and write at these rates."""
    device = Catalogue.read().find(asked.text("gpu"))
    price = asked.maybe("price") or device.usd_per_hour
    if price is None:
        raise RequestError(f"no price of {device.title} is known; give one in USD per device and hour.", param="price")
    longer = asked.number("lengths")
    hit, prompt = asked.number("hit"), asked.number("in")

    def length(value: float) -> dict[str, Any]:
        sure = Sure(value, value / longer, value * longer) if longer > 1 else Sure(value)
        return sure.table()

    table: dict[str, Any] = {
        "title": f"{asked.text('model')} on {device.title}", "gpu": device.name, "model": asked.text("model"),
        "users": {"dau": asked.sure("users").table(), "sessions": asked.sure("answers").table(), "turns": 1.0},
        "tokens": {"prompt": length(prompt * (1.0 - hit)), "output": length(asked.number("out"))},
        "peak": {"to_average": asked.sure("peak").table()},
        "growth": {"demand": asked.sure("growth").table(), "years": asked.whole("years"),
                   "performance_per_dollar": asked.sure("cheaper").table()},
        "fleet": {"prefill": _rate(rate.prefill), "decode": _rate(rate.decode), "per_server": 8.0},
        "money": {"gpu_hour": price, "server": asked.number("server")},
    }  # fmt: skip
    if hit > 0:
        table["tokens"] |= {"history": prompt * hit, "cached": 1.0}
    if device.utility_kw is not None:
        table["fleet"]["kw"] = device.utility_kw
    return from_table(table, where="the page")


def _rate(one: Quantity) -> dict[str, Any]:
    ends = {} if one.low is None else {"low": one.low, "high": one.high}
    return {"value": one.value, **ends, "source": one.source if one.source != "fitted" else "computed",
            "note": one.note or one.meaning}  # fmt: skip


def answer(asked: Asked) -> Answer:
    """The section about demand."""
    rate = rates(asked)
    found = estimate(demand_of(asked, rate), SAMPLES, SEED)
    made = found.quantities
    shown = [(title, made[name]) for name, title in SHOWN if name in made]
    says = (
        f"{spoken(made['users'].value)} users a day need {made['servers_peak'].value:,.0f} servers of 8: "
        f"${spoken(made['bill_day'].value)} a day."
    )
    lines = [rate.words]
    if found.place is not None:
        place = found.place
        lines.append(
            f"{place.implied.value:,.0f} tok/s for each device bought: {place.below} of {place.systems} measured "
            f"systems do less; their median is {place.median.value:,.0f}."
        )
    return Answer(says, "", shown, lines, tuple(_plots(found, asked)), (_inputs(found),))


def _plots(found: Estimate, asked: Asked) -> list[Plot]:
    names = ("tokens", "capital", "bill")
    drawn = figures.of_demand(replace(found, swings=(), scenarios={}))
    plots = [Plot(f"demand-{name}", chart) for name, chart in zip(names, drawn, strict=False)]
    of = asked.text("of")
    swings = tuple(swing for swing in tornado(found.demand, of) if swing.width > 0)
    chart = figures.tornado(swings, found.quantities[of].value, of, found.demand.unit(of))
    chart = replace(chart, categories=tuple(WORDS.get(name, name) for name in chart.categories))
    notes = {
        "input at P10": tuple(f"at {swing.low}" for swing in swings[: len(chart.categories)]),
        "input at P90": tuple(f"at {swing.high}" for swing in swings[: len(chart.categories)]),
    }
    if swings:
        plots.append(Plot("tornado", chart, notes))
    if found.place is not None:
        plots.append(Plot("measured", drawn[-1]))
    return plots


def _inputs(found: Estimate) -> Table:
    rows = []
    for name, one in found.demand.inputs.items():
        unit = one.term.unit.replace("money", found.demand.currency)
        rows.append((name, one.value, one.low, one.high, unit, one.term.meaning, one.tag, one.note))
    head = ("input", "value", "P10", "P90", "unit", "meaning", "source", "from")
    return Table("What went in", head, tuple(rows))


def spending_of(asked: Asked) -> crossing.Spending:
    """Training and inference as the inputs have them."""
    run, fleet = training(asked).totals[1], estimate_of(asked)
    made = fleet.quantities["bill_day"]
    terms, share = crossing.TERMS, asked.sure("rd")

    def one(name: str, value: float, low: float | None, high: float | None, note: str) -> Input:
        return Input(name, terms[name], value, low, high, "computed", note)

    inputs = [
        one("training.model", run.value, run.low, run.high, "the training bill's headline"),
        one("training.rl", asked.number("rl"), None, None, "given"),
        one("training.share_of_rd", share.value, share.low, share.high, "given"),
        one("inference.per_day", made.value, made.low, made.high, "the bill of a day at this demand"),
        one("growth.inference", *_net_growth(asked), "growth of demand, over tokens per dollar"),
    ]
    return crossing.Spending(asked.text("model"), {each.name: each for each in inputs})


def _net_growth(asked: Asked) -> tuple[float, float | None, float | None]:
    """Change of the bill in a year, with its ends: demand grows, a token costs less. Both are normal in ln(1 + x)."""
    demand, cheaper = asked.sure("growth"), asked.sure("cheaper")

    def apart(end: float | None, value: float) -> float:
        return 0.0 if end is None else math.log1p(end) - math.log1p(value)

    middle = math.log1p(demand.value) - math.log1p(cheaper.value)
    down = math.hypot(apart(demand.low, demand.value), apart(cheaper.high, cheaper.value))
    up = math.hypot(apart(demand.high, demand.value), apart(cheaper.low, cheaper.value))
    if not (down or up):
        return math.expm1(middle), None, None
    return math.expm1(middle), math.expm1(middle - down), math.expm1(middle + up)


def estimate_of(asked: Asked) -> Estimate:
    """The demand with its intervals."""
    return estimate(demand_of(asked, rates(asked)), SAMPLES, SEED)


def crossover(asked: Asked) -> Answer:
    """The section about the day on which inference has cost more than training."""
    try:
        spending = spending_of(asked)
    except ConfigError as error:
        raise RequestError(str(error)) from error
    found = crossing.crossover(spending, SAMPLES, SEED)
    first, shown = found[0], []
    for one in found:
        if one.day is not None:
            shown.append((f"To pass {one.case.removeprefix('and ')}", one.day))
    shown += [(f"Cost of {one.case.removeprefix('and ')}", one.training) for one in found]
    per_day = spending.inputs["inference.per_day"].value
    says = (
        f"After {first.day.value:,.0f} days at ${spoken(per_day)} a day, answering has cost as much as training."
        if first.day is not None
        else "Inference never costs as much as training, at this growth."
    )
    rows = []
    for one in found:
        day = one.day or Quantity(0.0, "days")
        ends = (day.low, day.high)
        rows.append((one.case, one.training.value, one.day.value if one.day else "never", *ends, f"{one.never:.0%}"))
    head = ("training counted", "cost [USD]", "day", "P10 [days]", "P90 [days]", "samples that never cross")
    table = Table("Days until inference has cost as much", head, tuple(rows))
    return Answer(says, "", shown, (), (Plot("crossover", figures.of_crossover(spending)),), (table,))
