"""A number is never bare: unit, finite value, whole intervals; and people can read it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fathom.errors import ConfigError
from fathom.plan.quantity import Quantity, digits


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_no_quantity_is_endless_or_undefined(value: float) -> None:
    with pytest.raises(ConfigError, match="finite"):
        Quantity(value, "ms")
    with pytest.raises(ConfigError, match="finite"):
        Quantity(1.0, "ms", low=value, high=2.0)


def test_a_quantity_has_a_unit_and_a_whole_interval() -> None:
    with pytest.raises(ConfigError, match="no unit"):
        Quantity(1.0, "")
    with pytest.raises(ConfigError, match="one end"):
        Quantity(1.0, "ms", low=0.5)


def test_another_scale_moves_the_interval_too() -> None:
    price = Quantity(2.0, "USD/h", low=1.5, high=3.0)
    assert price.times(24, "USD/day") == Quantity(48.0, "USD/day", low=36.0, high=72.0)
    lost = price.times(-1)
    assert (lost.value, lost.low, lost.high) == (-2.0, -3.0, -1.5)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (87_072.4, "87,072"),
        (226.75, "227"),
        (14.76, "14.8"),
        (0.82, "0.820"),
        (0.00012, "0.000120"),
        (0.0000123, "1.23e-05"),
        (5.576e6, "5,576,000"),
        (1.4e21, "1.4e+21"),
        (-3.14159, "-3.14"),
    ],
)
def test_digits(value: float, text: str) -> None:
    assert digits(value) == text


@given(st.floats(min_value=1e-300, max_value=1e300))
def test_digits_keep_three_figures(value: float) -> None:
    assert math.isclose(float(digits(value).replace(",", "")), value, rel_tol=0.006)


def test_as_text_and_as_json() -> None:
    time = Quantity(47.6, "ms", "time per output token", 40.0, 56.0, "memory bandwidth", "fitted")
    assert str(time) == "47.6 ms (40.0 to 56.0)"
    assert str(Quantity(0.5, "1")) == "0.500"
    assert time.to_dict() == {
        "value": 47.6, "unit": "ms", "meaning": "time per output token", "low": 40.0, "high": 56.0,
        "bound": "memory bandwidth", "source": "fitted",
    }  # fmt: skip
