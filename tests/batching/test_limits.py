"""Limits are checked where they are written down."""

import math

import pytest

from fathom.batching.limits import SchedulerConfig
from fathom.errors import ConfigError


@pytest.mark.parametrize(
    "name",
    [
        "max_batch_tokens",
        "max_sequences",
        "page_tokens",
        "num_pages",
        "priority_steps",
        "max_stretch",
        "min_chunk_tokens",
    ],
)
def test_limits_must_be_positive(name):
    with pytest.raises(ConfigError, match=f"{name} is 0"):
        SchedulerConfig(**{name: 0})


def test_a_step_must_hold_a_token_of_every_sequence():
    with pytest.raises(ConfigError, match="max_batch_tokens is 4, less than max_sequences = 8"):
        SchedulerConfig(max_batch_tokens=4, max_sequences=8)


def test_the_context_is_what_the_cache_holds_or_the_model_allows():
    assert SchedulerConfig(page_tokens=4, num_pages=8).context_tokens == 32
    assert SchedulerConfig(page_tokens=4, num_pages=8, max_context_tokens=20).context_tokens == 20


def test_a_stretch_may_be_without_limit_but_is_a_number():
    assert SchedulerConfig(max_stretch=math.inf).max_stretch == math.inf
    with pytest.raises(ConfigError, match="max_stretch is nan"):
        SchedulerConfig(max_stretch=math.nan)
