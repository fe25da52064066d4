"""Whether a model fits on some devices, by which layout, what binds, and the smallest change that would make it fit.

A yes is for a layout that engines can run, with room for one request at least after a reserve (memory.py). It is never
given on less than the arithmetic asks for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

from fathom.config import build
from fathom.errors import ConfigError
from fathom.layout import Layout
from fathom.plan.hardware import Catalogue, Device
from fathom.plan.latency import Setup
from fathom.plan.memory import BLOCK, CHUNK_TOKENS, Memory, memory
from fathom.plan.precision import precision as kind_of
from fathom.plan.shape import Shape

SMALLER = ("fp8", "int8", "nvfp4", "mxfp4", "int4", "q4_k_m")  # what a model may be stored as instead
MOST_DEVICES = 4096
CONTEXT = 4096  # tokens that one request must have room for, unless the user says
LEAST_CHUNK, LEAST_CONTEXT = 1024, 512
SHOWN = 6  # layouts of a table
TRIED = 32  # larger numbers of devices
CACHE = "cache of one context"


@dataclass(frozen=True)
class Fit:
    """An answer. setup: the layout that leaves most room, or comes nearest. contexts: of `context` tokens at a time.

    binding: the largest part on a device. changes: single changes that would make it fit, the smallest first. tried:
    the best layouts, this one first, with what they hold and the contexts they have room for.
    """

    fits: bool
    setup: Setup
    count: int
    context: int
    memory: Memory
    contexts: float
    binding: str
    changes: tuple[str, ...] = ()
    tried: tuple[Fit, ...] = ()
    chunk: int = CHUNK_TOKENS

    @property
    def one(self) -> float:
        """Bytes of one context on a device [B]."""
        return self.context * self.memory.token_bytes + self.memory.state_bytes

    @property
    def bound(self) -> str:
        """What sets the answer: the largest part, or the cache of one context where that is larger still."""
        return CACHE if self.one > self.memory.parts[self.binding] else self.binding

    @property
    def missing(self) -> float:
        """Bytes that a device lacks [B]; 0 if it fits."""
        return max(0.0, self.memory.used + self.one - self.memory.capacity)


def fit(
    shape: Shape, device: Device, count: int, *, precision: str = "", cache: str = "bf16", context: int = CONTEXT,
    layout: Layout | None = None, mtp: bool = False, redundant: int = 0, chunk: int = CHUNK_TOKENS,
) -> Fit:  # fmt: skip
    """Whether it fits, with room for one request of `context` tokens at least.

    Args:   chunk: tokens of prompts that are read in one step.
    Raises: ConfigError: a number that makes no sense, or a layout of another number of devices.
    """
    _check(shape, count, context, chunk)
    base = Setup(
        shape, device, precision=precision, cache=cache, mtp=int(mtp and shape.mtp is not None), redundant=redundant
    )
    if layout is not None and layout.world_size != count:
        raise ConfigError(f"layout {spelled(layout)} is for {layout.world_size} devices, not {count}.")
    asked = _Asked(base, count, context, chunk)
    found = asked.best([layout] if layout else asked.layouts())
    return found if found.fits else replace(found, changes=tuple(_changes(asked, layout)))


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


def whole_blocks(setup: Setup) -> bool:
    """Whether weights in FP8 are cut between blocks of 128 only, as engines ask."""
    if setup.weights.name != "fp8":
        return True
    layout = setup.layout
    cut = layout.dp * layout.tp // layout.ep
    for block in setup.shape.blocks:
        widths = [m.rows / layout.tp for m in block.matrices if m.name == "gate_proj" and m.part == "dense_mlp"]
        if block.moe:
            widths += [block.moe.width / cut, block.moe.shared_width / layout.tp]
        if layout.tp * cut > 1 and any(width % BLOCK for width in widths):
            return False
    return True


def read_layout(text: str) -> Layout:
    """Of `tp8`, `tp=8,pp=2`, `dp8 ep8` or `dep8`. Raises: ConfigError: it is not understood."""
    plain = re.sub(r"\bdep\s*=?\s*(\d+)", r"dp\1,ep\1", text.strip().lower())
    parts = re.findall(r"(pp|dp|tp|ep)\s*=?\s*(\d{1,6})", plain)
    rest = re.sub(r"(pp|dp|tp|ep)\s*=?\s*(\d{1,6})|[\s,x]", "", plain)
    names = [name for name, _ in parts]
    if rest or not parts or len(set(names)) < len(names):
        raise ConfigError(f"layout is {text!r}; write it like tp8, tp8,pp2 or dp8,ep8.")
    return build(Layout, {name: int(number) for name, number in parts}, "layout")


def spelled(layout: Layout) -> str:
    """As `read_layout` reads it: tp8,ep8."""
    degrees = [(one.name, getattr(layout, one.name)) for one in fields(layout)]
    return ",".join(f"{name}{n}" for name, n in degrees if n > 1) or "tp1"


@dataclass(frozen=True)
class _Asked:
    """A question: what is to fit, on how many devices."""

    base: Setup
    count: int
    context: int
    chunk: int

    def layouts(self) -> list[Layout]:
        """Those that engines can run."""
        found = list(layouts(self.base.shape, self.count))
        return [one for one in found if whole_blocks(replace(self.base, layout=one))]

    def best(self, tried: list[Layout]) -> Fit:
        """The layout with room for most contexts, without pipeline stages if that fits; else what lacks least."""
        if not tried:
            raise ConfigError(
                f"{self.base.shape.name} cannot be divided over {self.count} devices; use another number."
            )
        found = [self.one(layout) for layout in tried]
        found.sort(key=lambda one: (-one.fits, one.setup.layout.pp if one.fits else 0, -one.contexts, one.missing))
        return replace(found[0], tried=tuple(found[:SHOWN]))

    def one(self, layout: Layout) -> Fit:
        """The answer for one layout."""
        setup = replace(self.base, layout=layout)
        held = memory(setup, chunk=self.chunk)
        contexts = held.sequences(self.context)
        largest = max(held.parts, key=lambda part: held.parts[part])
        return Fit(contexts >= 1, setup, self.count, self.context, held, contexts, largest, chunk=self.chunk)

    def works(self) -> bool:
        """Whether it fits by any layout; a number of devices that weights alone overfill is not looked at closer."""
        device, kind = self.base.device, self.base.weights
        least = self.base.shape.parameters * min(kind.weight_bytes, 2.0) / self.count
        if least > device.driver_bytes:
            return False
        tried = self.layouts()
        return bool(tried) and self.best(tried).fits


def _changes(asked: _Asked, layout: Layout | None) -> Iterator[str]:
    """What would make it fit, one change at a time, from what costs least to what costs most."""
    base, context = asked.base, asked.context
    if layout is not None and asked.works():
        other = asked.best(asked.layouts()).setup.layout
        yield f"another layout (--layout {spelled(other)})"
    if base.mtp and replace(asked, base=replace(base, mtp=0)).works():
        yield "without the multi-token prediction module"
    if base.redundant and replace(asked, base=replace(base, redundant=0)).works():
        yield "without copies of experts (--redundant 0)"
    if asked.chunk > LEAST_CHUNK and replace(asked, chunk=LEAST_CHUNK).works():
        yield f"prompts read in smaller steps (--chunk {LEAST_CHUNK})"
    if base.cache == "bf16" and replace(asked, base=replace(base, cache="fp8")).works():
        yield "the cache in FP8 (--cache fp8)"
    if context > LEAST_CONTEXT and replace(asked, context=LEAST_CONTEXT).works():
        low, high = LEAST_CONTEXT, context
        while high - low > max(256, context // 512):
            middle = (low + high) // 2
            low, high = (middle, high) if replace(asked, context=middle).works() else (low, middle)
        yield f"contexts of at most {low:,} tokens (--context {low})"
    yield from _fewer_bits(asked)
    yield from _more_devices(asked)


def _fewer_bits(asked: _Asked) -> Iterator[str]:
    base, now = asked.base, asked.base.weights.weight_bytes
    for name in SMALLER:
        kind = kind_of(name)
        runs = kind.peak != "fp4" or base.device.fp4_tflops is not None
        if runs and kind.weight_bytes < now and replace(asked, base=replace(base, precision=name)).works():
            yield f"weights in {name.upper()} (--precision {name})"
            return


def _more_devices(asked: _Asked) -> Iterator[str]:
    device, more = asked.base.device, asked.count
    kind = asked.base.weights
    least = asked.base.shape.parameters * min(kind.weight_bytes, 2.0) / device.driver_bytes
    tried = 0
    while more < MOST_DEVICES and tried < TRIED:
        more += 1 if more < 8 else 8 - more % 8
        if more < least:
            continue
        tried += 1
        if replace(asked, count=more).works():
            yield f"{more} devices (--on {more}x{device.name})"
            break
    larger = [
        one for one in Catalogue.read().values()
        if one.driver_bytes > device.driver_bytes and one.vendor == device.vendor and one.is_host == device.is_host
    ]  # fmt: skip
    for one in sorted(larger, key=lambda found: (found.driver_bytes, found.name)):
        if replace(asked, base=replace(asked.base, device=one)).works():
            yield f"devices of {one.memory_gb:g} GB (--on {asked.count}x{one.name})"
            return


def _check(shape: Shape, count: int, context: int, chunk: int) -> None:
    if not 1 <= count <= MOST_DEVICES:
        raise ConfigError(f"{count} devices; use 1 to {MOST_DEVICES} for one replica.")
    if context < 1:
        raise ConfigError(f"context is {context} tokens; it must be at least 1.")
    if chunk < 1:
        raise ConfigError(f"chunk is {chunk} tokens; it must be at least 1, such as {CHUNK_TOKENS}.")
    if shape.context and context > shape.context:
        raise ConfigError(f"context is {context} tokens; {shape.name} is made for {shape.context} at most.")
