"""Requests go where their prefix is, sessions stay where they are, and neither buries a replica."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fathom.errors import ConfigError
from fathom.serve.router import Router, RouterConfig

IDLE = {"a": 0, "b": 0, "c": 0}
SMALL = RouterConfig(page_tokens=4, max_imbalance_tokens=100)


def test_strangers_take_turns() -> None:
    router = Router(SMALL)
    assert [router.choose([i] * 9, IDLE) for i in range(6)] == ["a", "b", "c", "a", "b", "c"]
    assert (router.requests, router.hits) == (6, 0)


def test_a_known_prefix_goes_back_to_its_last_reader() -> None:
    router = Router(SMALL)
    first = list(range(40))
    home = router.choose(first, IDLE)
    for _ in range(3):
        router.choose([99] * 8, IDLE)
    assert router.choose([*first, 1, 2, 3], IDLE) == home and router.hits == 3
    others = {name: 0 for name in IDLE if name != home}
    new_home = router.choose([*first, 1, 2, 3], others)
    assert router.choose([*first, 7, 7, 7], IDLE) == new_home


def test_the_longest_prefix_wins() -> None:
    router = Router(SMALL)
    assert router.choose([0] * 8, {"a": 0}) == "a"
    assert router.choose([0] * 8 + [1] * 8, {"b": 0}) == "b"  # it has read the first pages too, and last
    assert router.choose([0] * 8 + [2] * 20, {"c": 0}) == "c"
    assert router.choose([0] * 8 + [1] * 8 + [5], IDLE) == "b"


def test_a_prefix_draws_no_more_than_it_is_worth() -> None:
    router = Router(SMALL)
    prompt = list(range(40))
    assert router.choose(prompt, {"a": 0}) == "a"
    assert router.choose(prompt, {"a": 39, "b": 0}) == "a"
    assert router.choose(prompt, {"a": 41, "b": 0}) == "b"


def test_salts_part_what_is_read() -> None:
    router = Router(SMALL)
    prompt = list(range(40))
    assert router.choose(prompt, {"a": 0}, salt="one") == "a"
    assert router.choose(prompt, {"a": 1, "b": 0}, salt="two") == "b"


def test_a_session_stays_until_its_replica_is_overloaded_or_gone() -> None:
    router = Router(SMALL)
    assert router.choose([1], {"b": 0}, session="s") == "b"
    assert router.choose([2], {"a": 0, "b": 100}, session="s") == "b" and router.pinned == 1
    assert router.choose([2], {"a": 0, "b": 101}, session="s") == "a"
    assert router.choose([3], {"b": 0, "a": 1}, session="s") == "a"
    assert router.choose([3], {"b": 0}, session="s") == "b"


def test_a_lost_cache_draws_nobody() -> None:
    router = Router(SMALL)
    prompt = list(range(40))
    router.choose(prompt, {"a": 0})
    router.forget("a")
    assert router.choose(prompt, {"a": 1, "b": 0}) == "b"


def test_replies_teach_how_long_the_next_one_is() -> None:
    router = Router(RouterConfig(expected_output_tokens=100))
    assert router.expected(1000) == 100 and router.expected(30) == 30 and router.expected(1000, 100) == 1
    for _ in range(500):
        router.ended(40)
    assert router.expected(1000) == 40


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 40), st.integers(0, 30)), max_size=80))
def test_the_memory_is_bounded(asked: list[tuple[int, int, int]]) -> None:
    router = Router(RouterConfig(page_tokens=2, max_pages=9, max_sessions=3))
    for token, length, session in asked:
        assert router.choose([token] * length, IDLE, session=str(session)) in IDLE
        assert len(router._readers) <= 9 and len(router._sessions) <= 3


@given(st.lists(st.integers(1, 60), min_size=30, max_size=120))
def test_one_prefix_for_all_does_not_bury_one_replica(outputs: list[int]) -> None:
    """Everybody shares a long system prompt: the loads must stay within the prefix's worth of each other."""
    router, loads, prompt = Router(SMALL), dict(IDLE), list(range(80))
    for output in outputs:
        loads[router.choose(prompt, loads)] += output
        assert max(loads.values()) - min(loads.values()) <= len(prompt) + max(outputs)


@pytest.mark.parametrize("name", ["page_tokens", "max_pages", "max_sessions", "expected_output_tokens"])
def test_a_setting_that_makes_no_sense_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match=f"router.{name} is 0"):
        RouterConfig(**{name: 0})
    with pytest.raises(ConfigError, match="max_imbalance_tokens is -1"):
        RouterConfig(max_imbalance_tokens=-1)
