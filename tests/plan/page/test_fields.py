"""What the page asks, and how its texts are read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fathom.errors import RequestError
from fathom.plan.page.fields import Asked, Sure, groups

FIELDS = {field.name: field for _, fields in groups() for field in fields}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("14.8T", 14.8e12),
        ("6000k", 6e6),
        ("2bn", 2e9),
        ("3.5M", 3.5e6),
        ("1e9", 1e9),
        ("1,000,000", 1e6),
        (" 5 m ", 5e6),
    ],
)
def test_numbers_are_read_as_people_write_them(text: str, value: float) -> None:
    assert Asked({"tokens": text}).number("tokens") == pytest.approx(value)


def test_shares_may_be_percent() -> None:
    assert Asked({"hit": "56%"}).number("hit") == pytest.approx(0.56)
    assert Asked({"growth": "-20%..0..1e1"}).sure("growth") == Sure(0.0, -0.2, 10.0)


def test_one_number_is_exact_and_three_are_an_interval() -> None:
    assert Asked({"users": "5M"}).sure("users") == Sure(5e6)
    assert Asked({"users": "5M..5M..5M"}).sure("users") == Sure(5e6), "ends without width are none"
    assert Asked({"users": "4M..5M..9M"}).sure("users") == Sure(5e6, 4e6, 9e6)
    assert Sure(5e6, 4e6, 9e6).table("here") == {"value": 5e6, "low": 4e6, "high": 9e6, "note": "here"}


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("gpus", "", "gpus is empty; it must be a number, such as 16."),
        ("gpus", "x", "gpus is 'x'; it must be a number, such as 16."),
        ("gpus", "2.5", "gpus is 2.5; it must be a whole number."),
        ("gpus", "0", "gpus is 0 GPU; it must be from 1 to 1024."),
        ("gpus", "nan", "gpus is 'nan'"),
        ("tpot", "1e999", "it must be from"),
        ("tokens", "5 quadrillion", "it must be a number"),
        ("model", "deepseek-v4", "did you mean"),
        ("users", "1..2", "write P10..value..P90, or one number."),
        ("users", "3M..2M..1M", "P10, value and P90 must rise."),
        ("in", "9" * 70, "in has 70 characters; it may have 60."),
        ("modle", "x", "'modle' is no input"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_one_line_that_names_the_input(name: str, text: str, said: str) -> None:
    with pytest.raises(RequestError) as caught:
        asked = Asked({name: text})
        kind = FIELDS[name].kind
        {"choice": asked.text, "number": asked.whole if FIELDS[name].whole else asked.number, "sure": asked.sure}[kind](
            name
        )
    assert said.lower() in str(caught.value).lower() and "\n" not in str(caught.value)
    assert caught.value.param == name


@given(st.sampled_from(sorted(FIELDS)), st.text(max_size=80))
def test_any_text_is_read_or_refused(name: str, text: str) -> None:
    field = FIELDS[name]
    try:
        asked = Asked({name: text})
        if field.kind == "sure":
            found = asked.sure(name)
            assert field.low <= found.value <= field.high
        elif field.kind == "number":
            assert field.low <= asked.number(name) <= field.high
        else:
            assert asked.text(name) in [value for value, _ in field.choices]
    except RequestError as error:
        assert error.param == name and len(str(error).splitlines()) == 1


def test_every_input_has_a_default_that_can_be_read() -> None:
    asked = Asked({})
    for name, field in FIELDS.items():
        if field.kind == "sure":
            assert asked.sure(name).low is not None
        elif field.kind == "number":
            assert (asked.maybe(name) is None) == bool(field.empty)
        else:
            assert asked.text(name) == field.default
        assert field.unit or field.kind == "choice", f"{name} has no unit"


def test_names_are_unique_and_the_choices_are_what_the_planner_knows() -> None:
    assert len(FIELDS) == sum(len(fields) for _, fields in groups())
    assert {"deepseek-v3", "llama-3.1-405b"} <= {value for value, _ in FIELDS["model"].choices}
    assert FIELDS["gpu"].to_dict()["choices"][0] == ("a100_sxm", "A100 SXM 80GB")
