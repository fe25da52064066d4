"""The alarm rings when steps take a fifth longer or shorter, and is silent when they are only noisy."""

from __future__ import annotations

import math
from random import Random

import pytest

from fathom.errors import ConfigError
from fathom.plan.drift import FEWEST_STEPS, Comparison, compare, compared, drift, said
from fathom.plan.ownstep import Group, Step
from tests.plan.machine import points, profile, seconds


def served(count: int, seed: int, slower: float = 1.0, noise: float = 0.15) -> list[tuple[Step, float]]:
    """Steps as a log has them: nine tenths of whole ones; every third reads a prompt; one in ten is interrupted."""
    random, found = Random(seed), []
    for i in range(count):
        step = (Group(random.randint(1, 20), 1, random.randint(20, 900)),)
        if i % 3 == 0:
            step += (Group(1, random.randint(20, 300), 16 * random.randint(0, 20)),)
        late = 4.0 if random.random() < 0.1 else 1.0
        found.append((step, 0.9 * late * seconds(step, slower) * math.exp(random.gauss(0, noise))))
    return found


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("slower", [1.2, 0.8])
def test_the_alarm_rings_when_the_machine_has_changed_by_a_fifth(seed: int, slower: float) -> None:
    found = drift(profile(seed=seed), served(200, seed, slower))
    assert found.rings and all(shift.rings for shift in found.shifts)
    for shift in found.shifts:
        assert shift.ratio == pytest.approx(slower, abs=0.1)


@pytest.mark.parametrize("seed", range(10))
def test_the_alarm_is_silent_on_noise(seed: int) -> None:
    found = drift(profile(seed=seed), served(200, seed))
    assert not found.rings and [shift.kind for shift in found.shifts] == ["generating", "with prompts"]
    assert sum(shift.steps for shift in found.shifts) == 200


def test_whole_steps_and_logged_ones_are_told_apart() -> None:
    known = profile()
    whole = [(step, taken / 0.9) for step, taken in served(200, 3, noise=0.02)]
    assert not drift(known, whole, logged=False).rings
    assert drift(known, whole, logged=False).shifts[0].ratio == pytest.approx(
        drift(known, served(200, 3, noise=0.02)).shifts[0].ratio, rel=1e-3
    )


def test_too_few_steps_say_nothing() -> None:
    few = [(step, 9 * taken) for step, taken in served(60, 1) if len(step) == 1][: FEWEST_STEPS - 1]
    found = drift(profile(), few)
    assert not found.rings and found.shifts == () and found.few == {"generating": FEWEST_STEPS - 1}
    assert drift(profile(), [((), 1.0), ((Group(),), 0.0)]).few == {}  # steps of nothing, and of no time


def test_a_comparison_counts_errors_and_intervals() -> None:
    known = profile()
    exact = points([Group(3, 1, 100), Group(7, 1, 50), Group(1, 90, 0)], 0.0, 0)
    found = compare(known, exact)
    assert isinstance(found, Comparison) and found.inside_share == 1.0 and found.largest_error < 0.15
    wrong = compare(known, [type(p)(p.sequences, p.tokens, p.context, 2 * p.seconds, p.logged_s) for p in exact])
    assert wrong.inside_share == 0.0 and wrong.median_error == pytest.approx(0.5, abs=0.1)
    assert [row.words for row in found.rows] == ["3 sequences", "7 sequences", "90 prompt tokens"]
    assert said(1, 1) == "1 sequence"
    lines = list(compared("unseen", found))
    assert "measured [ms]" in lines[0] and "100% in their interval" in lines[-1] and max(map(len, lines)) <= 120
    with pytest.raises(ConfigError, match="at least one"):
        compare(known, [])
