"""Predictions carry the unit of their row and an interval; what the planner cannot say it refuses."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fathom.plan.hardware import Catalogue
from fathom.plan.knobs import shipped
from fathom.plan.predict import predict_serving
from fathom.plan.quantity import Quantity
from fathom.plan.rows import Refusal
from tests.plan.test_rows import ROW

CATALOGUE = Catalogue.read()


@pytest.mark.parametrize(
    ("change", "unit"),
    [
        ({}, "ms"),
        ({"metric": "ttft"}, "ms"),
        ({"metric": "output_tokens_per_s_per_gpu", "unit": "tok/s/GPU"}, "tok/s/GPU"),
        ({"metric": "tpot", "unit": "s"}, "s"),
    ],
)
def test_a_time_or_a_rate_in_the_unit_of_the_row(change: dict[str, str], unit: str) -> None:
    found = predict_serving(ROW | change, CATALOGUE)
    assert isinstance(found, Quantity) and found.unit == unit
    assert found.low is not None and found.high is not None and found.low < found.value < found.high


def test_seconds_are_milliseconds() -> None:
    ms, s = (predict_serving(ROW | {"unit": unit}, CATALOGUE) for unit in ("ms", "s"))
    assert isinstance(ms, Quantity) and isinstance(s, Quantity)
    assert ms.value == pytest.approx(1000 * s.value)


def test_a_model_that_does_not_fit_is_refused() -> None:
    row = ROW | {
        "batch": "offline max",
        "n_gpus": "1",
        "hardware": "h100",
        "parallelism": "TP1",
        "metric": "output_tokens_per_s_per_gpu",
        "unit": "tok/s/GPU",
        "precision": "fp8",
    }
    found = predict_serving(row, CATALOGUE)
    assert isinstance(found, Refusal) and "does not fit" in found.reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"unit": "parsec"}, "parsec"),
        ({"metric": "ttft_p99"}, "p99"),
        ({"parallelism": "P 0x(TP1) D 1x(TP8)"}, "1 or more"),
        ({"output_len": "0"}, "above 0"),
        ({"batch": "offline max", "output_len": "0", "metric": "output_tokens_per_s_per_gpu"}, "above 0"),
        ({"kind": "serving_decode", "input_len": "0"}, "above 0"),
        ({"batch": "conc 0"}, "above 0"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_line(change: dict[str, str], reason: str) -> None:
    found = predict_serving(ROW | change, CATALOGUE)
    assert isinstance(found, Refusal) and reason in found.reason and "\n" not in found.reason


def test_knobs_of_an_engine_move_its_predictions_only() -> None:
    slow = replace(shipped(), added={"engine sglang": {"layer": 1.0}})
    plain = replace(shipped(), added={})
    found = [predict_serving(ROW | {"system": system}, CATALOGUE, knobs)
             for system in ("sglang agg", "vllm agg") for knobs in (plain, slow)]  # fmt: skip
    values = [one.value for one in found if isinstance(one, Quantity)]
    assert values[1] > 1.3 * values[0] and values[3] == values[2]
