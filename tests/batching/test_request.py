"""What a request may ask, and how its life ends."""

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fathom.batching.request import (
    Request,
    SamplingParams,
    Sequence,
    State,
    ThinkingParams,
    leaves_thinking_open,
    sibling_seed,
    split_reasoning,
)
from fathom.errors import RequestError

THINK, END = 8, 9


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", 0),
        ("max_tokens", 1.0),
        ("max_tokens", True),
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("temperature", "hot"),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("min_p", -0.1),
        ("seed", 2**63),
        ("logprobs", 21),
        ("presence_penalty", 2.1),
        ("frequency_penalty", -2.1),
        ("repetition_penalty", 0.0),
        ("priority", 10_000),
        ("stop_token_ids", [3]),
        ("stop_token_ids", (-3,)),
    ],
)
def test_bad_value_is_refused_by_name(name, value):
    with pytest.raises(RequestError, match=name) as caught:
        SamplingParams(**{name: value})
    assert caught.value.param == name
    assert "must be" in str(caught.value)


def test_bad_thinking_budget_is_refused_by_name():
    with pytest.raises(RequestError) as caught:
        ThinkingParams(end_think_id=END, budget_tokens=-1)
    assert caught.value.param == "thinking.budget_tokens"


def test_values_at_their_limits_are_accepted():
    SamplingParams(max_tokens=1, temperature=0, top_p=1, min_p=1, seed=-(2**63), logprobs=20, repetition_penalty=0.01)


def test_params_are_checked_on_arrival_too():
    with pytest.raises(RequestError, match="top_p"):
        msgspec.msgpack.decode(msgspec.msgpack.encode({"top_p": 7.0}), type=SamplingParams)


def test_request_survives_the_wire():
    params = SamplingParams(seed=5, stop_token_ids=(1, 2), thinking=ThinkingParams(end_think_id=END, budget_tokens=4))
    request = Request("a", (1, 2, 3), params, arrival_s=1.5, cache_salt="tenant")
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(request), type=Request) == request


def test_a_long_bad_value_is_shortened_in_the_message():
    with pytest.raises(RequestError) as caught:
        SamplingParams(stop_token_ids="x" * 10_000)
    assert len(str(caught.value)) < 200


def sequence(**params):
    request = Request("a", (1, 2, 3), SamplingParams(**params))
    return Sequence(request=request, key=(0, 0), tokens=list(request.prompt_token_ids))


def test_states_follow_what_is_known_of_a_sequence():
    s = sequence(max_tokens=2)
    assert s.state is State.WAITING
    s.running = True
    assert s.state is State.PREFILLING
    s.computed = 3
    s.append(4, frozenset())
    assert s.state is State.DECODING
    s.computed = 4
    s.append(5, frozenset())
    assert (s.state, s.finish_reason) == (State.FINISHED, "length")
    s.finish_reason = "abort"
    assert s.state is State.ABORTED


def test_end_of_sequence_stops_unless_ignored_and_stop_ids_always_do():
    for params, token_id, reason in [
        ({}, 7, "stop"),
        ({"ignore_eos": True}, 7, None),
        ({"stop_token_ids": (6,)}, 6, "stop"),
        ({"stop_token_ids": (6,), "ignore_eos": True}, 6, "stop"),
        ({"max_tokens": 1}, 7, "stop"),
        ({"max_tokens": 1}, 5, "length"),
    ]:
        s = sequence(**params)
        s.append(token_id, frozenset({7}))
        assert s.finish_reason == reason, (params, token_id)


def test_the_thinking_budget_counts_down_to_its_end_exactly_once():
    s = sequence(thinking=ThinkingParams(end_think_id=END, budget_tokens=2))
    left = [s.thinking_left]
    for token_id in (4, 4, END, 4):
        s.append(token_id, frozenset())
        left.append(s.thinking_left)
    assert left == [2, 1, 0, None, None]


def test_thinking_that_ends_by_itself_is_not_ended_again():
    s = sequence(thinking=ThinkingParams(end_think_id=END, budget_tokens=2))
    for token_id in (END, 4, 4, 4):
        s.append(token_id, frozenset())
        assert s.thinking_left is None


def test_room_is_what_max_tokens_leaves():
    s = sequence(max_tokens=2)
    rooms = [s.room]
    for token_id in (4, 4):
        s.append(token_id, frozenset())
        rooms.append(s.room)
    assert rooms == [2, 1, 0]
    assert sequence().thinking_left is None


@pytest.mark.parametrize(
    ("ids", "starts", "reasoning", "content"),
    [
        ([1, 2, END, 3], True, [1, 2], [3]),
        ([1, 2], True, [1, 2], []),
        ([THINK, 1, END, 3], False, [1], [3]),
        ([1, 2], False, [], [1, 2]),
        ([END, 3], True, [], [3]),
        ([THINK, 1, END, 3], True, [1], [3]),
        ([], True, [], []),
    ],
)
def test_split_reasoning(ids, starts, reasoning, content):
    assert split_reasoning(ids, starts, THINK, END) == (reasoning, content)


@pytest.mark.parametrize(
    ("prompt", "opened"),
    [([1, THINK], True), ([1, THINK, 2], True), ([THINK, 1, END], False), ([THINK, END, 1, THINK], True), ([1], False)],
)
def test_the_last_marker_of_a_prompt_says_whether_thinking_is_open(prompt, opened):
    assert leaves_thinking_open(prompt, THINK, END) is opened
    assert leaves_thinking_open(prompt, None, None) is False


@given(st.lists(st.integers(0, 12)), st.booleans())
def test_split_reasoning_loses_only_the_markers(ids, starts):
    reasoning, content = split_reasoning(ids, starts, THINK, END)
    assert sorted(reasoning + content) == sorted(i for i in ids if i not in (THINK, END))
    assert split_reasoning(ids, starts, None, None) == ((ids, []) if starts else ([], ids))


def test_siblings_have_seeds_of_their_own_and_the_first_has_the_caller_s():
    for seed in (5, -1, 2**63 - 1, -(2**63)):
        seeds = [sibling_seed(seed, index) for index in range(16)]
        assert seeds[0] == seed
        assert len(set(seeds)) == 16
        assert all(SamplingParams(seed=each).seed == each for each in seeds)


def test_emitted_tokens_count_as_output():
    params = SamplingParams(max_tokens=5, thinking=ThinkingParams(END, 4))
    begun = Sequence(Request("a", (1, 2), params, emitted_token_ids=(3, 4)), (0, 0), [1, 2])
    begun.resume(frozenset({7}))
    assert (begun.tokens, begun.output_tokens, begun.room, begun.thinking_left) == ([1, 2, 3, 4], 2, 3, 2)
    thought = Sequence(Request("a", (1, 2), params, emitted_token_ids=(3, END)), (0, 0), [1, 2])
    thought.resume(frozenset({7}))
    assert thought.thought and thought.thinking_left is None


@pytest.mark.parametrize(("emitted", "at"), [((3, 7), 1), ((7, 3), 0), ((6,), 0), ((1, 2, 3), 2), ((1, 2, 3, 4), 2)])
def test_a_reply_that_has_ended_is_not_resumed(emitted, at):
    params = SamplingParams(max_tokens=3, stop_token_ids=(6,))
    sequence = Sequence(Request("a", (1,), params, emitted_token_ids=emitted), (0, 0), [1])
    with pytest.raises(RequestError, match=f"token {at} of the {len(emitted)} emitted") as caught:
        sequence.resume(frozenset({7}))
    assert caught.value.code == "already_ended"


@pytest.mark.parametrize(("prompt", "left"), [((4, THINK), 2), ((4, THINK, END), None), ((4,), None)])
def test_a_budget_that_knows_both_markers_is_for_the_thought_of_the_prompt(prompt, left):
    limit = ThinkingParams(end_think_id=END, budget_tokens=2, think_id=THINK)
    request = Request("a", prompt, SamplingParams(thinking=limit))
    assert Sequence(request=request, key=(0, 0), tokens=list(prompt)).thinking_left == left
    with pytest.raises(RequestError, match="thinking.think_id is -1"):
        ThinkingParams(END, 2, -1)
