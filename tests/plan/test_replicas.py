"""Rates of a fleet from the model of a step."""

from __future__ import annotations

from typing import Any

import pytest

from fathom.errors import ConfigError
from fathom.plan.demand import from_table
from fathom.plan.families import find
from fathom.plan.flow import TERMS, flow
from fathom.plan.hardware import Catalogue
from fathom.plan.inputs import values
from fathom.plan.latency import decode_step
from fathom.plan.replicas import rates, read_predict

V3, H800 = find("deepseek-v3"), Catalogue.read().find("h800")
TABLE: dict[str, Any] = {
    "context": 4989.0, "prompt": 4096.0,
    "prefill": {"dp": 32, "ep": 32, "load": 16384.0, "overlap": True, "redundant": 32},
    "decode": {"dp": 144, "ep": 144, "load": 64.0, "mtp": 1, "acceptance": 0.85, "overlap": True, "redundant": 32},
}  # fmt: skip
DAY: dict[str, Any] = {
    "model": "deepseek-v3", "gpu": "h800", "traffic": {"input": 266e9, "output": 168e9}, "predict": TABLE,
}  # fmt: skip


def test_a_rate_is_what_a_step_does_over_its_time() -> None:
    predict = read_predict(TABLE, "file")
    found = rates(predict, V3, H800, TERMS)["fleet.decode"]
    step = decode_step(predict.decode.setup(V3, H800), 64 * 144, 4989.0)
    assert found.value == pytest.approx(64 * 1.85 / step.seconds)
    assert found.low is not None and found.high is not None and found.low < found.value < found.high
    assert found.tag == "computed" and "ms" in found.note


def test_deepseeks_own_layout_is_within_reach_of_what_it_published() -> None:
    """1,850 tok/s per H800 in decode, averaged over a day, and 7,839 in prefill of balanced experts."""
    found = rates(read_predict(TABLE, "file"), V3, H800, TERMS)
    assert found["fleet.decode"].value == pytest.approx(1850, rel=0.25)
    assert found["fleet.prefill"].value == pytest.approx(7839, rel=0.25)


def test_a_demand_is_sized_by_predicted_rates() -> None:
    demand = from_table(DAY)
    made = flow(demand, values(demand.inputs))
    by_hand = sum(
        tokens / 86_400 / demand.inputs[name].value
        for tokens, name in ((266e9, "fleet.prefill"), (168e9, "fleet.decode"))
    )
    assert made["accelerators"] == pytest.approx(by_hand)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gpu": ""}, "predict needs the model and gpu"),
        ({"fleet": {"prefill": 1.0, "decode": 1.0}}, "fleet.prefill and predict are both given"),
        ({"predict": {**TABLE, "context": 0.0}}, "context is 0.0 tokens"),
        ({"predict": {**TABLE, "decode": {"load": 0.0}}}, "load is 0.0"),
        ({"predict": {**TABLE, "decode": {"laod": 1.0}}}, "did you mean 'load'"),
        ({"predict": 3}, "it must be a table"),
    ],
)
def test_bad_tables_get_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_table({**DAY, **changes})
    assert message in str(caught.value) and "\n" not in str(caught.value)
