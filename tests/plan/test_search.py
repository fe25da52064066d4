"""The search keeps its targets, and what is looser, larger or cheaper never makes a plan dearer."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fathom.config import load_config
from fathom.errors import ConfigError
from fathom.plan.points import (
    best_decode,
    prefill_points,
)
from fathom.plan.pools import Choices, Workload
from fathom.plan.search import Service, cost, matched, needed, pools, services
from fathom.plan.serving import find
from tests.plan.served import SMALL, device, found, shape, there

ASK = Workload(input=2000, output=500)


@pytest.fixture
def eight():
    """Eight H200 with data-parallel attention."""
    return next(one for one in there(ASK) if one.setup.layout.dp == 8 == one.setup.layout.ep)


def test_replicas_are_as_many_as_the_rate_needs(eight) -> None:
    point = best_decode(eight, ASK)
    assert point is not None
    assert needed(point.rate, point) == 1 and needed(point.rate * 2.01, point) == 3 and needed(1e-9, point) == 1


def test_pools_that_match_waste_little(eight) -> None:
    decode, prefill = best_decode(eight, ASK), max(prefill_points(eight, ASK), key=lambda p: p.rate)
    assert decode is not None
    one = matched(decode, prefill)
    assert one.rate > 0.95 * max(one.decodes * decode.rate, one.prefills * prefill.rate)


def test_a_rate_takes_the_cheapest_of_all_services() -> None:
    ask = replace(ASK, rps=50.0)
    made = pools(there(ASK), ask)
    listed = services(made, ask)
    assert all(one.rate >= 50.0 for one in listed)
    every = [Service(d, p, needed(50.0, d), needed(50.0, p)) for d in made.decode for p in made.prefill]
    every += [Service(b, decodes=needed(50.0, b)) for b in made.both]
    assert cost(listed[0]) == pytest.approx(min(map(cost, every)))


def test_gpus_that_are_given_are_not_exceeded_and_more_give_more() -> None:
    made = pools(there(ASK), ASK)
    few, many = (services(made, replace(ASK, gpus=n)) for n in (40, 64))
    assert max(one.gpus for one in few) <= 40 and many[0].gpus <= 64
    assert many[0].rate >= few[0].rate == max(one.rate for one in few)


@settings(max_examples=8)
@given(
    tpot=st.floats(0.015, 0.2), looser=st.floats(1.0, 3.0), ttft=st.floats(0.5, 4.0), patience=st.floats(1.0, 3.0),
    rate=st.floats(1, 300),
)  # fmt: skip
def test_a_looser_target_never_needs_more_gpus(tpot, looser, ttft, patience, rate) -> None:
    ask = replace(ASK, tpot_s=tpot, ttft_s=ttft, rps=rate)
    few = there(ASK)[::3]
    tight = services(pools(few, ask), ask)
    loose = replace(ask, tpot_s=tpot * looser, ttft_s=ttft * patience)
    if tight:
        assert services(pools(few, loose), loose)[0].gpus <= tight[0].gpus


EIGHTS = Choices(gpus=8, mtp=(0,), overlap=(False,), split=(False,))


@settings(max_examples=4)
@given(cheaper=st.floats(0.2, 1.0), rate=st.floats(5, 200))
def test_a_cheaper_device_never_makes_the_plan_dearer(cheaper, rate) -> None:
    ask, config = replace(ASK, rps=rate), load_config("deepseek-v3")
    h200 = device("h200")
    assert h200.usd_per_hour is not None
    less = replace(h200, rented_usd_h=h200.usd_per_hour * cheaper)
    pair = [
        find(shape(), [one, device("b200")], ask, EIGHTS, config=config, curve=False).chosen for one in (h200, less)
    ]
    assert cost(pair[1]) <= cost(pair[0]) * (1 + 1e-9)


def test_more_devices_to_choose_from_never_make_it_dearer() -> None:
    ask, config = replace(ASK, rps=100.0), load_config("deepseek-v3")
    alone, both = (find(shape(), [device(name) for name in names], ask, EIGHTS, config=config, curve=False).chosen
                   for names in (("h200",), ("h200", "b200")))  # fmt: skip
    assert cost(both) <= cost(alone)


def test_what_cannot_be_served_says_what_would_help() -> None:
    with pytest.raises(ConfigError, match="no layout has room"):
        found(ASK, replace(EIGHTS, gpus=4), "h100")
    with pytest.raises(ConfigError, match="a time per token of 1 ms"):
        found(replace(ASK, tpot_s=1e-3), EIGHTS)
    with pytest.raises(ConfigError, match="a first token within 0.001 s"):
        found(replace(ASK, ttft_s=1e-3, tpot_s=1.0), replace(EIGHTS, split=(True,)))


def test_the_curve_falls_and_nothing_lies_above_it() -> None:
    plan = found(ASK, replace(SMALL, gpus=8), curve=True)
    curve = plan.pareto
    speeds, rates = [p.speed for p in curve], [p.throughput for p in curve]
    assert speeds == sorted(speeds, reverse=True) and rates == sorted(rates) and len(curve) > 5
    best = plan.chosen
    faster = [p.throughput for p in curve if p.speed >= 1 / best.decode.tpot_mean_s * 1.001]
    assert faster and max(faster) <= best.rate_per_gpu * ASK.output * 1.01  # else it would be the plan
