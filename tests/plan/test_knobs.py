"""Knobs: an unknown engine or device starts at the mean; a known one moves as far as its file says."""

from __future__ import annotations

import math

from fathom.plan.knobs import Knobs, shipped


def test_an_unknown_engine_adds_nothing() -> None:
    knobs = Knobs(math.log(1e-4), math.log(0.8), 0.0, {"engine fast": {"layer": math.log(0.5)}}, {}, {"tpot": 0.2})
    assert knobs.of("deepseek", "new", "new").layer_s == knobs.of("", "", "").layer_s
    assert math.isclose(knobs.of("deepseek", "fast", "x").layer_s, 5e-5)
    assert math.isclose(knobs.of("", "", "").memory, 0.8) and knobs.of("", "", "").prompt == 1.0


def test_shipped_knobs_are_sensible() -> None:
    knob = shipped().of("deepseek", "sglang", "h200_sxm")
    assert 50e-6 < knob.layer_s < 250e-6 and 0.5 < knob.memory < 1 and 0.1 < knob.prompt < 5
    assert {"start", "queue", "steps"} <= shipped().ttft.keys()
    assert {"tpot", "ttft", "most", "prefill", "large"} <= shipped().spread.keys()
