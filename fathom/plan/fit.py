"""Whether a model fits on some devices, by which layout, what binds, and the smallest change that would make it fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from fathom.errors import ConfigError
from fathom.layout import Layout
from fathom.plan.hardware import Device
from fathom.plan.latency import Setup
from fathom.plan.memory import Memory, memory
from fathom.plan.precision import precision
from fathom.plan.shape import Shape

SMALLER = ("fp8", "int8", "nvfp4", "mxfp4", "int4", "q4_k_m")  # what a model may be stored as instead
MOST_DEVICES = 4096
CONTEXT = 4096  # tokens that one request must have room for, unless the user says


@dataclass(frozen=True)
class Fit:
    """An answer. setup: the layout that leaves most room, or comes nearest. contexts: of `context` tokens at a time.

    binding: the largest term on a device. changes: single changes that would make it fit, the smallest first.
    """

    fits: bool
    setup: Setup
    count: int
    context: int
    memory: Memory
    contexts: float
    binding: str
    changes: tuple[str, ...] = ()

    @property
    def missing(self) -> float:
        """Bytes that a device lacks [B]; 0 if it fits."""
        one = self.context * self.memory.token_bytes + self.memory.state_bytes
        return max(0.0, self.memory.used + one - self.memory.capacity)


def fit(
    shape: Shape, device: Device, count: int, *, precision: str = "", cache: str = "bf16", context: int = CONTEXT,
    layout: Layout | None = None, mtp: bool = False, redundant: int = 0,
) -> Fit:  # fmt: skip
    """Whether it fits, with room for one request of `context` tokens at least.

    Raises: ConfigError: a number that makes no sense, or a layout of another number of devices.
    """
    _check(shape, count, context)
    base = Setup(
        shape, device, precision=precision, cache=cache, mtp=int(mtp and shape.mtp is not None), redundant=redundant
    )
    if layout is not None and layout.world_size != count:
        raise ConfigError(f"layout {layout} is for {layout.world_size} devices, not {count}.")
    found = _best(base, count, context, [layout] if layout else list(layouts(shape, count)))
    return found if found.fits else replace(found, changes=tuple(_changes(base, count, context)))


def layouts(shape: Shape, count: int) -> Iterator[Layout]:
    """Ways to put one replica on `count` devices: tensor, data and expert, pipeline parallelism."""
    heads = min(block.attention.heads for block in shape.blocks)
    for pp in (n for n in range(1, min(count, shape.layers) + 1) if count % n == 0):
        width = count // pp
        for tp in (n for n in range(1, width + 1) if width % n == 0 and heads % n == 0):
            dp = width // tp
            if dp == 1:
                yield Layout(pp=pp, tp=tp)
            if shape.moe and width > 1 and shape.moe.experts >= width:
                yield Layout(pp=pp, tp=tp, dp=dp, ep=width)


def _best(base: Setup, count: int, context: int, tried: list[Layout]) -> Fit:
    """The layout with room for most contexts, without pipeline stages if that fits; else the one that lacks least."""
    if not tried:
        raise ConfigError(f"{base.shape.name} cannot be divided over {count} devices; use another number.")
    found = [_one(replace(base, layout=layout), count, context) for layout in tried]
    return max(found, key=lambda one: (one.fits, -one.setup.layout.pp if one.fits else 0, one.contexts, -one.missing))


def _one(setup: Setup, count: int, context: int) -> Fit:
    held = memory(setup)
    contexts = held.sequences(context)
    largest = max(held.parts, key=lambda part: held.parts[part])
    return Fit(contexts >= 1, setup, count, context, held, contexts, largest)


def _changes(base: Setup, count: int, context: int) -> Iterator[str]:
    """What would make it fit, one change at a time."""
    shape, device = base.shape, base.device

    def works(setup: Setup, devices: int, tokens: int) -> bool:
        tried = list(layouts(shape, devices))
        return bool(tried) and _best(setup, devices, tokens, tried).fits

    if base.cache == "bf16" and works(replace(base, cache="fp8"), count, context):
        yield "keep the cache in FP8 (--cache fp8)"
    if context > 512 and works(base, count, 512):
        low, high = 512, context
        while high - low > 256:
            middle = (low + high) // 2
            low, high = (middle, high) if works(base, count, middle) else (low, middle)
        yield f"contexts of at most {low:,} tokens (--context {low})"
    now = base.weights.weight_bytes
    for name in SMALLER:
        kind = precision(name)
        runs = kind.peak != "fp4" or device.fp4_tflops is not None
        if runs and kind.weight_bytes < now and works(replace(base, precision=name), count, context):
            yield f"weights in {name.upper()} (--precision {name})"
            break
    more = count
    while more < MOST_DEVICES:
        more += 1 if more < 8 else 8 - more % 8
        if works(base, more, context):
            yield f"{more} devices (--on {more}x{device.name})"
            return


def _check(shape: Shape, count: int, context: int) -> None:
    if not 1 <= count <= MOST_DEVICES:
        raise ConfigError(f"{count} devices; use 1 to {MOST_DEVICES} for one replica.")
    if context < 1:
        raise ConfigError(f"context is {context} tokens; it must be at least 1.")
    if shape.context and context > shape.context:
        raise ConfigError(f"context is {context} tokens; {shape.name} is made for {shape.context} at most.")
