"""Predictions carry the unit of their row and an interval; what the planner cannot say it refuses."""

from __future__ import annotations

import pytest

from fathom.plan.hardware import Catalogue
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
