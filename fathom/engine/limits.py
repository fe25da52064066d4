"""What this machine allows, measured, and hence the least time that a step of a model can take on it.

A step reads weights and cache, and multiplies with them. Reading and multiplying of the same products overlap, so the
longer of the two counts; attention comes between products and is added.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from fathom.config import ModelConfig, cache_dir
from fathom.cost import cache_bytes_per_token, experts_met, step_flops, step_weight_bytes
from fathom.engine.machine import Neighbours, processor
from fathom.ops.packing import Kind
from fathom.ops.speed import LARGE_BYTES, Reads, multiply_adds_per_s, native_name, step_s

log = logging.getLogger(__name__)

CACHED_BYTES = 4 << 20  # small enough for the caches of any machine of today
MOST_SHARE = 0.1  # of the processors that others may take during a measurement that is kept
FORMAT = 2  # of the file; raised when what is measured changes


@dataclass(frozen=True)
class Limits:
    """One machine, one number of threads, weights of one kind.

    Fields: read_bytes_per_s: from memory. cached_bytes_per_s: from the caches. multiply_adds_per_s: with such weights.
            attention_multiply_adds_per_s: of floats, or of bfloat16 pairs, where attention multiplies those.
    """

    kernels: str
    kind: Kind
    threads: int
    read_bytes_per_s: float
    cached_bytes_per_s: float
    multiply_adds_per_s: float
    attention_multiply_adds_per_s: float


def measure(kind: Kind, threads: int) -> Limits:
    """Measure now; about two seconds."""
    name = native_name().split(" ")[0] or "reference"
    at_once = 2 if name == "avx512bf16" and kind != "f32" else 1  # vdpbf16ps: two products where an FMA does one
    return Limits(
        kernels=name,
        kind=kind,
        threads=threads,
        read_bytes_per_s=LARGE_BYTES / step_s(kind, Reads(LARGE_BYTES), threads),
        cached_bytes_per_s=CACHED_BYTES / step_s(kind, Reads(CACHED_BYTES), threads),
        multiply_adds_per_s=multiply_adds_per_s(kind, threads),
        attention_multiply_adds_per_s=at_once * multiply_adds_per_s("f32", threads),
    )


def limits(kind: Kind, threads: int, *, again: bool = False) -> Limits:
    """What was measured on this processor with these kernels; measured now if it never was, or `again`.

    On a busy machine it is measured too low; said once, and not kept.
    """
    path = cache_dir() / "limits.json"
    names = (FORMAT, processor(), native_name() or torch.__version__, kind, threads)
    key = sha256(json.dumps(names).encode()).hexdigest()[:16]
    kept = _read(path)
    if not again and key in kept:
        try:
            return Limits(**kept[key])
        except TypeError:
            pass  # damaged: measure again
    with Neighbours() as neighbours:
        found = measure(kind, threads)
    if neighbours.share > MOST_SHARE:
        share = 100 * neighbours.share
        log.warning("others took %.0f %% of the processors: limits come out too low, and are not kept", share)
        return found
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(_read(path) | {key: asdict(found)}, indent=1) + "\n", encoding="utf-8")
    fresh.replace(path)
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


# ---- the least time of a step --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """A kind of step: `tokens` new ones in each of `sequences`, each after `context` tokens."""

    sequences: int
    tokens: int
    context: int


@dataclass(frozen=True)
class Floor:
    """The least that a step needs. FLOPs are two per multiply-add."""

    weight_bytes: float
    flops: float
    cache_bytes: float
    attention_flops: float
    reading_s: float
    arithmetic_s: float
    attention_s: float

    @property
    def seconds(self) -> float:
        return max(self.reading_s, self.arithmetic_s) + self.attention_s


def reads(config: ModelConfig, kind: Kind, tokens: int) -> Reads:
    """What a step of `tokens` tokens reads of the weights."""
    always, expert = step_weight_bytes(config, kind)
    if not expert:
        return Reads(always)
    return Reads(always, expert, config.n_routed_experts, round(experts_met(config, tokens)))


def floor(config: ModelConfig, step: Step, machine: Limits, *, cache_value_bytes: int) -> Floor:
    """The least time of a step. A model that the caches hold in part is timed here, reading as the step does."""
    rows = step.sequences * step.tokens
    pattern = reads(config, machine.kind, rows)
    if pattern.total_bytes < LARGE_BYTES:
        reading_s = step_s(machine.kind, pattern, machine.threads)
    else:
        reading_s = pattern.step_bytes / machine.read_bytes_per_s
    flops, attention_flops = step_flops(config, step.sequences, step.tokens, step.context)
    cached = step.sequences * (step.context + step.tokens) * cache_bytes_per_token(config, cache_value_bytes)
    rate = machine.cached_bytes_per_s if cached + pattern.step_bytes < CACHED_BYTES else machine.read_bytes_per_s
    return Floor(
        weight_bytes=pattern.step_bytes,
        flops=flops,
        cache_bytes=cached,
        attention_flops=attention_flops,
        reading_s=reading_s,
        arithmetic_s=flops / 2 / machine.multiply_adds_per_s,
        attention_s=max(cached / rate, attention_flops / 2 / machine.attention_multiply_adds_per_s),
    )
