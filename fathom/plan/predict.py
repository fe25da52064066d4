"""Predictions of measured points: one function for each kind of row, each with its unit and an 80 % interval."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fathom.errors import ConfigError
from fathom.layout import Layout
from fathom.plan import rates
from fathom.plan.hardware import Catalogue
from fathom.plan.knobs import Knobs, shipped
from fathom.plan.latency import Setup, decode_step
from fathom.plan.memory import memory
from fathom.plan.quantity import Quantity
from fathom.plan.rows import Case, Refusal, case

STEP_TOKENS = 16_384  # of prompts, read by a dp rank in one step where a row does not say
NODE = 8
SECONDS = {"ms": 1e3, "s": 1.0, "us": 1e6}


def predict_serving(row: Mapping[str, str], catalogue: Catalogue, knobs: Knobs | None = None) -> Quantity | Refusal:
    """What a serving row measured, predicted; or why not."""
    asked = case(row, catalogue)
    if isinstance(asked, Refusal):
        return asked
    try:
        return _predict(asked, knobs or shipped())
    except ConfigError as error:
        return Refusal(str(error))


def _predict(asked: Case, knobs: Knobs) -> Quantity | Refusal:
    if other := re.search(r"p\d\d|max|min", asked.metric):
        return Refusal(f"{asked.metric}: means are predicted, no {other[0]}")
    if asked.way in ("aggregated", "split"):
        return _latency(asked, rates.measured(asked.service, knobs), knobs)
    if asked.way == "saturated":
        found = best(asked, knobs)
        if found is None:
            return Refusal(f"{asked.setup.shape.name} does not fit {asked.devices} x {asked.setup.device.name}")
        if asked.metric.startswith("tpot"):
            return _interval(found.tpot_s * seconds(asked.unit), asked, "most", knobs, found.step.bound)
        return _rate(asked, found.output, "most", knobs, found.step.bound)
    if asked.way == "prefill":
        return _prefill(asked, knobs)
    return _decode(asked, knobs)


def seconds(unit: str) -> float:
    """A second in a unit of time. Raises: ConfigError: it is none."""
    if unit not in SECONDS:
        raise ConfigError(f"a time in {unit!r}; use {', '.join(SECONDS)}.")
    return SECONDS[unit]


def _latency(asked: Case, found: rates.Rates, knobs: Knobs) -> Quantity | Refusal:
    if asked.metric.startswith("tpot"):
        return _interval(found.tpot_s * seconds(asked.unit), asked, "tpot", knobs, found.step.bound)
    if asked.metric.startswith("ttft"):
        return _interval(found.ttft_s * seconds(asked.unit), asked, "ttft", knobs, "queue of prompts")
    if asked.metric.startswith("output_tokens"):
        return _rate(asked, found.output, "tpot", knobs, found.step.bound)
    return Refusal(f"metric {asked.metric} of replicas in service")


def best(asked: Case, knobs: Knobs) -> rates.Rates | None:
    """The best of the layouts that people use within a node: as many sequences as memory and the limit allow, or where
    requests come at random, the rate at which they keep their limits."""
    drafts = sorted({0, asked.setup.mtp})
    setups = [replace(one, mtp=n) for one in layouts(asked.setup, asked.devices) for n in drafts]
    load: dict[str, Any] = {"variation": asked.variation, "knobs": knobs}
    full = [(s, rates.saturated(s, asked.prompt, asked.output, tpot_s=asked.limit_s, **load)) for s in setups]
    found = sorted(((s, rate) for s, rate in full if rate), key=lambda pair: -pair[1].output)
    if asked.first_s == math.inf:
        return found[0][1] if found else None
    most: rates.Rates | None = None
    for setup, bound in found:
        if most and bound.output <= most.output:
            break
        rate = rates.served(setup, asked.prompt, asked.output, first_s=asked.first_s, token_s=asked.limit_s, **load)
        most = max(filter(None, (most, rate)), key=lambda one: one.output, default=None)
    return most


def layouts(setup: Setup, devices: int) -> list[Setup]:
    """Replicas of 1 to 8 devices: tensor-parallel, and with experts data-parallel too."""
    sizes = [n for n in (1, 2, 4, NODE) if n <= devices]
    found = [replace(setup, layout=Layout(tp=n)) for n in sizes]
    if setup.shape.moe:
        found += [replace(setup, layout=Layout(dp=n, ep=n)) for n in sizes[1:]]
        found += [replace(setup, layout=Layout(tp=n, ep=n)) for n in sizes[1:]]
    return found


def _prefill(asked: Case, knobs: Knobs) -> Quantity | Refusal:
    tokens = asked.concurrency / asked.setup.layout.dp or STEP_TOKENS
    tokens = min(tokens, 4 * STEP_TOKENS)
    cached = asked.prompt * asked.cached
    computed = max(rates.reading(s, tokens, asked.prompt - cached, cached, knobs) for s in ways(asked))
    return _rate(asked, computed / (1 - asked.cached), "prefill", knobs, "compute")


def _decode(asked: Case, knobs: Knobs) -> Quantity | Refusal:
    setup, context = asked.setup, asked.prompt + asked.output / 2
    count = asked.concurrency or memory(setup).sequences(context)
    while count >= 1:
        step = min((decode_step(s, count, context, knobs) for s in ways(asked)), key=lambda found: found.seconds)
        tpot = step.seconds / setup.accepted
        if tpot <= asked.limit_s or asked.concurrency:
            if asked.metric.startswith("tpot"):
                return _interval(tpot * seconds(asked.unit), asked, "large", knobs, step.bound)
            return _rate(asked, count / tpot / setup.devices, "large", knobs, step.bound)
        count /= 1.02
    return Refusal(f"no batch keeps {asked.limit_s * 1e3:g} ms per token")


def ways(asked: Case) -> list[Setup]:
    """The setup, and with two micro-batches where rows cross the network and nobody says that they are off."""
    setup = asked.setup
    if setup.overlap or not asked.alternating or setup.layout.ep <= setup.device.link_world:
        return [setup]
    return [setup, replace(setup, overlap=True)]


def _rate(asked: Case, each: float, kind: str, knobs: Knobs, bound: str) -> Quantity | Refusal:
    """A rate per device, in the unit of the row."""
    unit = asked.unit.lower()
    factor = {"tok/s/gpu": 1.0, "tok/s/npu": 1.0, "tok/s/8gpu": 8.0, "tok/s": float(asked.devices)}.get(unit)
    if factor is None:
        return Refusal(f"unit {asked.unit}")
    return _interval(each * factor, asked, kind, knobs, bound)


def _interval(value: float, asked: Case, kind: str, knobs: Knobs, bound: str) -> Quantity:
    own = knobs.spread.get(f"{kind} {asked.setup.shape.family}")
    spread = math.exp(own if own is not None else knobs.spread.get(kind, 0.3))
    return Quantity(value, asked.unit, asked.metric, value / spread, value * spread, bound, "fitted")
