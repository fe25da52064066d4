"""The arithmetic from users to a bill, against cases worked by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fathom.plan.demand import from_table
from fathom.plan.flow import OUTPUTS, TERMS, flow
from fathom.plan.inputs import values

HAND: dict[str, Any] = {
    "users": {"dau": 1e6, "sessions": 2, "turns": 5},
    "tokens": {"prompt": 100, "history": 1000, "cached": 0.6, "output": 200, "reasoning": 3},
    "peak": {"to_average": 2},
    "fleet": {"prefill": 5000, "decode": 1000, "spare": 0.25},
    "money": {"server": 300_000, "life": 5, "operations": 0.1, "kwh": 0.1},
}  # fmt: skip


def run(*overrides: str, year: float = 0.0) -> dict[str, Any]:
    demand = from_table(HAND, overrides)
    return flow(demand, values(demand.inputs), year)


def test_a_day_worked_by_hand() -> None:
    found = run("fleet.kw=1.5")
    assert found["answers"] == 10e6
    assert (found["prefill"], found["cached"], found["decode"]) == (5e9, 6e9, 6e9)  # 10M x (100 + 400), 600, 600
    mean = 5e9 / 86_400 / 5000 + 6e9 / 86_400 / 1000  # 11.57 + 69.44
    assert found["accelerators"] == pytest.approx(mean)
    servers = math.ceil(mean * 2 * 1.25 / 8)
    assert found["servers_peak"] == servers == 26
    assert found["capital"] == 26 * 300_000
    megawatts = 26 * 8 * 1.5 / 1000
    assert found["power"] == pytest.approx(megawatts)
    assert found["bill"] == pytest.approx(26 * 300_000 * (1 / 5 + 0.1) + megawatts * 1000 * 8760 * 0.1)
    assert found["bill_prefill"] + found["bill_decode"] == pytest.approx(found["bill"])
    assert found["answer_cost"] == pytest.approx(found["bill"] / 365 / 10e6)


def test_flops_of_brokers() -> None:
    """capital = tokens / 86,400 x kappa x 2N / (F u) / 8 x P, on round numbers."""
    table = {
        "traffic": {"total": 8.64e12, "output_share": 0.2}, "peak": {"to_average": 2},
        "fleet": {"active_parameters": 10e9, "flops": 100e12, "utilisation": 0.5}, "money": {"server": 1e6},
    }  # fmt: skip
    demand = from_table(table)
    found = flow(demand, values(demand.inputs))
    assert found["accelerators_peak"] == pytest.approx(8.64e12 / 86_400 * 2 * 2e10 / 5e13)  # 80,000
    assert found["capital"] == pytest.approx(80_000 / 8 * 1e6)
    assert found["flop_per_token"] == pytest.approx(2 * 2 * 10e9 / 0.5)


def test_flops_of_a_model_are_its_matrices_and_its_attention() -> None:
    demand = from_table({**HAND, "model": "deepseek-v3"})
    found = flow(demand, values(demand.inputs))
    context = 100 + 1000 + 300
    absorbed = 61 * 2 * 128 * (576 + 512) * context
    expanded = 61 * 2 * 128 * (192 + 128) * context
    by_hand = 2 * 36_625_618_432 * 11e9 + expanded * 5e9 + absorbed * 6e9
    assert found["flop"] == pytest.approx(by_hand, rel=1e-9)


def test_years_follow_growth_and_prices() -> None:
    changes = (
        "growth.demand=1.0",
        "growth.performance_per_dollar=0.25",
        "growth.performance_per_watt=0.5",
        "fleet.kw=1",
    )
    now, later = run(*changes), run(*changes, year=2.0)
    assert later["tokens"] == pytest.approx(4 * now["tokens"])
    assert later["capital"] == pytest.approx(later["servers_peak"] * 300_000 / 1.25**2)
    assert later["power"] == pytest.approx(later["servers_peak"] * 8 * 1e-3 / 1.5**2)


def test_the_p95_hour_of_a_day_is_met() -> None:
    """22 quiet hours of 1 and two of 3: mean 28/24, the 95th percentile of 24 hours lies at 3."""
    hours = [1.0] * 22 + [3.0] * 2
    demand = from_table({**HAND, "peak": {"hours": hours}})
    assert flow(demand, values(demand.inputs))["peak_to_average"] == pytest.approx(3 / (28 / 24))
    median = from_table({**HAND, "peak": {"hours": hours, "percentile": 0.5}})
    assert flow(median, values(median.inputs))["peak_to_average"] == 1.0  # never below the mean


def test_few_questions_come_in_bursts() -> None:
    """In a window of 10 s with 864 questions a day there is 0.1 on average; 100,000 times as many come evenly."""
    burst = {}
    for users in (86.4, 86.4e5):
        demand = from_table({**HAND, "peak": {"window_s": 10}, "users": {"dau": users, "sessions": 2, "turns": 5}})
        burst[users] = flow(demand, values(demand.inputs))["peak_to_average"]
    assert burst[86.4] == pytest.approx(1 + 1.645 / math.sqrt(0.1), rel=1e-3)
    assert 1.0 < burst[86.4e5] < 1.02


def test_arrays_and_numbers_agree() -> None:
    demand = from_table({**HAND, "model": "deepseek-v3", "peak": {"hours": list(range(24)), "window_s": 60}})
    stated = values(demand.inputs)
    one = flow(demand, stated)
    many = flow(demand, {name: np.full(3, value) for name, value in stated.items()})
    assert {name: many[name][1] for name in one} == pytest.approx(one)


def test_every_result_and_input_has_a_unit() -> None:
    assert all(unit for unit, _ in OUTPUTS.values()) and all(term.unit and term.meaning for term in TERMS.values())
    assert set(run("fleet.kw=1")) <= set(OUTPUTS)


GROWING = ("users.dau", "users.sessions", "users.turns", "tokens.prompt", "tokens.history", "tokens.output",
           "tokens.reasoning", "peak.to_average", "fleet.spare", "money.server", "money.kwh", "fleet.kw")  # fmt: skip
SHRINKING = ("tokens.cached", "fleet.prefill", "fleet.decode", "money.life")


@given(st.sampled_from([*GROWING, *SHRINKING]), st.floats(0.01, 1.0), st.floats(1.0, 30.0))
@settings(max_examples=200)
def test_more_of_anything_is_never_cheaper_and_better_never_dearer(name: str, scale: float, factor: float) -> None:
    demand = from_table(HAND, ("fleet.kw=1.5",))
    x = values(demand.inputs)
    x["users.dau"] *= scale
    more = {**x, name: min(1.0, x[name] * factor) if TERMS[name].scale == "share" else x[name] * factor}
    here, there = (flow(demand, each) for each in (x, more))
    sign = 1 if name in GROWING else -1
    for result in ("accelerators_peak", "capital", "bill"):
        assert sign * (there[result] - here[result]) >= -1e-9 * here[result]


@given(
    st.dictionaries(
        st.sampled_from([n for n in TERMS if n.split(".")[0] in HAND and n != "fleet.utilisation"]),
        st.floats(0, 1e12),
        max_size=6,
    )
)
@settings(max_examples=80)
def test_no_result_is_not_a_number(changes: dict[str, float]) -> None:
    demand = from_table(HAND)
    fits = {}
    for name, value in changes.items():
        term = TERMS[name]
        fits[name] = min(value, 1.0) if term.scale == "share" else min(value, 5.0) if term.scale == "rate" else value
        fits[name] = max(fits[name], term.least)
    found = flow(demand, {**values(demand.inputs), **fits})
    assert all(np.isfinite(value) for value in found.values())
