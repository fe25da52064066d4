"""Whole demands: the two published ones to their tolerances, and what a file may say."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fathom.errors import ConfigError, InputError
from fathom.plan.demand import Estimate, estimate, from_table, read_demand
from fathom.plan.flow import OUTPUTS, TERMS

DAY, DOUBAO, ASSISTANT = (f"recipes/plan/{name}.toml" for name in ("deepseek-day", "doubao", "assistant"))
SMALL: dict[str, Any] = {
    "traffic": {"input": 1e9, "output": 1e8}, "fleet": {"prefill": 5000, "decode": 1000}, "money": {"gpu_hour": 2.0},
}  # fmt: skip


def results(path: str, *overrides: str) -> Estimate:
    return estimate(read_demand(path, overrides), 1000)


def test_deepseeks_day_as_published() -> None:
    """Service economics and node split of open-infra-index day 6, to the tolerances of their rounding."""
    found = results(DAY).quantities
    assert found["servers"].value == pytest.approx(226.75, rel=1e-12)
    assert found["bill_day"].value == pytest.approx(87_072, rel=1e-12)
    assert found["revenue_day"].value == pytest.approx(562_027, rel=2e-4)
    assert found["margin"].value == pytest.approx(545, abs=0.5)
    assert found["cached"].value / 608e9 == pytest.approx(0.563, abs=1e-3)
    assert found["servers_peak"].value == 278
    assert found["input_cost"].value == pytest.approx(0.060, abs=0.001)  # USD per M tokens at 2 USD an hour
    assert found["output_cost"].value == pytest.approx(0.300, abs=0.001)


def test_the_published_rates_give_the_published_servers() -> None:
    """608e9 / 86,400 / 73,700 + 168e9 / 86,400 / 14,800 = 95.5 + 131.4 = 226.9; published 226.75."""
    demand = read_demand(DAY)
    assert 1 / demand.calibration == pytest.approx((608e9 / 73_700 + 168e9 / 14_800) / 86_400 / 226.75, rel=1e-12)
    assert demand.calibration == pytest.approx(1.0, abs=1e-3)
    found = results(DAY).quantities
    assert found["accelerators_prefill"].value / 8 == pytest.approx(95.5, rel=1e-3)
    assert found["accelerators_decode"].value / 8 == pytest.approx(131.4, rel=1e-3)


def test_what_was_counted_stays_with_its_day() -> None:
    """More traffic needs more servers than were counted, in proportion."""
    twice = results(DAY, "traffic.input=1216e9", "traffic.output=336e9").quantities
    assert twice["servers"].value == pytest.approx(2 * 226.75)


def test_the_brokers_three_results() -> None:
    """759, 1,139 and 1,898 yi RMB, 2 : 3 : 5, from one composite; 457 tok/s per H20 of mean demand."""
    found = results(DOUBAO)
    for name, published in (("conservative", 75.9e9), ("neutral", 113.9e9), ("optimistic", 189.8e9)):
        assert found.scenarios[name]["capital"].value == pytest.approx(published, rel=2e-3)
    assert {one.scenario for one in found.compared} == {"conservative", "neutral", "optimistic"}
    assert all(abs(one.error) < 2e-3 for one in found.compared)
    assert found.quantities["tokens_per_accelerator"].value == pytest.approx(457, rel=2e-3)
    assert found.quantities["flop_per_token"].value == pytest.approx(3.24e11, rel=1e-3)
    assert found.quantities["accelerators_peak"].value / 3 == pytest.approx(253e3, rel=3e-3)  # per 10T tokens a day


def test_other_decompositions_give_the_same_capital() -> None:
    found = results(DOUBAO)
    stated = found.quantities["capital"].value
    assert len(found.alternatives) == 2
    assert all(one["capital"].value == pytest.approx(stated, rel=1e-3) for one in found.alternatives.values())


def test_the_inputs_of_the_broker_say_what_they_are() -> None:
    tags = {name: one.tag for name, one in read_demand(DOUBAO).inputs.items()}
    published = {"users.dau", "fleet.flops", "money.server"}
    assert {name for name, tag in tags.items() if tag == "published"} == published
    assert all(tags[name] == "inferred" for name in ("traffic.total", "peak.to_average", "fleet.utilisation"))


def test_capital_is_held_against_the_clouds() -> None:
    found = results(DOUBAO)
    assert found.capex_share is not None
    assert found.capex_share.value == pytest.approx(114.0e9 / 7.3 / 301.2e9, rel=1e-3)
    assert "capex" in found.to_dict()
    assert results(DAY).capex_share is None  # rented: no capital


def test_samples_are_repeatable_and_hold_the_stated_value() -> None:
    one, two, other = (estimate(read_demand(DOUBAO), 2000, seed) for seed in (5, 5, 6))
    assert one.to_dict() == two.to_dict() != other.to_dict()
    capital = one.quantities["capital"]
    assert capital.low is not None and capital.high is not None and capital.low < capital.value < capital.high
    spread = one.spreads["capital"]
    assert spread.p10 < spread.p50 < spread.p90


@pytest.mark.parametrize("path", [DAY, DOUBAO, ASSISTANT])
def test_json_is_plain_and_every_number_has_a_unit(path: str) -> None:
    found = json.loads(json.dumps(results(path).to_dict(), allow_nan=False))
    assert set(found["results"]) <= set(OUTPUTS)
    assert all(one["unit"] for one in found["results"].values())
    assert all(one["unit"] and one["source"] for one in found["inputs"].values())


def test_users_make_streams_and_years() -> None:
    found = results(ASSISTANT)
    assert len(found.years) == 6 and found.years[5]["tokens"].p50 > found.years[0]["tokens"].p50
    assert found.quantities["answers"].value == 10e6 * 0.15 * 2.5 * 4
    assert found.of == "bill"


@given(st.floats(1e3, 1e9), st.floats(1.0, 100.0))
@settings(max_examples=8)
def test_more_users_are_never_cheaper_in_any_quantile(users: float, factor: float) -> None:
    few, many = (estimate(read_demand(ASSISTANT, [f"users.mau={n!r}"]), 200) for n in (users, users * factor))
    for name in ("bill", "capital", "accelerators_peak", "power"):
        for end in ("p10", "p50", "p90"):
            assert getattr(many.spreads[name], end) >= getattr(few.spreads[name], end) * (1 - 1e-9)


BAD = [
    ({}, "no demand is given; give one of users.dau"),
    ({**SMALL, "colour": "red"}, "unknown key 'colour'"),
    ({**SMALL, "traffic": {"input": 1e9}}, "traffic.output must be given"),
    ({**SMALL, "traffic": {"input": 1e9, "output": 1e8, "total": 3e9}}, "traffic.input and traffic.total are given"),
    ({**SMALL, "fleet": {"prefill": 5000}}, "fleet.decode must be given"),
    ({**SMALL, "fleet": {"prefill": 0, "decode": 1}}, "fleet.prefill is 0 tok/s/GPU"),
    ({**SMALL, "fleet": {}}, "fleet.prefill and fleet.decode, or fleet.utilisation must be given"),
    ({**SMALL, "fleet": {"utilisation": 0.3}}, "fleet.active_parameters, or model; fleet.flops, or gpu"),
    ({**SMALL, "fleet": {"utilisation": 0.0}, "model": "deepseek-v3", "gpu": "h20"}, "fleet.utilisation is 0"),
    ({**SMALL, "fleet": {"prefill": 1, "decode": 1, "utilisation": 0.1}}, "are both given"),
    ({**SMALL, "gpu": "warp9"}, "device 'warp9' is not known"),
    ({**SMALL, "gpu": 7}, "gpu is 7; it must be a text"),
    ({**SMALL, "billed": "never"}, "billed is 'never'; it must be one of peak, average"),
    ({**SMALL, "peak": {"hours": [1, 2]}}, "it must be the load of 24 hours"),
    ({**SMALL, "peak": {"hours": [0] * 24}}, "are all 0"),
    ({**SMALL, "peak": {"to_average": 0.5}}, "peak.to_average is 0.5; it must be from 1"),
    ({**SMALL, "growth": {"years": 99}}, "growth.years is 99"),
    ({**SMALL, "growth": {"demand": -1.0}}, "must be a change per year above -1"),
    ({**SMALL, "scenarios": {"low": 3}}, "it must be tables"),
    ({**SMALL, "scenarios": {"low": {"traffic.inptu": 3}}}, "did you mean 'traffic.input'"),
    ({**SMALL, "published": [{"of": "profit", "value": 1.0, "note": "x"}]}, "'profit' is no result"),
    ({**SMALL, "published": [{"of": "bill", "value": 1.0, "note": "x", "scenario": "a"}]}, "'a' is no scenario"),
]


@pytest.mark.parametrize(("table", "message"), BAD)
def test_bad_files_get_one_line(table: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_table(table)
    assert message in str(caught.value) and "\n" not in str(caught.value)


junk = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 5), st.floats(), st.text(max_size=5), st.lists(st.integers())
)
names = st.sampled_from([*TERMS, "growth.years", "peak.hours", "money.nothing", "title.x"])


@given(st.dictionaries(names, st.one_of(junk, st.dictionaries(st.sampled_from(["value", "low", "high"]), junk))))
@settings(max_examples=100)
def test_whatever_a_file_says_it_is_used_or_named(changes: dict[str, Any]) -> None:
    table: dict[str, Any] = {name: dict(inner) for name, inner in SMALL.items()}
    for name, value in changes.items():
        section, key = name.split(".")
        table.setdefault(section, {})[key] = value
    try:
        found = estimate(from_table(table), 100)
    except InputError as error:
        assert "\n" not in str(error)
    else:
        json.dumps(found.to_dict(), allow_nan=False)
