"""Requests at random: a queue by hand, Little's law, and what a rate does to the last of a hundred."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import numpy as np
import pytest

from fathom.plan.offered import FOLLOWED, LAST, SEED, Load, lengths, tails

LOAD = Load(rate=2.0, prompt=1000.0, output=500.0, variation=0.5, chunk=1000.0)


def step_s(sequences: float) -> float:
    return 0.02 + 0.0001 * sequences


def read_s(tokens: float) -> float:
    return 0.0002 * tokens


def test_prompts_that_fill_a_step_wait_as_in_a_queue_by_hand() -> None:
    """Lindley's recursion: each waits for what is left of those before it; steps are next to nothing beside prompts."""
    found = tails(replace(LOAD, output=1.0), lambda n: 1e-5, read_s)
    chance, waited, left = random.Random(SEED), [], 0.0
    for _ in range(FOLLOWED):
        left = max(0.0, left - chance.expovariate(LOAD.rate))
        left += 0.2
        waited.append(left)
    assert found.first_s == pytest.approx(float(np.quantile(waited, LAST)), rel=0.01)


def test_as_many_are_decoded_as_come_while_one_is_answered() -> None:
    found = tails(LOAD, step_s, read_s)
    assert found.running == pytest.approx(LOAD.rate * LOAD.output * found.mean_s, rel=0.05)
    assert found.token_s > found.mean_s > step_s(found.running)


def test_a_higher_rate_is_later_and_slower() -> None:
    found = [tails(replace(LOAD, rate=rate), step_s, read_s) for rate in (0.5, 1.0, 2.0, 3.0)]
    for fewer, more in zip(found, found[1:], strict=False):
        assert more.first_s > fewer.first_s and more.token_s > fewer.token_s and more.running > fewer.running


def test_what_cannot_be_kept_up_is_infinite() -> None:
    assert tails(replace(LOAD, rate=50.0), step_s, read_s).running == math.inf


def test_drafts_that_are_right_halve_the_time_per_token() -> None:
    one, two = (tails(replace(LOAD, rate=0.01, accepted=each), step_s, read_s) for each in (1.0, 2.0))
    assert two.mean_s == pytest.approx(one.mean_s / 2, rel=0.05)


def test_lengths_have_their_mean_and_variation() -> None:
    found = lengths(300.0, 0.8, 2000)
    assert found.mean() == pytest.approx(300, rel=0.02)
    assert found.var() / 300**2 == pytest.approx(0.8, rel=0.1)
