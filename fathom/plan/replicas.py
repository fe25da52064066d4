"""Rates of a fleet from the model of a step (latency.py), where nobody measured them.

    [predict]                                  # in the file of a demand, in place of fleet.prefill and fleet.decode
    context = 3000                             # tokens in the cache of a sequence while it is decoded
    prompt = 1400                              # tokens of a prompt that are computed
    prefill = { dp = 16, ep = 16, load = 8192 }         # load: tokens of a step, on each accelerator
    decode = { dp = 16, ep = 16, load = 64, mtp = 1 }   # load: sequences on each accelerator

The interval of a rate is that of one prediction of a step. Whether it fits into memory is not asked here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fathom.config import build
from fathom.errors import ConfigError
from fathom.layout import Layout
from fathom.plan.hardware import Device
from fathom.plan.inputs import Z90, Input, Term
from fathom.plan.latency import Setup, Step, decode_step, prefill_step
from fathom.plan.shape import Shape


@dataclass(frozen=True)
class Replica:
    """How one kind of replica is laid out and loaded; the fields are those of latency.Setup. load: per accelerator."""

    load: float
    tp: int = 1
    dp: int = 1
    ep: int = 1
    precision: str = ""
    cache: str = "bf16"
    engine: str = ""
    mtp: int = 0
    acceptance: float = 0.8
    overlap: bool = False
    redundant: int = 0

    def __post_init__(self) -> None:
        if not 0.0 < self.load <= 1e9:
            raise ConfigError(
                f"load is {self.load}; it must be above 0, tokens of a step or sequences per accelerator."
            )

    def setup(self, shape: Shape, device: Device) -> Setup:
        """As the model of a step takes it."""
        layout = Layout(tp=self.tp, dp=self.dp, ep=self.ep)
        return Setup(
            shape, device, layout, self.precision, self.cache, self.engine, self.mtp, self.acceptance, self.overlap,
            self.redundant,
        )  # fmt: skip


@dataclass(frozen=True)
class Predict:
    """Both kinds of replica, and the lengths they meet [tokens]. cached: before a prompt, found in a cache."""

    prefill: Replica
    decode: Replica
    context: float
    prompt: float
    cached: float = 0.0

    def __post_init__(self) -> None:
        for name, least in (("context", 1.0), ("prompt", 1.0), ("cached", 0.0)):
            if not least <= getattr(self, name) <= 1e9:
                raise ConfigError(f"{name} is {getattr(self, name)} tokens; it must be from {least:g} to 1e9.")


def read_predict(table: Mapping[str, Any], where: str) -> Predict:
    """The table [predict] of a demand. Raises: ConfigError: it cannot be one."""
    return build(Predict, table, f"{where}: predict")


def rates(
    predict: Predict, shape: Shape, device: Device, terms: Mapping[str, Term]
) -> dict[str, Input]:  # fmt: skip
    """`fleet.prefill` and `fleet.decode` as inputs [tok/s/GPU], with the intervals of the predictions."""
    reading, writing = (half.setup(shape, device) for half in (predict.prefill, predict.decode))
    tokens = predict.prefill.load * reading.devices
    read = prefill_step(reading, tokens, predict.cached, predict.prompt)
    sequences = predict.decode.load * writing.devices
    write = decode_step(writing, sequences, predict.context)
    made = {
        "fleet.prefill": (tokens / reading.devices, read),
        "fleet.decode": (predict.decode.load * writing.accepted, write),
    }
    return {name: _input(name, terms[name], done, step) for name, (done, step) in made.items()}


def _input(name: str, term: Term, done: float, step: Step) -> Input:
    rate, wide = done / step.seconds, math.exp(Z90 * step.sd)
    note = f"a step of {step.seconds * 1e3:.3g} ms, bound by {step.bound}"
    return Input(name, term, rate, rate / wide, rate * wide, "computed", note)
