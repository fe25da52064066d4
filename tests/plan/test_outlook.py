"""Years, sensitivities and what cannot be told apart."""

from __future__ import annotations

from typing import Any

import pytest

from fathom.plan.demand import from_table, read_demand
from fathom.plan.flow import flow
from fathom.plan.inputs import values
from fathom.plan.outlook import composite, target, tornado, years

TABLE: dict[str, Any] = {
    "traffic": {"input": {"value": 8.64e12, "low": 4e12, "high": 1e13}, "output": 8.64e11},
    "fleet": {"prefill": 1000.0, "decode": {"value": 100.0, "low": 50.0, "high": 200.0}},
    "money": {"server": 100.0, "life": 2.0, "operations": 0.5},
    "growth": {"demand": 1.0, "years": 3},
}


def test_what_moves_the_bill_most_stands_first() -> None:
    demand = from_table(TABLE)
    swings = tornado(demand, target(demand))
    assert [one.name for one in swings] == ["fleet.decode", "traffic.input"]
    worst = swings[0]
    for end, value in ((worst.at_low, 50.0), (worst.at_high, 200.0)):
        again = flow(demand, {**values(demand.inputs), "fleet.decode": value})["bill"]
        assert end.value == pytest.approx(again) and end.unit == "USD/year"
    assert worst.width == pytest.approx(worst.at_low.value - worst.at_high.value)


def test_purchases_keep_up_with_growth_and_wear() -> None:
    """Doubling every year, used for two years: what was bought two years ago is gone."""
    exact = {**TABLE, "traffic": {"input": 8.64e12, "output": 8.64e11}, "fleet": {"prefill": 1000.0, "decode": 100.0}}
    demand = from_table(exact)
    need = [float(flow(demand, values(demand.inputs), float(y))["servers_peak"]) for y in range(4)]
    assert need == [25_000, 50_000, 100_000, 200_000]
    bought = [25_000, 25_000, 75_000, 125_000]
    found = years(demand, 100, 0)
    assert [one["bought"].p50 for one in found] == bought
    assert [one["capital"].p50 for one in found] == [b * 100.0 for b in bought]
    bills = [(b + (bought[i - 1] if i else 0)) * 100.0 * (1 / 2 + 0.5) for i, b in enumerate(bought)]
    assert [one["bill"].p50 for one in found] == pytest.approx(bills)


def test_only_the_product_of_the_brokers_inputs_is_fixed() -> None:
    found = composite(read_demand("recipes/plan/doubao.toml"))
    assert found is not None
    assert found.factors == {
        "traffic.total": 1,
        "peak.to_average": 1,
        "fleet.active_parameters": 1,
        "fleet.utilisation": -1,
    }
    assert found.value.value == pytest.approx(30e12 * 2.43 * 20e9 / 0.3)
    assert found.formula().endswith(" / fleet.utilisation")


def test_inputs_that_do_more_than_scale_are_no_factors() -> None:
    inferred = {"source": "inferred", "note": "x"}
    table = {**TABLE, "fleet": {"prefill": {"value": 1000.0, **inferred}, "decode": {"value": 100.0, **inferred}}}
    assert composite(from_table(table)) is None  # each rate moves its own stream only
