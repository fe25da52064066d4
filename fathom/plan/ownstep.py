"""A step of our own engine on a CPU, as a sum of parts whose sizes are arithmetic and whose speeds are measured.

    seconds = step + sequences + prompts + products + attention + memory + choices

The first three are scheduler and Python; products are a forward, timed alone for some numbers of rows, and the head;
attention is what contexts add on the thread that has most of it, memory what keys add that no cache holds; choices are
of tokens that are not simply the likeliest. Each part grows with the work in it, so no longer or wider step is ever
predicted to be shorter. The measured speeds are only where a fit to the engine's own steps begins (calibrate.py).

Attention is divided as ops/cpu/layer.h divides it. Of enough sequences each is one thread's, so five sequences take two
threads as long as six; of fewer, threads share the heads, and each of them prepares all keys.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fathom.batching.plan import Plan, Row
from fathom.config import ModelConfig
from fathom.cost import BYTES, Kind, cache_bytes_per_token, kind_for, matrices, stored
from fathom.errors import ConfigError

Array = NDArray[np.float64]
# How the next token is chosen: the likeliest, with noise (a temperature), among some only (top_p, penalties and such),
# or not at all: more of the prompt is to come.
Choice = Literal["greedy", "drawn", "filtered", "none"]


@dataclass(frozen=True)
class Part:
    """A part of a step. kin: parts that lie away from where they are expected together. own_sd: how far this one does
    besides, of its logarithm. bound: its resource.
    """

    name: str
    kin: Literal["python", "kernels", "choices"]
    own_sd: float
    bound: str


# One Python is twice as fast as another, but much the same work takes it much the same share; kernels in an engine find
# their caches colder than alone, and the machine may be slower or faster than it was when they were measured.
KIN_SD = {"python": 0.7, "kernels": 0.3, "choices": 0.0}
PARTS = (
    Part("step", "python", 0.25, "scheduler and sampler"),
    Part("sequences", "python", 0.25, "scheduler and sampler"),
    Part("prompts", "python", 0.25, "scheduler and sampler"),
    Part("products", "kernels", 0.15, "products with weights"),
    Part("attention", "kernels", 0.2, "attention"),
    Part("memory", "kernels", 0.5, "attention"),
    Part("choices", "choices", 0.4, "scheduler and sampler"),
)
# Guesses, which any measurement overrules, seen on a core of 2.6 GHz [s]: of a step; of a sequence in it, and of the
# pages of each token of its context; of a prompt that begins, a token of it that is computed, and one before that.
STEP_S, SEQUENCE_S, PAGES_S = 6e-5, 8e-6, 8e-9
PROMPT_S, COMPUTED_S, CACHED_S = 7e-5, 7e-7, 1.4e-7
NEAR_BYTES = float(4 << 20)  # what a core has of the last cache, as most processors of today have it or somewhat less

LEAST_FAR = 0.1  # that a key past the caches takes more, of what attention takes: kernels may be disturbed


@dataclass(frozen=True)
class Group:
    """A part of a step: `tokens` new ones in each of `sequences`, each after `context` tokens, then one chosen.

    begins: whether their requests begin with it, and are looked up in the cache; None: if they are prompts.
    """

    sequences: int = 1
    tokens: int = 1
    context: float = 0.0
    sampling: Choice = "greedy"
    begins: bool | None = None

    def __post_init__(self) -> None:
        for name, least in (("sequences", 1), ("tokens", 1), ("context", 0)):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= least):
                raise ConfigError(f"{name} is {value}; it must be at least {least}.")

    @property
    def rows(self) -> int:
        """Tokens computed."""
        return self.sequences * self.tokens

    @property
    def keys(self) -> float:
        """Cached tokens read, each once for all new ones of its sequence."""
        return self.sequences * self.context

    @property
    def admitted(self) -> int:
        """Sequences that begin."""
        return self.sequences if (self.tokens > 1 if self.begins is None else self.begins) else 0

    @property
    def pairs(self) -> float:
        """(new token, earlier token it attends to), without those of each sequence's first, which `keys` counts."""
        return self.sequences * ((self.tokens - 1) * self.context + self.tokens * (self.tokens - 1) / 2)


Step = tuple[Group, ...]


def step_of(plan: Plan, known: Container[str] = ()) -> Step:
    """What a recorded Plan computed; empty if nothing. known: requests that began before."""
    return tuple(
        Group(1, len(row.token_ids), row.start, _choice(row), row.request_id not in known)
        for row in plan.rows
        if row.token_ids
    )


def _choice(row: Row) -> Choice:
    if row.sampling is None:
        return "none"
    params = row.sampling.params
    if params.penalises_output or (params.temperature > 0 and (params.top_k or params.top_p < 1 or params.min_p)):
        return "filtered"
    return "drawn" if params.temperature > 0 else "greedy"


@dataclass(frozen=True)
class Kernel:
    """One kernel, alone, as it was measured: engine/probe.py says what its fields mean."""

    name: str
    seconds: float
    sequences: int = 1
    tokens: int = 1
    context: int = 0
    bytes: float = 0.0
    multiply_adds: float = 0.0
    threads: int = 1

    @property
    def group(self) -> Group:
        return Group(self.sequences, self.tokens, self.context)


KERNELS = ("read", "product", "forward", "attention", "drawn", "filtered")


@dataclass(frozen=True)
class Rates:
    """What the kernels reach.

    Fields: read: (bytes read over and over [B], their rate [B/s]). product: (rows, multiply-adds per second). forward:
            (rows, time [s]). key_s: a thread prepares a key; pair_s: it has all heads of a token attend to one [s].
            far_s: a key more than caches hold [s]. choice_s: a token chosen so [s].
    """

    read: tuple[tuple[float, float], ...]
    product: tuple[tuple[float, float], ...]
    forward: tuple[tuple[float, float], ...]
    threads: int
    key_s: float
    pair_s: float
    far_s: float
    choice_s: dict[Choice, float] = field(default_factory=dict)

    @staticmethod
    def of(kernels: Sequence[Kernel], near_keys: float) -> Rates:
        """Args: near_keys: as `near_keys(config, kind)`. Raises: ConfigError: some kind of kernel is missing."""
        named = {n: [k for k in kernels if k.name == n] for n in KERNELS}
        missing = [name for name, found in named.items() if not found]
        if missing:
            raise ConfigError(f"the profile has no measured kernel named {missing[0]!r}; calibrate again.")
        attention, threads = named["attention"], max(k.threads for k in kernels)
        if len({bool(k.group.pairs) for k in attention}) < 2:
            raise ConfigError("the profile needs attention of single tokens and of chunks; calibrate again.")
        work = [busiest((k.group,), threads) for k in attention]
        near = [(*w, k.seconds) for w, k in zip(work, attention, strict=True) if k.group.keys <= near_keys]
        key_s, pair_s = _two_rates(near or [(*w, k.seconds) for w, k in zip(work, attention, strict=True)])
        rest = [
            (k.seconds - key_s * keys - pair_s * pairs) / (k.group.keys - near_keys)
            for (keys, pairs), k in zip(work, attention, strict=True)
            if k.group.keys > near_keys
        ]
        return Rates(
            tuple(sorted((k.bytes, k.bytes / k.seconds) for k in named["read"])),
            tuple(sorted((float(k.sequences), k.multiply_adds / k.seconds) for k in named["product"])),
            _rising(_thrifty((float(k.sequences), k.seconds) for k in named["forward"])),
            threads,
            key_s,
            pair_s,
            max(_median(rest) or 0.0, LEAST_FAR * (key_s + pair_s) / threads),
            {"drawn": named["drawn"][0].seconds, "filtered": named["filtered"][0].seconds},
        )

    def forward_s(self, rows: float) -> float:
        """A forward of so many rows at the beginning of their texts [s]."""
        return _grown(self.forward, rows)


def near_keys(config: ModelConfig, kind: Kind) -> float:
    """Keys that the nearest large cache of a core holds, all layers together."""
    return NEAR_BYTES / cache_bytes_per_token(config, 4 if kind == "f32" else 2)


def busiest(step: Step, threads: int) -> tuple[float, float]:
    """(keys, pairs of a new token and a key) of the thread that has most of the attention."""
    keys = [(g.context, g.sequences) for g in step]
    pairs = [(g.context + g.pairs / g.sequences, g.sequences) for g in step]
    if sum(g.sequences for g in step) >= threads:
        return _most(keys, threads), _most(pairs, threads)
    return max(size for size, _ in keys), sum(size * count for size, count in pairs) / threads


def _most(jobs: Iterable[tuple[float, int]], threads: int) -> float:
    """The least that some thread has of (size, how many of it): exact where jobs are alike, and never less for more."""
    found, before, total = 0.0, 0, 0.0
    for size, count in sorted(jobs, reverse=True):
        before, total = before + count, total + size * count
        found = max(found, -(-before // threads) * size)
    return max(found, total / threads)


def _two_rates(kernels: Sequence[tuple[float, float, float]]) -> tuple[float, float]:
    """Times of a key and of a pair that best explain (keys, pairs, seconds), neither below 0."""
    work = np.array([(keys / seconds, pairs / seconds) for keys, pairs, seconds in kernels])
    key_s, pair_s = np.linalg.lstsq(work, np.ones(len(work)), rcond=None)[0].tolist()
    if min(key_s, pair_s) > 0.0:
        return key_s, pair_s
    alone = [float(one.sum() / (one @ one)) for one in work.T]
    return (0.0, alone[1]) if pair_s > key_s else (alone[0], 0.0)


def _median(values: Sequence[float]) -> float | None:
    """None of nothing, and of what disturbed differences leave no time at all."""
    return (float(np.median(values)) or None) if values else None


def _rising(points: Iterable[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """In order, the times never falling: less time for more work is a disturbed measurement."""
    ordered = sorted(points)
    longest = np.maximum.accumulate([seconds for _, seconds in ordered])
    return tuple((work, float(seconds)) for (work, _), seconds in zip(ordered, longest, strict=True))


def _thrifty(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Many rows never take more than the same rows in several forwards would: what did was disturbed."""
    found: list[tuple[float, float]] = []
    for rows, seconds in sorted(points):
        found.append((rows, min([seconds, *(s * rows / r for r, s in found)])))
    return found


def _grown(points: Sequence[tuple[float, float]], work: float) -> float:
    """The time of so much work: between measured points interpolated, beyond them in proportion to the nearest [s]."""
    (least, first), (most, last) = points[0], points[-1]
    if work >= most:
        return last * work / most
    return first * work / least if work <= least else float(np.interp(work, *np.array(points).T))


def _between(points: Sequence[tuple[float, float]], at: float) -> float:
    """Interpolated between logarithms; the nearest point outside."""
    x, y = np.log(np.array(points, dtype=float)).T
    return float(np.exp(np.interp(math.log(at), x, y)))


def prior() -> Array:
    """The covariance of how far PARTS may lie from where they are expected, of their logarithms."""
    kin = np.array([[KIN_SD[a.kin] ** 2 if a.kin == b.kin else 0.0 for a in PARTS] for b in PARTS])
    return kin + np.diag([part.own_sd**2 for part in PARTS])


def part_seconds(config: ModelConfig, kind: Kind, rates: Rates, step: Step) -> Array:
    """Each of PARTS at the speed of the kernels [s]."""
    rows, sequences, keys = (sum(getattr(g, name) for g in step) for name in ("rows", "sequences", "keys"))
    chosen = sum(g.sequences for g in step if g.sampling != "none")
    weights, size = _head(config, kind)
    head_s = max(size / _between(rates.read, size), weights * chosen / _between(rates.product, max(1, chosen)))
    most_keys, most_pairs = busiest(step, rates.threads)
    return np.array([
        STEP_S,
        SEQUENCE_S * sequences + PAGES_S * keys,
        sum(g.admitted * (PROMPT_S + COMPUTED_S * g.tokens + CACHED_S * g.context) for g in step),
        rates.forward_s(rows) + (head_s if chosen else 0.0),
        rates.key_s * most_keys + rates.pair_s * most_pairs,
        rates.far_s * max(0.0, keys - near_keys(config, kind)),
        sum(rates.choice_s.get(g.sampling, 0.0) * g.sequences for g in step),
    ])  # fmt: skip


@lru_cache(maxsize=64)
def _head(config: ModelConfig, kind: Kind) -> tuple[float, float]:
    """(weights, bytes) of the head."""
    head = next(m for m in matrices(config) if m.name == "lm_head.weight")
    parts = stored(kind_for(config, head, kind), head.rows, head.columns)
    return float(head.rows * head.columns), float(sum(math.prod(shape) * BYTES[dtype] for _, shape, dtype in parts))


def place(step: Step) -> Array:
    """Where a step lies among others, in octaves: sequences, new tokens of each, context."""
    sequences, rows = sum(g.sequences for g in step), sum(g.rows for g in step)
    context = sum(g.sequences * g.context for g in step) / sequences
    return np.log2(np.array([sequences, rows / sequences, context + 64.0]))
