"""What a fleet of replicas gives: tokens per second and device, time per token, time to the first one.

aggregated: each replica reads prompts between decode steps. split: some only read, others only decode. saturated: as
many sequences as memory and a limit on the time per token allow. All in the steady state, at a fixed concurrency.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from fathom.errors import ConfigError
from fathom.plan.knobs import Knobs, shipped
from fathom.plan.latency import Setup, Step, decode_step, prefill_step
from fathom.plan.memory import memory

STEP_TOKENS = 8192  # of prompts, that a rank reads in one step
STEPS_POWER = 0.3


@dataclass(frozen=True)
class Rates:
    """Fields: tpot_s: (end to end - first token) / (tokens - 1). ttft_s: at a fixed number of requests in flight.
    output: tokens generated per second and device, of all devices. step: the decode step. sd: relative, of tpot."""

    tpot_s: float
    ttft_s: float
    output: float
    concurrency: float
    step: Step
    sd: float


def prompt_s(setup: Setup, concurrency: float, tokens: float, knobs: Knobs | None = None) -> float:
    """Seconds of a replica that one prompt costs, read between decode steps [s].

    Prompts that wait are read together: as many as the root of those in flight, up to STEP_TOKENS.
    """
    knob = (knobs or shipped()).of(setup.shape.family, setup.engine, setup.device.name)
    lanes = setup.layout.dp
    together = max(1.0, min(math.sqrt(concurrency / lanes), STEP_TOKENS / tokens))
    step = prefill_step(setup, tokens * together * lanes, 0.0, tokens, knobs)
    return step.seconds / (together * lanes) * knob.prompt


def aggregated(
    setup: Setup, concurrency: float, prompt: float, output: float, knobs: Knobs | None = None,
    reading: float | None = None,
) -> Rates:  # fmt: skip
    """A replica that always has `concurrency` requests of `prompt` tokens, each answered with `output` tokens.

    Args: reading: what a prompt costs, if that is known already (prompt_s).
    """
    _check(concurrency, prompt, output)
    knobs = knobs or shipped()
    step = decode_step(setup, concurrency, prompt + output / 2, knobs)
    reading = prompt_s(setup, concurrency, prompt, knobs) if reading is None else reading
    tpot = step.seconds / setup.accepted + concurrency / output * reading
    ttft = first_token_s(concurrency, reading, step.seconds, knobs)
    rate = concurrency / setup.devices / (tpot + ttft / output)
    return Rates(tpot, ttft, rate, concurrency, step, step.sd)


def split(
    reads: Setup, decodes: Setup, replicas: tuple[int, int], concurrency: float, prompt: float, output: float,
    knobs: Knobs | None = None,
) -> Rates:  # fmt: skip
    """Replicas (of `reads`, of `decodes`) that share `concurrency` requests."""
    _check(concurrency, prompt, output)
    each = concurrency / replicas[1]
    step = decode_step(decodes, each, prompt + output / 2, knobs)
    tpot = step.seconds / decodes.accepted
    reading = prompt_s(reads, concurrency / replicas[0], prompt, knobs)
    arrivals = concurrency / (output * tpot + reading)
    busy = arrivals * reading / replicas[0]
    if busy > 1:  # the readers are the narrow place: fewer requests decode at a time
        each /= busy
        step = decode_step(decodes, max(each, 1e-3), prompt + output / 2, knobs)
        tpot = step.seconds / decodes.accepted
    ttft = first_token_s(concurrency / replicas[0], reading, step.seconds, knobs)
    devices = replicas[0] * reads.devices + replicas[1] * decodes.devices
    return Rates(tpot, ttft, each * replicas[1] / tpot / devices, concurrency, step, step.sd)


def first_token_s(concurrency: float, reading: float, step_s: float, knobs: Knobs | None = None) -> float:
    """Seconds to the first token where a request follows each that ends.

    The way in and out; the own prompt; prompts that came at the same time, whose number grows with the root of all;
    decode steps until it is its turn. Public runs identify no more than these three constants.
    """
    ttft = (knobs or shipped()).ttft
    waited = ttft["queue"] * reading * math.sqrt(concurrency) + ttft["steps"] * step_s * concurrency**STEPS_POWER
    return ttft["start"] + reading + waited


def saturated(
    setup: Setup, prompt: float, output: float, *, tpot_s: float = math.inf, knobs: Knobs | None = None
) -> Rates | None:
    """The most that a replica gives within its memory and a time per token; None: no sequence fits, or none in time."""
    most = memory(setup).sequences(prompt + output * 0.6)  # ends are spread out, so few have their full length
    most = min(most, 4096 * setup.layout.dp)
    full = replace(knobs or shipped(), prompt=0.0, added={})  # prompts fill whole steps: what kernels take
    reading = prompt_s(setup, most, prompt, full) if most >= 1 else 0.0
    best = None
    count = float(setup.layout.dp)
    while count <= most:
        found = aggregated(setup, count, prompt, output, full, reading)
        if found.tpot_s <= tpot_s and (best is None or found.output > best.output):
            best = found
        count *= 1.25
    return best


def with_overlap(setup: Setup, concurrency: float, prompt: float, output: float, knobs: Knobs | None = None) -> Rates:
    """With two micro-batches where that is faster."""
    both = [
        aggregated(replace(setup, overlap=overlap), concurrency, prompt, output, knobs) for overlap in (False, True)
    ]
    return min(both, key=lambda rates: rates.tpot_s)


def reading(setup: Setup, tokens: float, prompt: float, cached: float = 0.0, knobs: Knobs | None = None) -> float:
    """Prompt tokens per second and device of a replica that only reads. Args: tokens: of a dp rank, in a step."""
    step = prefill_step(setup, tokens * setup.layout.dp, cached, prompt, knobs)
    return tokens * setup.layout.dp / step.seconds / setup.devices


def _check(concurrency: float, prompt: float, output: float) -> None:
    if not (concurrency > 0 and prompt > 0 and output > 0):
        raise ConfigError(
            f"{concurrency:g} requests of {prompt:g} tokens, answered with {output:g}; each must be above 0."
        )
