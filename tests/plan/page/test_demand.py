"""The sections about demand and crossover: the chain from users to a bill and to a day, worked by hand beside it."""

from __future__ import annotations

import math

import pytest

from fathom.errors import RequestError
from fathom.plan.demand import estimate
from fathom.plan.page.demand import answer, crossover, demand_of, estimate_of, spending_of
from fathom.plan.page.fields import Asked
from fathom.plan.page.serve import Rates, rates
from fathom.plan.quantity import Quantity

SMALL = {"model": "llama-3.1-8b", "gpu": "h100_sxm", "in": "1000", "out": "200", "largest": "2", "mtp": "0",
         "trained_on": "64", "tokens": "15T"}  # fmt: skip
EXACT = {**SMALL, "users": "1M", "answers": "10", "lengths": "1", "peak": "1.5", "growth": "50%", "cheaper": "0"}


def test_a_bill_worked_by_hand() -> None:
    """10 million replies of 200 tokens, half of prompts of 1,000 found: accelerators, servers, dollars."""
    asked = Asked({**EXACT, "hit": "0.5", "price": "2"})
    rate = Rates(Quantity(10_000.0, "tok/s/GPU"), Quantity(2_000.0, "tok/s/GPU"), "given")
    found = demand_of(asked, rate)
    made = estimate(found, 200).quantities
    mean = 1e7 * 500 / 86_400 / 10_000 + 1e7 * 200 / 86_400 / 2_000
    servers = math.ceil(mean * 1.5 / 8)
    assert made["accelerators"].value == pytest.approx(mean)
    assert made["servers_peak"].value == servers
    assert made["bill_day"].value == pytest.approx(servers * 8 * 2 * 24)
    assert made["capital"].value == pytest.approx(servers * 300e3)
    assert made["cached"].value == pytest.approx(1e7 * 500)


def test_the_section_says_its_numbers_and_draws_them() -> None:
    asked = Asked(SMALL)
    found, fleet = answer(asked), estimate_of(asked)
    numbers = dict(found.numbers)
    assert numbers["Bill of a day"] == fleet.quantities["bill_day"]
    assert numbers["Bill of a day"].low < numbers["Bill of a day"].value < numbers["Bill of a day"].high
    plots = {plot.name: plot for plot in found.plots}
    assert list(plots) == ["demand-tokens", "demand-capital", "demand-bill", "tornado", "measured"]
    fan = plots["demand-bill"].chart.series[0]
    assert [x for x, _ in fan.points] == [0, 1, 2, 3, 4, 5]
    assert all(low < y < high for low, (_, y), high in zip(fan.low, fan.points, fan.high, strict=True))
    assert plots["tornado"].chart.categories[0] in ("replies each", "daily users")
    widths = [
        max(high for high in ends) for ends in zip(*(one.high for one in plots["tornado"].chart.series), strict=True)
    ]
    assert len(widths) == len(plots["tornado"].notes["input at P90"])


def test_what_moves_may_be_capital() -> None:
    plots = {plot.name: plot for plot in answer(Asked({**SMALL, "of": "capital"})).plots}
    assert "capital" in plots["tornado"].chart.title and "USD]" in plots["tornado"].chart.y_label


def test_the_day_of_crossover_is_training_over_the_bill() -> None:
    """Without growth C / c; with g a year ln(1 + g C / c) / g, as the bill grows."""
    asked = Asked({**EXACT, "growth": "0"})
    spending = spending_of(asked)
    ratio = spending.inputs["training.model"].value / spending.inputs["inference.per_day"].value
    first = dict(crossover(asked).numbers)["To pass the model"].value
    assert first == pytest.approx(ratio)
    grown = Asked(EXACT)
    growth = spending_of(grown).inputs["growth.inference"].value
    g = math.log1p(growth) / 365
    assert dict(crossover(grown).numbers)["To pass the model"].value == pytest.approx(math.log1p(g * ratio) / g)
    assert growth == pytest.approx(0.5), "the bill follows demand where a token costs the same"
    both = spending_of(Asked({**EXACT, "growth": "100%", "cheaper": "100%"})).inputs["growth.inference"]
    assert both.value == pytest.approx(0.0) and both.low is None


def test_rates_come_from_the_search() -> None:
    asked = Asked(SMALL)
    inputs = estimate_of(asked).demand.inputs
    assert inputs["fleet.decode"].value == rates(asked).decode.value


def test_a_device_without_a_price_asks_for_one() -> None:
    asked = Asked({**SMALL, "gpu": "a100_sxm"})
    with pytest.raises(RequestError, match="no price of A100") as caught:
        answer(asked)
    assert caught.value.param == "price"
