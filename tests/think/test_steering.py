"""What an effort means, and that no budget takes the answer's room."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fathom.config.effort import EFFORTS, REFLECT, say_that_it_does_not_obey
from fathom.errors import RequestError
from fathom.think.steering import ANSWER_TOKENS, Steering, share, steer
from fathom.tokenizer import Tokenizer, encode_chat

PLAIN = Tokenizer.train(["some plain words"], 280)
OBEDIENT = Tokenizer(PLAIN.files()["tokenizer.json"], {**PLAIN.settings, "obeys_effort": True})
QUESTION = [{"role": "user", "content": "some words"}]


def prompt(thinking: bool = True) -> list[int]:
    return encode_chat(PLAIN, QUESTION, thinking=thinking)


@pytest.mark.parametrize(
    ("effort", "budget", "steering"),
    [
        (None, None, Steering()),
        ("none", None, Steering(False, None, True, 0)),
        ("high", 0, Steering(False, None, True, 0)),
        ("low", None, Steering(True, "budget 64", True, 64)),
        ("minimal", None, Steering(True, "budget 64", True, 64)),
        ("medium", 100, Steering(True, "budget 100", True, 100)),
        (None, 7, Steering(True, "budget 7", True, 7)),
        ("max", None, Steering(True, REFLECT, True, None)),
        ("xhigh", None, Steering(True, REFLECT, True, None)),
    ],
)
def test_a_model_that_obeys_is_told(effort: str | None, budget: int | None, steering: Steering) -> None:
    assert steer(OBEDIENT, 2048, effort, budget) == steering


def test_others_are_only_stopped_at_their_share_of_the_context_and_that_is_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    say_that_it_does_not_obey.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert steer(PLAIN, 512, "low") == steer(PLAIN, 256, "low") == Steering(True, None, True, 64)
        assert steer(PLAIN, 163_840, "low") == Steering(True, None, True, 64 * 320)
        assert steer(PLAIN, 163_840, "low", 5) == Steering(True, None, True, 5)
    assert len(caplog.records) == 1


@pytest.mark.parametrize(("effort", "budget"), [("huge", None), (None, -1), ("none", 5)])
def test_what_makes_no_sense_is_refused(effort: str | None, budget: int | None) -> None:
    with pytest.raises(RequestError) as caught:
        steer(PLAIN, 512, effort, budget)
    assert caught.value.param in ("reasoning_effort", "thinking.budget_tokens")


@settings(max_examples=200)
@given(
    budget=st.none() | st.integers(1, 5000),
    room=st.integers(2, 4000),
    most=st.none() | st.integers(2, 5000),
    usual=st.none() | st.integers(2, 600),
)
def test_thought_its_end_and_an_answer_always_fit(
    budget: int | None, room: int, most: int | None, usual: int | None
) -> None:
    total, limit = share(Steering(True, None, True, budget), PLAIN, prompt(), room, most=most, usual=usual)
    assert limit is not None and total <= room and total <= (most or room)
    answer = total - limit.budget_tokens - 1
    assert answer >= 1 or total == 2
    assert answer >= min(ANSWER_TOKENS, total // 4) - (total < 8), "a quarter is the most that an answer can ask for"
    if budget is not None and room >= budget + 1 + ANSWER_TOKENS and most is None:
        assert limit.budget_tokens == budget and answer >= ANSWER_TOKENS


def test_without_an_effort_nothing_is_enforced() -> None:
    assert share(Steering(), PLAIN, prompt(), 100) == (100, None)
    assert share(Steering(), PLAIN, prompt(), 100, most=7, usual=50) == (7, None)
    assert share(Steering(), PLAIN, prompt(), 100, usual=50) == (50, None)


def test_a_prompt_without_an_open_thought_has_none_to_limit() -> None:
    assert share(Steering(True, None, True, 5), PLAIN, prompt(thinking=False), 100)[1] is None
    total, limit = share(Steering(False, None, True, 0), PLAIN, prompt(thinking=False), 100)
    assert limit is not None and (total, limit.budget_tokens, limit.think_id) == (100, 0, PLAIN.think_id)


def test_the_efforts_grow() -> None:
    budgets = [budget for budget in EFFORTS.values() if budget is not None]
    assert list(EFFORTS) == ["none", "low", "medium", "high", "max"] and budgets == sorted(budgets)
