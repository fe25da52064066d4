"""The day on which inference has cost more than training."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fathom.errors import ConfigError
from fathom.plan.crossover import cases, crossover, curves, day, from_table, of_demand, read_spending, spent
from fathom.plan.demand import read_demand
from fathom.plan.inputs import values


def days(*overrides: str) -> dict[str, float]:
    found = crossover(read_spending(None, overrides), 1000)
    return {one.case: one.day.value if one.day else math.inf for one in found}


def test_published_days_of_v3() -> None:
    """5.576M / 87,072 a day: 64 days; with R1's reinforcement learning 67; with all research about 1.8 years."""
    found = days()
    assert found["the model"] == pytest.approx(5_576_000 / 87_072) and round(found["the model"]) == 64
    assert round(found["and reinforcement learning"]) == 67
    assert found["and all research compute"] / 365 == pytest.approx(1.8, abs=0.05)


def test_the_formula_is_the_integral() -> None:
    """Adding up a day at a time, each dearer than the last, crosses on the day that the formula says."""
    cost, per_day, growth = 5.576e6, 20_000.0, 1.5
    rate = math.log(1 + growth) / 365
    total, t, step = 0.0, 0.0, 0.01
    while total < cost:
        total += per_day * math.exp(rate * (t + step / 2)) * step
        t += step
    assert float(day(cost, per_day, growth)) == pytest.approx(t, abs=2 * step)
    assert float(day(cost, per_day, growth)) == pytest.approx(math.log(1 + rate * cost / per_day) / rate)


def test_shrinking_inference_may_never_pass() -> None:
    """At c a day and half of it every year, all inference to come costs c x 365 / ln 2."""
    ever = 365 / math.log(2)
    assert math.isinf(float(day(ever * 1.001, 1.0, -0.5))) and math.isfinite(float(day(ever * 0.99, 1.0, -0.5)))
    found = crossover(read_spending(None, ["growth.inference=-0.9", "training.model=1e9"]), 500)
    assert all(one.day is None and one.never == 1.0 for one in found)
    assert found[0].to_dict()["day"] is None


@given(st.floats(1.0, 1e11), st.floats(1.0, 1e8), st.floats(-0.99, 10.0), st.floats(1.0, 10.0))
@settings(max_examples=200)
def test_more_to_recoup_takes_longer_and_growth_is_sooner(
    cost: float, per_day: float, growth: float, more: float
) -> None:
    base = float(day(cost, per_day, growth))
    assert not math.isnan(base) and base >= 0
    assert float(day(cost * more, per_day, growth)) >= base * (1 - 1e-9)
    assert float(day(cost, per_day * more, growth)) <= base * (1 + 1e-9)
    assert float(day(cost, per_day, growth + 0.5)) <= base * (1 + 1e-6)
    if math.isfinite(base):
        assert float(spent(base, per_day, growth)) == pytest.approx(cost, rel=1e-6)


def test_what_is_uncertain_has_an_interval_and_what_is_not_has_none() -> None:
    found = {one.case: one for one in crossover(read_spending(), 4000)}
    assert found["the model"].spread is None and found["the model"].day is not None
    research = found["and all research compute"].spread
    assert research is not None
    # the share of the final run is 0.05 to 0.25: training of 5.576M over it, and 0.294M
    assert research.p10 == pytest.approx((5.576e6 / 0.25 + 294e3) / 87_072, rel=0.05)
    assert research.p90 == pytest.approx((5.576e6 / 0.05 + 294e3) / 87_072, rel=0.05)


def test_a_demand_brings_its_bill_and_growth() -> None:
    demand = read_demand("recipes/plan/deepseek-day.toml", ["growth.demand=1.0", "growth.performance_per_dollar=0.25"])
    spending = of_demand(read_spending(), demand)
    assert spending.inputs["inference.per_day"].value == pytest.approx(87_072)
    assert spending.inputs["growth.inference"].value == pytest.approx(2 / 1.25 - 1)
    with pytest.raises(ConfigError, match="RMB and training in USD"):
        of_demand(read_spending(), read_demand("recipes/plan/doubao.toml"))


def test_curves_cross_where_they_should() -> None:
    spending = read_spending()
    drawn = curves(spending)
    lines = cases(values(spending.inputs))
    assert drawn["training"] == lines and max(drawn["inference"]) > max(lines.values())
    for name, cost in lines.items():
        assert np.interp(cost, drawn["inference"], drawn["days"]) == pytest.approx(days()[name], rel=1e-6)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"inference": {"per_day": 1.0}}, "training.model must be given"),
        ({"training": {"model": 1.0}, "inference": {"per_day": 0}}, "inference.per_day is 0"),
        ({"training": {"model": 1.0, "share_of_rd": 0}, "inference": {"per_day": 1}}, "share_of_rd is 0; it must"),
        ({"training": {"model": 1.0}, "inference": {"per_day": 1}, "x": 1}, "unknown key 'x'"),
        ({"training": {"model": 1.0}, "inference": {"per_day": 1}, "title": 1}, "title is 1; it must be a text"),
    ],
)  # fmt: skip
def test_bad_files_get_one_line(table: dict, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_table(table)
    assert message in str(caught.value) and "\n" not in str(caught.value)
