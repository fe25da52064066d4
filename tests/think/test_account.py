"""Accounts against sums done by hand, token by token."""

from __future__ import annotations

import pytest

from fathom.config import preset
from fathom.cost import decode_flops, prefill_flops
from fathom.errors import ConfigError
from fathom.think.account import Account, Prices, Work

CONFIG = preset("deepseek-v3")
PROMPT = tuple(range(10))


def work(prompt: tuple[int, ...] = PROMPT, **fields: object) -> Work:
    given = {
        "cached_tokens": 0, "thinking_tokens": 4, "output_tokens": 7, "wrong_guesses": 0, "begun_s": 0.0,
        "first_s": 1.0, "end_s": 3.0,
    }  # fmt: skip
    return Work(prompt, **given | fields)  # type: ignore[arg-type]


def test_siblings_read_one_prompt_and_hold_it_once() -> None:
    siblings = [work(cached_tokens=4), work(cached_tokens=10, output_tokens=5, end_s=2.0, aborted=True)]
    account = Account.of(CONFIG, siblings, 3.5)
    assert (account.samples, account.aborted) == (2, 1)
    assert (account.prompt_tokens, account.computed_prompt_tokens) == (10, 6)
    assert (account.thinking_tokens, account.answer_tokens, account.completion_tokens) == (8, 4, 12)
    # the prompt for three seconds; seven tokens that grew for two, five for one
    assert account.kv_token_seconds == 10 * 3.0 + 7 * 2.0 / 2 + 5 * 1.0 / 2
    assert (account.seconds, account.kv_byte_seconds, account.cost) == (3.5, None, None)


def test_flops_are_those_of_every_token_that_was_computed() -> None:
    """Seven tokens: the first comes of the prompt, six are computed, at contexts of 11 to 16; the last is not."""
    account = Account.of(CONFIG, [work(cached_tokens=4)], 1.0)
    by_hand = prefill_flops(CONFIG, 6, 4) * 6 + sum(decode_flops(CONFIG, context) for context in range(11, 17))
    assert account.flops == pytest.approx(by_hand, rel=1e-4)
    wasted = Account.of(CONFIG, [work(cached_tokens=4, wrong_guesses=2)], 1.0)
    assert wasted.flops - account.flops == pytest.approx(2 * decode_flops(CONFIG, 13), rel=1e-3)


def test_different_prompts_count_each() -> None:
    account = Account.of(CONFIG, [work(), work((1, 2, 3))], 1.0, bytes_per_token=100)
    assert account.prompt_tokens == account.computed_prompt_tokens == 13
    assert account.kv_byte_seconds == 100 * account.kv_token_seconds == 100 * (13 * 3.0 + 2 * 7.0)


def test_a_sample_that_never_began_costs_nothing() -> None:
    never = work(output_tokens=0, thinking_tokens=0, begun_s=3.0, first_s=3.0, aborted=True)
    alone, both = (
        Account.of(CONFIG, works, 1.0) for works in ([work(cached_tokens=8)], [work(cached_tokens=8), never])
    )
    assert (both.flops, both.kv_token_seconds) == (alone.flops, alone.kv_token_seconds)
    assert both.computed_prompt_tokens == 2


def test_money_is_time_or_tokens() -> None:
    assert Prices().cost(1000, 1000, 3600.0) is None
    assert Prices(per_hour=2.5).cost(1000, 1000, 1800.0) == 1.25
    assert Prices(per_million_prompt=0.5, per_million_output=2.0).cost(2_000_000, 500_000, 9.0) == 2.0
    assert Prices(per_million_output=2.0).cost(2_000_000, 500_000, 9.0) == 1.0
    assert Account.of(CONFIG, [work()], 7200.0, Prices(per_hour=0.25)).cost == 0.5


@pytest.mark.parametrize("bad", [{"per_hour": -1.0}, {"per_hour": float("inf")}, {"per_million_output": float("nan")}])
def test_prices_that_are_none_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="finite number of at least 0"):
        Prices(**bad)
    with pytest.raises(ConfigError, match="only one of them"):
        Prices(per_hour=1.0, per_million_prompt=1.0)
