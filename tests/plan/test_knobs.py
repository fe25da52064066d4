"""Knobs: an unknown engine or device starts at the mean; a known one moves as far as its file says."""

from __future__ import annotations

import math

import pytest

from fathom.errors import ConfigError
from fathom.plan.knobs import REACH, Knobs, shipped, years
from fathom.plan.rates import FIRST

ADDED = {"engine fast": {"layer": math.log(0.5)}}
KNOBS = Knobs(math.log(1e-4), math.log(0.8), math.log(1e-5), 0.0, -1.0, added=ADDED, spread={"tpot": 0.2})


def test_an_unknown_engine_adds_nothing() -> None:
    assert KNOBS.of(("engine new",)).layer_s == KNOBS.of(()).layer_s
    assert math.isclose(KNOBS.of(("engine fast", "device x")).layer_s, 5e-5)
    assert math.isclose(KNOBS.of(()).memory, 0.8) and KNOBS.of(()).prompt == 1.0


def test_a_newer_engine_is_faster_but_not_without_end() -> None:
    """A layer time that falls by a factor of e in a year; the measurements span 0.3 years to either side."""
    old, middle, new = (KNOBS.of((), date).layer_s for date in ("2025-12", "", "2026-04"))
    assert old > middle > new
    assert KNOBS.of((), "2020-01").layer_s == pytest.approx(1e-4 * math.exp(REACH))
    assert years("2026-02-14") == pytest.approx(0.5 / 12, abs=1e-9)


@pytest.mark.parametrize("date", ["soon", "2026", "2026-13", "26-01"])
def test_dates_that_are_none(date: str) -> None:
    with pytest.raises(ConfigError, match="2026-02"):
        years(date)


def test_shipped_knobs_are_sensible() -> None:
    knob = shipped().of(("family deepseek", "engine sglang", "device h200_sxm", "precision fp8"))
    assert 50e-6 < knob.layer_s < 250e-6 and 0.5 < knob.memory <= 1 and 0.5 < knob.prompt < 3
    assert 1e-6 < knob.host_s < 1e-4 and 0 < knob.sd < 0.5
    assert set(FIRST) <= shipped().first.keys()
    assert {"tpot", "ttft", "most", "prefill", "large"} <= shipped().spread.keys()


def test_their_covariance_is_one() -> None:
    found = shipped().covariance
    for pair, value in found.items():
        a, b = pair.split(" ")
        assert value**2 <= found[f"{a} {a}"] * found[f"{b} {b}"] * 1.001
