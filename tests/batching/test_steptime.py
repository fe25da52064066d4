"""Predictions are arithmetic, budgets keep to them, and a fit finds the truth behind noise and accidents."""

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fathom.batching.plan import Plan, Row, Sampling
from fathom.batching.request import SamplingParams
from fathom.batching.steptime import PROBE_EVERY, PROBE_SOON, Budget, StepTime, chunk_keys

TRUTH = StepTime(step_s=1e-3, decode_s=2e-4, decode_key_s=1e-7, prompt_s=1.5e-4, prompt_key_s=5e-8)


def plan(decodes=(), chunk=None):
    """Decodes at these positions, and a (tokens, start) chunk of a prompt."""
    sampling = Sampling(1, SamplingParams())
    rows = [Row(str(at), (1,), at, (), sampling) for at in decodes]
    if chunk is not None:
        rows.append(Row("prompt", (1,) * chunk[0], chunk[1], ()))
    return Plan(1, tuple(rows))


def true_seconds(decodes=(), chunk=None):
    alone_s = TRUTH.alone_s(len(decodes), sum(at + 1 for at in decodes))
    return alone_s + (TRUTH.chunk_s(*chunk) if chunk else 0.0)


def test_seconds_add_up():
    time = StepTime(1.0, 0.5, 0.25, 0.125, 0.0625)
    assert time.seconds(2, 0, decode_keys=4) == 1.0 + 2 * 0.5 + 4 * 0.25
    assert time.seconds(0, 3, start=2) == 1.0 + 3 * 0.125 + (3 + 4 + 5) * 0.0625


@given(st.integers(0, 40), st.integers(0, 40))
def test_keys_of_a_chunk_are_counted_one_by_one(tokens, start):
    assert chunk_keys(tokens, start) == sum(position + 1 for position in range(start, start + tokens))


@given(st.floats(0, 1), st.floats(0, 1e-2), st.floats(0, 1e-3), st.integers(0, 10_000))
def test_the_most_tokens_within_a_time_take_no_longer_and_one_more_would(seconds, prompt_s, prompt_key_s, start):
    time = StepTime(prompt_s=prompt_s, prompt_key_s=prompt_key_s)
    most = time.tokens_within(seconds, start)
    if prompt_s + prompt_key_s < 1e-12:
        return  # nothing known, or too little for the arithmetic
    assert time.chunk_s(int(most), start) <= seconds * (1 + 1e-9)
    assert time.chunk_s(int(most) + 1, start) > seconds * (1 - 1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_a_fit_finds_the_truth_behind_noise_and_accidents(seed):
    random, time = Random(seed), StepTime()

    def observe(*what):
        noise = random.lognormvariate(0.0, 0.05) * (10.0 if random.random() < 0.02 else 1.0)
        time.observe(plan(*what), true_seconds(*what) * noise)

    for step in range(400):
        decodes = [100 * i + step for i in range(random.choice((1, 2, 4, 8)))]
        observe(decodes)
        observe(decodes, (random.randint(4, 40), random.randint(0, 4000)))
    for decodes in ([50], [500] * 8):
        assert time.alone_s(len(decodes), sum(decodes)) == pytest.approx(true_seconds(decodes), rel=0.25)
    for chunk in ((8, 0), (30, 3000)):
        assert time.chunk_s(*chunk) == pytest.approx(TRUTH.chunk_s(*chunk), rel=0.3)


def test_one_accident_moves_a_prediction_little_and_a_lasting_change_moves_it_all_the_way():
    time = StepTime()
    time.observe(plan([10]), 50.0)  # the first step of all often is an accident
    for _ in range(20):
        time.observe(plan([10]), 1.0)
    assert time.alone_s(1, 11) == pytest.approx(1.0, rel=0.01)
    time.observe(plan([10]), 1000.0)
    assert time.alone_s(1, 11) < 1.01
    for _ in range(60):
        time.observe(plan([10]), 5.0)
    assert time.alone_s(1, 11) == pytest.approx(5.0, rel=0.01)
    for _ in range(10):
        time.observe(plan([10]), 1.0)
    assert time.alone_s(1, 11) == pytest.approx(1.0, rel=0.05)


def test_prompts_are_never_charged_to_the_decodes():
    time = StepTime()
    for _ in range(10):
        time.observe(plan([10]), 1.0)
    for _ in range(500):
        time.observe(plan([10], (20, 0)), 3.0)
    assert time.alone_s(1, 11) == pytest.approx(1.0)
    assert time.chunk_s(20, 0) == pytest.approx(2.0, rel=0.01)


def test_steps_that_bound_nobody_s_wait_teach_nothing():
    time = StepTime()
    time.observe(plan(chunk=(512, 0)), 1.0)
    assert time == StepTime()


def test_a_chunk_is_at_most_twice_what_was_tried():
    time = StepTime()
    time.observe(plan([10]), 1.0)
    time.observe(plan([10], (4, 0)), 1.0)  # as if prompts cost nothing
    assert time.tokens_within(1.0, 0) == 8
    time.observe(plan([10], (8, 0)), 1.0)
    assert time.tokens_within(1.0, 0) == 16


def test_what_is_unknown_allows_nothing():
    assert StepTime().tokens_within(1.0, 0) == 0


def test_decodes_are_timed_alone_at_first_and_now_and_then():
    time = StepTime()
    assert time.wants_alone(1)
    time.observe(plan([10] * 2), 1.0)
    assert not time.wants_alone(2)
    for _ in range(PROBE_SOON):
        time.observe(plan([10] * 2, (4, 0)), 2.0)
    assert not time.wants_alone(4)
    assert time.wants_alone(5)  # more than twice as many as were timed
    for _ in range(PROBE_EVERY - PROBE_SOON):
        time.observe(plan([10] * 2, (4, 0)), 2.0)
    assert time.wants_alone(2)
    assert not StepTime(step_s=1.0).wants_alone(7)  # given, not observed


def test_after_a_surprise_decodes_are_soon_timed_alone():
    time = StepTime()
    time.observe(plan([10]), 1.0)
    for _ in range(20):
        time.observe(plan([10], (4, 0)), 2.0)
    assert not time.wants_alone(1)
    time.observe(plan([10], (4, 0)), 8.0)
    assert time.wants_alone(1)
    time.observe(plan([10]), 4.0)  # it is true
    for _ in range(PROBE_SOON):
        time.observe(plan([10], (4, 0)), 8.0)
    assert time.wants_alone(1)
    for _ in range(8):
        time.observe(plan([10]), 4.0)
    assert time.alone_s(1, 11) == pytest.approx(4.0, rel=0.05)
    for _ in range(PROBE_SOON):
        time.observe(plan([10], (4, 0)), 4.0 + time.chunk_s(4, 0))
    assert not time.wants_alone(1)


def test_guesses_cost_what_decodes_do_and_count_as_no_more_streams():
    time = StepTime()
    row = Row("a", (1, 2, 3), 10, (), Sampling(11, SamplingParams()), drafts=2)
    for _ in range(20):
        time.observe(Plan(1, (row,)), 3.0)
    assert time.alone_s(3, 33) == pytest.approx(3.0)
    for _ in range(PROBE_SOON):
        time.observe(plan([10], (4, 0)), 2.0)
    assert not time.wants_alone(1)
    budget = Budget(100, StepTime(decode_s=1.0, decode_key_s=0.5), seconds=10.0)
    budget.spend_decodes(2, 4)
    assert budget.spent_s == 6.0


def test_restores_are_timed_per_page():
    time = StepTime()
    for _ in range(20):
        time.observe_restores(4, 0.4)
    assert time.restore_s == pytest.approx(0.1)


def test_a_budget_without_a_time_is_one_of_tokens():
    budget = Budget(20)
    budget.spend(15, 0)
    assert (budget.tokens_at(1000), budget.pages, budget.spent_s) == (5, math.inf, 0.0)
    budget.spend(5, 0)
    assert (budget.tokens_at(0), budget.pages) == (0, 0)


def test_a_budget_of_seconds_is_spent_by_chunks_and_pages():
    budget = Budget(100, StepTime(prompt_s=1.0, restore_s=2.0), seconds=10.0)
    assert (budget.tokens_at(0), budget.pages) == (10, 5.0)
    budget.spend(3, 0)
    budget.spend_pages(2)
    assert (budget.tokens_at(0), budget.pages, budget.spent_s) == (3, 1.5, 7.0)


def test_a_few_tokens_fit_into_any_time_but_only_once():
    budget = Budget(100, StepTime(prompt_s=1.0), seconds=0.5, least=4)
    assert (budget.tokens_at(0), budget.pages) == (4, 1)
    budget.spend(3, 0)
    assert (budget.tokens_at(0), budget.pages) == (1, 0)
    budget.spend(1, 0)
    assert (budget.tokens_at(0), budget.pages) == (0, 0)
