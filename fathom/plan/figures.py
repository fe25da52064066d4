"""Charts of demand, crossover, thinking and scaling, for a page or a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from fathom.plan.crossover import Spending, curves
from fathom.plan.demand import Estimate
from fathom.plan.outlook import Swing
from fathom.plan.report import Chart, Series
from fathom.plan.study import COMPUTE, Study
from fathom.plan.thinking import Advice, Length, Priced

WORDS = {
    "bill": "bill of a year", "capital": "capital", "accelerators_peak": "accelerators bought",
    "tokens": "tokens of a day", "bought": "servers bought in the year", "revenue_day": "revenue of a day",
}  # fmt: skip


def of_demand(found: Estimate) -> list[Chart]:
    """Scenarios, tornado, measured systems, and a fan over the years for what is followed."""
    charts = [*_fans(found)]
    if found.swings:
        charts.append(tornado(found.swings, found.quantities[found.of].value, found.of, found.demand.unit(found.of)))
    if found.scenarios:
        charts.append(_scenarios(found))
    charts.append(_streams(found))
    if found.place is not None:
        charts.append(_measured(found))
    return charts


def _fans(found: Estimate) -> list[Chart]:
    if len(found.years) < 2:
        return []
    charts = []
    for name in ("tokens", "capital", "bill"):
        if name not in found.years[0]:
            continue
        spreads = [year[name] for year in found.years]
        low, high = tuple(one.p10 for one in spreads), tuple(one.p90 for one in spreads)
        points = tuple((float(year), one.p50) for year, one in enumerate(spreads))
        series = Series("P50, and P10 to P90", points, low=low, high=high)
        title = "spent on servers in the year" if name == "capital" else WORDS[name]
        charts.append(Chart(title.capitalize(), "years from now", spreads[0].unit, (series,), log_y=min(low) > 0))
    return charts


def tornado(swings: tuple[Swing, ...], base: float, of: str, unit: str, most: int = 10) -> Chart:
    """What moves a result, the furthest first: two bars from the result as stated."""
    shown = swings[:most]
    sides = []
    for name, end in (("input at P10", "at_low"), ("input at P90", "at_high")):
        values = [getattr(swing, end).value for swing in shown]
        low, high = tuple(min(base, v) for v in values), tuple(max(base, v) for v in values)
        sides.append(Series(name, tuple((float(i), v) for i, v in enumerate(values)), "bars", low, high))
    names = tuple(swing.name for swing in shown)
    return Chart(
        f"What moves the {WORDS.get(of, of)}", "", f"{WORDS.get(of, of)} [{unit}]", tuple(sides), names, sideways=True
    )


def _scenarios(found: Estimate) -> Chart:
    name = "capital" if "capital" in found.quantities else found.of
    sets = {**found.scenarios, "as stated": found.quantities}
    points = tuple((float(i), one[name].value) for i, one in enumerate(sets.values()))
    ends = [(one[name].low, one[name].high) for one in sets.values()]
    low = tuple(end if end is not None else p[1] for (end, _), p in zip(ends, points, strict=True))
    high = tuple(end if end is not None else p[1] for (_, end), p in zip(ends, points, strict=True))
    series = (Series("as stated, and P10 to P90", points, "dots", low, high),)
    return Chart(f"{WORDS.get(name, name).capitalize()} by scenario", "", found.demand.unit(name), series, tuple(sets))


def _streams(found: Estimate) -> Chart:
    names = ("prefill", "cached", "decode")
    points = tuple((float(i), found.quantities[name].value) for i, name in enumerate(names))
    series = (Series("tokens", points, "bars"),)
    return Chart("Tokens by stream", "", "tokens/day", series, names)


def _measured(found: Estimate) -> Chart:
    assert found.place is not None, "only called where there is a place"
    rows = [(name, rate) for name, rate, _, _ in found.place.rows] + [("this estimate", found.place.implied.value)]
    rows.sort(key=lambda row: row[1])
    ours = next(i for i, row in enumerate(rows) if row[0] == "this estimate")
    dots = tuple((float(i), rate) for i, (_, rate) in enumerate(rows) if i != ours)
    series = (
        Series("measured on V3-class models", dots, "dots"),
        Series("this estimate", ((float(ours), rows[ours][1]),), "dots"),
    )
    names = tuple(name for name, _ in rows)
    return Chart("Tokens a second per accelerator", "", "tok/s/GPU", series, names, log_y=True, sideways=True)


def of_crossover(spending: Spending) -> Chart:
    """What inference has cost by each day, and the lines of training that it crosses."""
    drawn = curves(spending)
    days, lines = drawn["days"], drawn["training"]
    series = [Series("inference so far", tuple(zip(days, drawn["inference"], strict=True)))]
    lines_drawn: Mapping[str, float] = lines
    for name, cost in lines_drawn.items():
        series.append(Series(f"training: {name}", ((days[0], float(cost)), (days[-1], float(cost)))))
    return Chart(f"Inference against training: {spending.title}", "days from today", spending.currency, tuple(series))


def of_thinking(ways: Sequence[Priced], advice: Advice) -> list[Chart]:
    """Accuracy against cost and against thinking tokens; the knee is named."""
    charts = []
    for title, label, at in (
        ("Accuracy against the cost of an answer", ways[0].cost.unit, lambda one: one.cost.value),
        ("Accuracy against thinking", "tokens of thought", lambda one: one.cell.thinking * one.cell.samples),
    ):
        sides: tuple[tuple[str, list[Priced]], ...] = (
            ("none cheaper is right as often", [one for one in ways if one.frontier]),
            ("another is cheaper and right as often", [one for one in ways if not one.frontier]),
        )
        series = []
        for name, part in sides:
            if part:
                low, high = ([getattr(one.accuracy, end) for one in part] for end in ("low", "high"))
                known = all(end is not None for end in (*low, *high))
                words = tuple(f"knee: {one.cell.label}" if one is advice.knee else one.cell.label for one in part)
                points = tuple((float(at(one)), one.cell.accuracy) for one in part)
                ends = (tuple(low), tuple(high)) if known else ((), ())
                series.append(Series(name, points, "dots", *ends, labels=words))
        positive = all(x > 0 for one in series for x, _ in one.points)
        charts.append(Chart(title, label, "share of answers that are right", tuple(series), log_x=positive))
    return charts


def of_lengths(found: Sequence[Length]) -> Chart:
    """What an answer costs by its length, its context growing or not."""
    shown = [one for one in found if one.tokens > 0]
    growing = Series("its context growing", tuple((float(one.tokens), one.cost.value) for one in shown))
    flat = Series("every token at one price", tuple((float(one.tokens), one.flat.value) for one in shown))
    return Chart("Cost of an answer", "tokens generated", shown[0].cost.unit, (growing, flat), log_x=True, log_y=True)


def of_study(found: Study) -> list[Chart]:
    """Loss against compute with the law through it, and accuracy against thought."""
    charts = []
    points = tuple((run.flops, run.loss) for run in found.runs)
    series = [Series("runs", points, "dots")]
    law = found.laws.get(COMPUTE)
    if law is not None:
        low, high = (math.log(edge(run.flops for run in found.runs)) for edge in (min, max))
        steps = [math.exp(low + (high - low + 2.3) * i / 40) for i in range(41)]  # and ten times as much
        spreads = [law.interval(step) for step in steps]
        ends = (tuple(one.p10 for one in spreads), tuple(one.p90 for one in spreads))
        series.insert(0, Series("law, P10 to P90", tuple((s, law.at(s)) for s in steps), "line", *ends))
    charts.append(Chart("Loss against compute", "FLOP", "nats/token", tuple(series), log_x=True))
    if found.thought is not None:
        single = [cell for cell in found.cells if cell.samples == 1]
        longest = max(cell.thinking for cell in single)
        line = tuple((longest * i / 40, found.thought.at(longest * i / 40)) for i in range(41))
        dots = Series("measured", tuple((cell.thinking, cell.accuracy) for cell in single), "dots")
        both = (Series("law", line), dots)
        charts.append(Chart("Accuracy against thought", "tokens of thought", "share of answers that are right", both))
    return charts
