"""Every number of a plan has a unit and lies in its interval; money and tokens add up."""

from dataclasses import replace

import pytest

from fathom.plan.pools import Choices, Workload
from fathom.plan.quantity import Quantity
from fathom.plan.serving import (
    bound,
    front,
    gained,
    interval,
    layout_name,
    name_of,
    quantities,
    ranked,
    shares,
    step_of,
    trials,
    verdict,
    why_not,
)
from fathom.plan.trial import trial
from tests.plan.served import SMALL, found

ASK = Workload(input=2000, output=500, rps=30.0)
SPLIT, ONE = (replace(SMALL, split=(flag,)) for flag in (True, False))


def test_every_number_has_a_unit_and_lies_in_its_interval() -> None:
    for choices in (SPLIT, ONE):
        plan = found(ASK, choices)
        tried = trial(plan.chosen, ASK, rows=2000)
        numbers = quantities(plan, tried, tried, tried)
        assert {"gpus", "rate", "tpot", "ttft_p99", "tpot_p50", "usd_per_million_out"} <= numbers.keys()
        for one in numbers.values():
            assert isinstance(one, Quantity) and one.unit
            if one.low is not None and one.high is not None:
                assert one.low <= one.value <= one.high


def test_the_bill_is_what_the_tokens_cost() -> None:
    plan = found(ASK)
    numbers = quantities(plan, None)
    per_hour = sum(ASK.rps * 3600 / 1e6 * numbers[f"usd_per_million_{way}"].value * count
                   for way, count in (("in", ASK.input), ("out", ASK.output)))  # fmt: skip
    assert per_hour == pytest.approx(numbers["usd_per_hour"].value)
    device = plan.chosen.decode.replica.setup.device
    assert numbers["usd_per_hour"].value == pytest.approx(plan.chosen.gpus * device.usd_per_hour)
    assert device.price_date in numbers["usd_per_hour"].note


def test_an_average_below_the_peak_costs_more_per_token() -> None:
    flat, shaped = (quantities(found(replace(ASK, rps=None, peak=peak)), None) for peak in (1.0, 1.45))
    ratio = shaped["usd_per_million_out"].value / flat["usd_per_million_out"].value
    assert ratio == pytest.approx(1.45, rel=0.01)


def test_shares_of_a_bill_are_those_of_the_pools() -> None:
    split, one = found(ASK, SPLIT).chosen, found(ASK, ONE).chosen
    assert split.prefill is not None
    expected = split.prefills * split.prefill.gpus / split.gpus
    assert shares(split) == (pytest.approx(expected), pytest.approx(1 - expected))
    assert sum(shares(one)) == pytest.approx(1.0) and 0 < shares(one)[0] < 1
    assert gained(one.decode) == 1.0


def test_a_device_without_a_price_gives_a_plan_without_a_bill() -> None:
    numbers = quantities(
        found(replace(ASK, rps=2.0), Choices(gpus=16, mtp=(0,), overlap=(False,)), "ascend_910b"), None
    )
    assert numbers["usd_per_hour"] is None or numbers["usd_per_hour"].note


def test_the_median_of_the_trial_lies_in_the_plans_interval_or_it_is_said() -> None:
    plan = found(ASK, SPLIT)
    tried = trial(plan.chosen, ASK, rows=20_000)
    low, high = interval(plan.loaded.tpot_mean_s, step_of(plan.loaded).sd)
    inside = low <= tried.tpot.p50 <= high
    assert ("lies within" if inside else "OUTSIDE") in verdict(plan, tried)[0] and inside
    slow = replace(tried, tpot=replace(tried.tpot, p50=10.0, p90=11.0))
    assert "OUTSIDE" in verdict(plan, slow)[0] and "MISSES" in verdict(plan, slow)[2]
    assert "--tpot 0.2ms" in verdict(plan, slow)[2]  # 50 ms x 50 ms / 11 s


def test_a_plan_with_room_to_spare_is_faster_than_its_target() -> None:
    plan = found(replace(ASK, rps=1.0))
    assert plan.offered == 1.0 and plan.loaded.rate == pytest.approx(1.0 / plan.chosen.decodes, rel=0.01)
    assert plan.loaded.tpot_mean_s < plan.chosen.decode.tpot_mean_s


def test_slower_and_faster_steps_bound_the_trial() -> None:
    plan = found(replace(ASK, rps=10.0), ONE)
    usual, slow, fast = trials(plan, rows=10_000)
    assert fast.tpot.p50 < usual.tpot.p50 < slow.tpot.p50


def test_the_runner_up_has_another_layout_and_a_reason_with_numbers() -> None:
    plan = found(replace(ASK, rps=None))
    assert plan.runner_up is not None and plan.runner_up.decode.key != plan.chosen.decode.key
    said = why_not(plan)
    assert name_of(plan.runner_up) in said and sum(c.isdigit() for c in said) > 6 and said.endswith(".")
    assert "no other layout" in why_not(replace(plan, runner_up=None))
    mixed = max((s for s in found(ASK, ONE).services), key=lambda s: s.rate_per_gpu)
    assert "one pool does both" in why_not(replace(found(ASK, SPLIT), runner_up=mixed))


def test_services_are_ranked_by_what_was_asked() -> None:
    listed = list(found(ASK).services)
    costs = [one.usd_per_hour for one in ranked(listed, ASK)]
    assert costs == sorted(costs)
    rates = [one.rate for one in ranked(listed, replace(ASK, rps=None, gpus=64))]
    assert rates == sorted(rates, reverse=True)
    assert found(ASK).alike(1.0) >= found(ASK).alike(0.05) >= 1


def test_the_front_keeps_what_nothing_beats() -> None:
    plan = found(ASK, replace(SPLIT, gpus=8), curve=True)
    assert front([*plan.pareto, *plan.pareto]) == list(plan.pareto)


def test_names_say_the_layout_and_bounds_the_resource() -> None:
    one = found(ASK, ONE).chosen.decode
    assert f"EP{one.replica.setup.layout.ep}" in layout_name(one.replica)
    assert bound(one) in {"memory bandwidth", "compute", "launches", "network", "links", "balance of ranks"}
