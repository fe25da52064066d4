"""A Plan is a message: immutable, complete, the same after a journey."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fathom.batching.plan import Plan, Row, Sampled, Sampling
from fathom.batching.request import SamplingParams, ThinkingParams, TokenLogprob

ids = st.lists(st.integers(0, 2**31), max_size=5).map(tuple)
params = st.builds(
    SamplingParams,
    max_tokens=st.integers(1, 9),
    temperature=st.floats(0, 2),
    top_k=st.integers(0, 9),
    seed=st.integers(-(2**63), 2**63 - 1),
    stop_token_ids=ids,
    logprobs=st.none() | st.integers(0, 20),
    thinking=st.none() | st.builds(ThinkingParams, st.integers(0, 9), st.integers(0, 9)),
)
samplings = st.builds(
    Sampling,
    position=st.integers(0, 2**31),
    params=params,
    thinking_left=st.none() | st.integers(0, 9),
    prompt_ids=ids,
    output_ids=ids,
)
rows = st.builds(
    Row,
    request_id=st.text(max_size=5),
    token_ids=ids,
    start=st.integers(0, 2**31),
    pages=ids,
    sampling=st.none() | samplings,
    drafts=st.integers(0, 4),
    propose=st.integers(0, 4),
    next_token_id=st.none() | st.integers(0, 9),
)
plans = st.builds(
    Plan, step=st.integers(0, 2**40), rows=st.lists(rows, max_size=3).map(tuple), preempted=st.just(("z",))
)


@settings(max_examples=40)
@given(plans)
def test_plan_survives_msgpack_and_json(plan):
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(plan), type=Plan) == plan
    assert msgspec.json.decode(msgspec.json.encode(plan), type=Plan) == plan


def test_plan_cannot_be_changed():
    plan = Plan(step=1)
    with pytest.raises(AttributeError):
        plan.step = 2


def test_plan_counts_its_tokens_and_its_sampling_rows():
    sampling = Sampling(position=3, params=SamplingParams())
    plan = Plan(1, (Row("a", (5,), 2, (0,), sampling), Row("b", (1, 2, 3), 0, (1,))))
    assert plan.num_tokens == 4
    assert plan.sampling_rows == plan.rows[:1]


def test_a_plan_reads_ahead_when_guesses_are_made_or_will_be():
    plain = Row("a", (5,), 2, (0,), Sampling(position=3, params=SamplingParams()))
    chunk = Row("b", (1, 2, 3), 0, (1,))
    assert not Plan(1, (plain, chunk)).reads_ahead
    assert Plan(1, (msgspec.structs.replace(plain, propose=1), chunk)).reads_ahead
    assert Plan(1, (plain, msgspec.structs.replace(chunk, next_token_id=4))).reads_ahead


def test_the_state_after_a_token_is_what_a_sequence_that_has_it_would_plan():
    thinking = ThinkingParams(end_think_id=9, budget_tokens=3)
    params = SamplingParams(presence_penalty=0.5, thinking=thinking)
    state = Sampling(position=7, params=params, thinking_left=2, output_ids=(4,))
    after = state.after(5)
    assert after == Sampling(position=8, params=params, thinking_left=1, output_ids=(4, 5))
    assert (after.forced_token_id, after.after(5).forced_token_id) == (None, 9)
    assert after.after(5).after(9) == Sampling(position=10, params=params, output_ids=(4, 5, 5, 9))
    assert Sampling(7, SamplingParams(), prompt_ids=()).after(5) == Sampling(8, SamplingParams())


def test_a_plain_decode_row_is_a_small_message():
    row = Row("request-17", (5,), 100, tuple(range(7)), Sampling(position=101, params=SamplingParams(seed=3)))
    assert len(msgspec.msgpack.encode(row)) < 120


def test_sampled_survives_msgpack():
    sampled = Sampled((4,), (TokenLogprob(4, -0.5, ((4, -0.5), (2, -1.5))),), (3, 2))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(sampled), type=Sampled) == sampled


def test_only_a_budget_that_knows_the_marker_bans_it():
    limits = (None, ThinkingParams(9, 3), ThinkingParams(9, 3, 8))
    assert [Sampling(7, SamplingParams(thinking=limit)).banned_token_id for limit in limits] == [None, None, 8]
