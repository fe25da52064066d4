"""Charts show the numbers that were found."""

from __future__ import annotations

import pytest

from fathom.plan.crossover import read_spending
from fathom.plan.demand import estimate, read_demand
from fathom.plan.figures import of_crossover, of_demand
from fathom.plan.report import svg


def test_a_demand_is_drawn_as_fans_tornado_and_measured_systems() -> None:
    found = estimate(read_demand("recipes/plan/assistant.toml"), 500)
    charts = {chart.title: chart for chart in of_demand(found)}
    fan = charts["Bill of a year"].series[0]
    assert [y for _, y in fan.points] == [year["bill"].p50 for year in found.years]
    assert fan.low == tuple(year["bill"].p10 for year in found.years)
    bars = charts["What moves the bill of a year"]
    assert bars.sideways and bars.categories[0] == found.swings[0].name
    base = found.quantities["bill"].value
    for series in bars.series:
        assert all(low <= base <= high for low, high in zip(series.low, series.high, strict=True))
    assert len(charts["Tokens a second per accelerator"].categories) == 20
    assert all(svg(chart).startswith("<svg") for chart in charts.values())


def test_scenarios_of_the_broker_rise() -> None:
    found = estimate(read_demand("recipes/plan/doubao.toml"), 500)
    chart = next(c for c in of_demand(found) if c.title == "Capital by scenario")
    assert chart.categories == ("conservative", "neutral", "optimistic", "as stated") and chart.y_label == "RMB"
    values = [y for _, y in chart.series[0].points]
    assert values[:3] == sorted(values[:3]) and values[1] == values[3]


def test_inference_crosses_every_line_of_training() -> None:
    chart = of_crossover(read_spending())
    inference, *lines = chart.series
    assert len(lines) == 3 and chart.y_label == "USD"
    assert all(inference.points[0][1] < line.points[0][1] < inference.points[-1][1] for line in lines)
    assert inference.points[-1][1] == pytest.approx(1.2 * lines[-1].points[0][1], rel=1e-6)
