"""The section about serving says what the search found; its rates are what demand is reckoned with."""

from __future__ import annotations

import pytest

from fathom.errors import RequestError
from fathom.plan.page.fields import Asked
from fathom.plan.page.serve import answer, device_of, found_of, rates

SMALL = {"model": "llama-3.1-8b", "gpu": "h100_sxm", "in": "1024", "out": "256", "largest": "2", "mtp": "0"}


def of(**query: str) -> Asked:
    return Asked({**SMALL, **query})


def test_the_plan_keeps_its_targets_and_every_number_has_a_unit() -> None:
    found = answer(of())
    numbers = dict(found.numbers)
    assert numbers["Then a token every"].value <= 50.0 and numbers["First token"].value <= 2000.0
    assert numbers["Speed of a user"].value == pytest.approx(1e3 / numbers["Then a token every"].value)
    assert {"tok/s/user", "tok/s/GPU", "USD/M tokens", "ms"} <= {one.unit for _, one in found.numbers}


def test_the_frontier_falls_and_its_points_say_their_plans() -> None:
    pareto, cost, step = answer(of()).plots
    curve = pareto.chart.series[0].points
    assert [x for x, _ in curve] == sorted((x for x, _ in curve), reverse=True)
    assert [y for _, y in curve] == sorted(y for _, y in curve)
    for plot in (pareto, cost):
        for one in plot.chart.series:
            if one.name in plot.notes:
                assert len(plot.notes[one.name]) == len(one.points)
                assert all("bound by" in words for words in plot.notes[one.name])
    shown, hidden = step.chart.series
    assert list(hidden.low) == [y for _, y in shown.points]


def test_a_price_that_is_given_counts() -> None:
    assert device_of(of(price="3")).usd_per_hour == 3.0
    cheap, dear = (dict(answer(of(price=price)).numbers)["Output"].value for price in ("1", "3"))
    assert dear == pytest.approx(3 * cheap)
    points = [answer(of(price=price)).plots[1].chart.series[0].points for price in ("1", "3")]
    assert [y * 3 for _, y in points[0]] == pytest.approx([y for _, y in points[1]])


def test_rates_give_back_the_rate_of_the_service() -> None:
    """Devices for reading and for writing, at these rates, are the devices of the service."""
    asked = of(hit="0.5")
    one, rate, workload = found_of(asked).chosen, rates(asked), found_of(asked).workload
    reading = one.rate * workload.computed / rate.prefill.value
    writing = one.rate * workload.output / rate.decode.value
    assert reading + writing == pytest.approx(one.gpus, rel=0.06)  # whole replicas of two pools match within 5 %
    assert rate.prefill.low is not None and rate.prefill.low < rate.prefill.value


def test_what_cannot_be_reached_is_refused_at_its_input() -> None:
    with pytest.raises(RequestError, match="per token") as caught:
        answer(of(tpot="0.6"))
    assert caught.value.param == "tpot"
    with pytest.raises(RequestError, match="no layout has room") as caught:
        answer(of(model="llama-3.1-405b"))
    assert caught.value.param == "gpu"
