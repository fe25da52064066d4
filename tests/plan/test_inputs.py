"""What an estimate is told: values, their spread, and where they are from."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fathom.errors import ConfigError
from fathom.plan.inputs import Spread, Term, check_sampling, read_input, read_inputs, samples, spoken

USERS = Term("users", "come on a day")
SHARE = Term("1", "of them", "share")
RATE = Term("1/year", "growth", "rate")


@pytest.mark.parametrize(
    ("term", "value", "low", "high"), [(USERS, 9e6, 2e6, 1.2e7), (SHARE, 0.6, 0.5, 0.9), (RATE, 0.4, -0.2, 2.0)]
)
def test_a_tenth_of_the_samples_lies_below_low_and_above_high(
    term: Term, value: float, low: float, high: float
) -> None:
    one = read_input("x", term, {"value": value, "low": low, "high": high}, "file")
    drawn = one.sample(100_000, 3)
    assert np.mean(drawn < low) == pytest.approx(0.1, abs=0.005)
    assert np.mean(drawn > high) == pytest.approx(0.1, abs=0.005)
    assert np.mean(drawn < value) == pytest.approx(0.5, abs=0.01)
    assert drawn.min() > (-1.0 if term is RATE else 0.0) and (term is not SHARE or drawn.max() < 1.0)


def test_an_input_draws_the_same_whatever_stands_beside_it() -> None:
    table = {"users": {"dau": {"value": 10.0, "low": 5.0, "high": 20.0}}}
    more = {"users": {"mau": {"value": 30.0, "low": 10.0, "high": 60.0}, **table["users"]}}
    terms = {"users.dau": USERS, "users.mau": USERS}
    alone, beside = (samples(read_inputs(t, terms, "file"), 500, 7) for t in (table, more))
    assert np.array_equal(alone["users.dau"], beside["users.dau"])
    assert abs(np.corrcoef(beside["users.dau"], beside["users.mau"])[0, 1]) < 0.15


def test_a_plain_number_is_exact_and_given() -> None:
    one = read_input("x", USERS, 12, "file")
    assert (one.tag, one.spread, set(one.sample(5, 0))) == ("given", "exact", {12.0})


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (-1, "x is -1 users; it must be from 0"),
        ("many", "x is 'many'; it must be a finite number"),
        (float("nan"), "must be a finite number"),
        (True, "must be a finite number"),
        ({"low": 1}, "x has no value; add value"),
        ({"value": 1, "hihg": 2}, "unknown key 'hihg' (did you mean 'high'?)"),
        ({"value": 1, "low": 0.5}, "one end of an interval"),
        ({"value": 1, "low": 2, "high": 3}, "they must rise"),
        ({"value": 1, "low": 0, "high": 3}, "has no width"),
        ({"value": 1, "source": "guessed"}, "source is 'guessed'; it must be one of published"),
        ({"value": 1, "source": "published"}, "does not say from where; add note"),
    ],
)
def test_bad_inputs_are_named(found: object, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_input("x", USERS, found, "file")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_unknown_names_are_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="users.dua.*did you mean 'users.dau'"):
        read_inputs({"users": {"dua": 1}}, {"users.dau": USERS}, "file")
    with pytest.raises(ConfigError, match="unknown section 'user'"):
        read_inputs({"user": {"dau": 1}}, {"users.dau": USERS}, "file")
    with pytest.raises(ConfigError, match="users is 3; it must be a table"):
        read_inputs({"users": 3}, {"users.dau": USERS}, "file")


@pytest.mark.parametrize(("count", "seed"), [(99, 0), (10**7, 0), (1000, -1)])
def test_sampling_is_checked(count: int, seed: int) -> None:
    with pytest.raises(ConfigError):
        check_sampling(count, seed)


@pytest.mark.parametrize(
    ("value", "said"),
    [(113.9e9, "113.9 bn"), (30e12, "30 T"), (87_072.0, "87,072"), (226.75, "226.8"), (0.0603, "0.0603"), (0.0, "0"),
     (5_576_000, "5,576,000"), (56.05e6, "56.05 M"), (5.27e22, "5.270e+22"), (0.00109, "0.00109"), (-2e9, "-2 bn")],
)  # fmt: skip
def test_numbers_as_people_say_them(value: float, said: str) -> None:
    assert spoken(value) == said


@given(st.lists(st.floats(-1e12, 1e12), min_size=1, max_size=50))
@settings(max_examples=50)
def test_a_spread_rises(drawn: list[float]) -> None:
    one = Spread.of(drawn, "USD")
    assert min(drawn) <= one.p10 <= one.p50 <= one.p90 <= max(drawn)
    assert one.to_dict()["unit"] == "USD"
