"""Requests in flight, followed: hand-worked runs, and what must hold of any."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fathom.plan.flight import LONGEST, SHORTEST, WAVES, Policy, mixed, split


def test_one_request_at_a_time_waits_for_its_own_prompt_only() -> None:
    """100 tokens of prompt at 1 ms each, then 10 tokens at 5 ms."""
    found = mixed(1, 100, 10, lambda n: 5e-3, lambda tokens: tokens * 1e-3, Policy())
    assert found.first_s == pytest.approx(0.1) and found.token_s == pytest.approx(5e-3)


def test_a_prompt_stops_the_others() -> None:
    """Of two requests, each is stopped once by the other's prompt of 0.1 s while it gets about 1,000 tokens."""
    found = mixed(2, 100, 1000, lambda n: 5e-3, lambda tokens: tokens * 1e-3, Policy(beside=False, chunk=100))
    assert found.token_s == pytest.approx(5e-3 + 0.1 / 1000, rel=0.01)


def test_all_come_at_once_and_wait_for_each_other() -> None:
    """The first of 8 prompts waits 1 s, the last 8: 4.5 s on average, in one wave of ten; later ones come apart."""
    found = mixed(8, 1000, 100_000, lambda n: 1e-3, lambda tokens: tokens * 1e-3, Policy(chunk=1000, beside=False))
    assert 0.45 + 0.9 <= found.first_s < 0.45 + 0.9 * 2


def test_who_looks_rarely_lets_them_wait() -> None:
    often, rarely = (
        mixed(1, 10, 1000, lambda n: 0.01, lambda tokens: 1e-4, Policy(poll=poll, beside=False)) for poll in (1, 30)
    )
    assert rarely.first_s >= often.first_s and rarely.token_s == pytest.approx(often.token_s, rel=0.02)


def test_memory_for_half_of_them_halves_what_is_decoded() -> None:
    """With room for 4 of 8, a request waits about as long as it is decoded."""
    found = mixed(8, 10, 100, lambda n: 0.01, lambda tokens: 1e-6, Policy(most=4))
    assert found.token_s == pytest.approx(0.01, rel=0.03) and found.first_s == pytest.approx(1.0, rel=0.25)


def test_readers_do_not_slow_who_decodes() -> None:
    found = split(4, 100, 1000, lambda n: 2e-3, lambda tokens: tokens * 1e-3, Policy(chunk=100))
    assert found.token_s == pytest.approx(2e-3, rel=0.01)
    assert split(4, 100, 1000, lambda n: 2e-3, lambda t: t * 1e-3, Policy(chunk=100), 0.5).first_s == pytest.approx(
        found.first_s + 0.5
    )


def test_a_slow_reader_is_the_narrow_place() -> None:
    """It reads one prompt a second, so 100 in flight are answered in 100 s each, by Little's law."""
    found = split(100, 1000, 100, lambda n: 1e-3, lambda tokens: tokens * 1e-3, Policy(chunk=1000))
    assert found.first_s + 0.1 == pytest.approx(100, rel=0.1)


def test_lengths_are_those_of_inferencex() -> None:
    assert math.isclose(LONGEST / SHORTEST, 1 / 0.8) and math.isclose(LONGEST + SHORTEST, 2) and WAVES == 10


@settings(max_examples=25)
@given(
    st.floats(1, 1000), st.floats(1, 10_000), st.floats(32, 2000), st.sampled_from([1.0, 10.0, 30.0]), st.booleans(),
    st.sampled_from([1.0, 8.0]),
)  # fmt: skip
def test_any_run_ends_and_who_reads_apart_is_done_first(
    count: float, prompt: float, output: float, poll: float, beside: bool, gather: float
) -> None:
    policy = Policy(chunk=8192, poll=poll, beside=beside, gather=gather)
    found, apart = (
        run(count, prompt, output, lambda n: 1e-3 + 1e-5 * n, lambda tokens: 1e-3 + tokens * 1e-6, policy)
        for run in (mixed, split)
    )
    ends = [one.first_s + one.token_s * (output - 1) for one in (found, apart)]
    assert min(found.token_s, apart.token_s, found.first_s, apart.first_s) >= 0.999e-3
    assert ends[1] <= ends[0] * 1.3
