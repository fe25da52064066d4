"""Efforts as a line of the system message."""

import pytest

from fathom.config.effort import ALIASES, EFFORTS, REFLECT, control, obeys, with_control
from fathom.errors import RequestError

USER = {"role": "user", "content": "2 + 2?"}


@pytest.mark.parametrize(
    ("effort", "budget", "line"),
    [
        (None, None, None),
        ("none", None, None),
        ("low", None, "budget 64"),
        ("high", None, "budget 256"),
        ("max", None, REFLECT),
        ("max", 10, "budget 10"),
        ("low", 0, None),
        (None, 300, "budget 300"),
    ],
)
def test_an_effort_is_a_line(effort, budget, line):
    assert control(effort, budget) == line


@pytest.mark.parametrize(("effort", "budget"), [("huge", None), ("minimal", None), (None, -1)])
def test_what_makes_no_sense_is_refused(effort, budget):
    with pytest.raises(RequestError, match="must be"):
        control(effort, budget)


def test_the_line_stands_at_the_head_of_the_system_message():
    system = {"role": "system", "content": "Be kind."}
    assert with_control([USER], None) == [USER]
    assert with_control([USER], "budget 64") == [{"role": "system", "content": "budget 64"}, USER]
    assert with_control([system, USER], "budget 64")[0]["content"] == "budget 64\nBe kind."
    assert system["content"] == "Be kind.", "the caller's own is not changed"


def test_other_names_are_of_efforts_that_there_are():
    assert set(ALIASES.values()) <= set(EFFORTS) and not set(ALIASES) & set(EFFORTS)


def test_a_model_says_that_it_obeys():
    assert [obeys(settings) for settings in ({}, {"obeys_effort": False}, {"obeys_effort": True})] == [
        False,
        False,
        True,
    ]
