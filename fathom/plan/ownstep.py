"""A step of our own engine on a CPU, as a sum of parts whose sizes are arithmetic and whose speeds are measured.

    seconds = step + sequences + prompts + admission + forward + head + near + far + pairs + choices

The first four are scheduler and Python; the forward was timed alone for some numbers of rows, the head is a product,
near and far keys and pairs are what contexts add, choices are of tokens that are not simply the likeliest. Each part
grows with the work in it, so no longer or wider step is ever predicted to be shorter. The measured speeds are only
where a fit to the engine's own steps begins (calibrate.py).
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
    """A part of a step. prior_sd: how far it may lie from what kernels say, of its logarithm. bound: its resource."""

    name: str
    prior_sd: float
    bound: str


# Python is only guessed, within a factor of e; kernels in an engine find their caches colder than alone.
PARTS = (
    Part("step", 1.0, "scheduler and sampler"),
    Part("sequences", 1.0, "scheduler and sampler"),
    Part("prompts", 1.0, "scheduler and sampler"),
    Part("admission", 1.0, "scheduler and sampler"),
    Part("forward", 0.2, "products with weights"),
    Part("head", 0.4, "products with weights"),
    Part("near", 0.4, "attention"),
    Part("far", 0.6, "attention"),
    Part("pairs", 0.4, "attention"),
    Part("choices", 0.6, "scheduler and sampler"),
)
# Guesses, which any measurement overrules: of a step, a sequence in it, a prompt that begins, a token of that.
PYTHON_STEP_S, PYTHON_SEQUENCE_S, PYTHON_PROMPT_S, PYTHON_TOKEN_S = 1e-4, 1e-5, 1e-4, 2e-7
NEAR_BYTES = float(1 << 20)  # the second cache of a core, as most processors of today have it or somewhat more


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

    @property
    def group(self) -> Group:
        return Group(self.sequences, self.tokens, self.context)


KERNELS = ("read", "product", "forward", "attention", "drawn", "filtered")


@dataclass(frozen=True)
class Rates:
    """What the kernels reach.

    Fields: read: (bytes read over and over [B], their rate [B/s]). product: (rows, multiply-adds per second). forward:
            (rows, time [s]). near_s, far_s: a key read, of those that the nearest cache holds, and of others [s].
            pair_s: a pair more [s]. choice_s: a token chosen so [s].
    """

    read: tuple[tuple[float, float], ...]
    product: tuple[tuple[float, float], ...]
    forward: tuple[tuple[float, float], ...]
    near_s: float
    far_s: float
    pair_s: float
    choice_s: dict[Choice, float] = field(default_factory=dict)

    @staticmethod
    def of(kernels: Sequence[Kernel], near_keys: float) -> Rates:
        """Args: near_keys: as `near_keys(config, kind)`. Raises: ConfigError: some kind of kernel is missing."""
        named = {n: [k for k in kernels if k.name == n] for n in KERNELS}
        missing = [name for name, found in named.items() if not found]
        if missing:
            raise ConfigError(f"the profile has no measured kernel named {missing[0]!r}; calibrate again.")
        single = [k for k in named["attention"] if not k.group.pairs]
        chunks = [k for k in named["attention"] if k.group.pairs]
        if not single or not chunks:
            raise ConfigError("the profile needs attention of single tokens and of chunks; calibrate again.")
        near_s = _median([k.seconds / k.group.keys for k in single if k.group.keys <= near_keys])
        rest = [(k.group.keys - near_keys, k.seconds - (near_s or 0.0) * near_keys) for k in single]
        far_s = _median([max(seconds, 0.0) / keys for keys, seconds in rest if keys > near_keys])
        near_s, far_s = near_s or far_s or 1e-12, far_s or near_s or 1e-12
        more = [
            max(k.seconds - _keys_s(k.group.keys, near_keys, near_s, far_s), 0.1 * k.seconds) / k.group.pairs
            for k in chunks
        ]
        return Rates(
            tuple(sorted((k.bytes, k.bytes / k.seconds) for k in named["read"])),
            tuple(sorted((float(k.sequences), k.multiply_adds / k.seconds) for k in named["product"])),
            _rising(_thrifty((float(k.sequences), k.seconds) for k in named["forward"])),
            near_s,
            far_s,
            _median(more) or 1e-12,
            {"drawn": named["drawn"][0].seconds, "filtered": named["filtered"][0].seconds},
        )

    def forward_s(self, rows: float) -> float:
        """A forward of so many rows at the beginning of their texts [s]."""
        return _grown(self.forward, rows)


def near_keys(config: ModelConfig, kind: Kind) -> float:
    """Keys that the nearest large cache of a core holds, all layers together."""
    return NEAR_BYTES / cache_bytes_per_token(config, 4 if kind == "f32" else 2)


def _keys_s(keys: float, near: float, near_s: float, far_s: float) -> float:
    return near_s * min(keys, near) + far_s * max(0.0, keys - near)


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
    return first * work / least if work <= least else _between(points, work)


def _between(points: Sequence[tuple[float, float]], at: float) -> float:
    """Interpolated between logarithms; the nearest point outside."""
    x, y = np.log(np.array(points, dtype=float)).T
    return float(np.exp(np.interp(math.log(at), x, y)))


def part_seconds(config: ModelConfig, kind: Kind, rates: Rates, step: Step) -> Array:
    """Each of PARTS at the speed of the kernels [s]."""
    rows, sequences = sum(g.rows for g in step), sum(g.sequences for g in step)
    keys, near = sum(g.keys for g in step), near_keys(config, kind)
    chosen = sum(g.sequences for g in step if g.sampling != "none")
    weights, size = _head(config, kind)
    reading_s = size / _between(rates.read, size)
    head_s = max(reading_s, weights * chosen / _between(rates.product, max(1, chosen)))
    return np.array([
        PYTHON_STEP_S,
        PYTHON_SEQUENCE_S * sequences,
        PYTHON_PROMPT_S * sum(g.admitted for g in step),
        PYTHON_TOKEN_S * sum(g.admitted * (g.context + g.tokens) for g in step),
        rates.forward_s(rows),
        head_s if chosen else 0.0,
        rates.near_s * min(keys, near),
        rates.far_s * max(0.0, keys - near),
        rates.pair_s * sum(g.pairs for g in step),
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
