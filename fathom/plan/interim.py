"""Interim step times and memory: a plain roofline under the names of latency.py and memory.py, until those are here."""

from __future__ import annotations

from dataclasses import dataclass

from fathom.layout import Layout
from fathom.plan.hardware import Device
from fathom.plan.precision import precision
from fathom.plan.shape import Shape


@dataclass(frozen=True)
class Setup:
    shape: Shape
    device: Device
    layout: Layout
    precision: str = ""
    cache: str = "bf16"
    engine: str = ""
    mtp: int = 0
    acceptance: float = 0.8
    overlap: bool = False
    redundant: int = 0
    balancedness: float | None = None


@dataclass(frozen=True)
class Part:
    name: str
    seconds: float
    flops: float = 0.0
    bytes: float = 0.0
    bound: str = ""


@dataclass(frozen=True)
class Step:
    seconds: float
    parts: tuple[Part, ...]
    bound: str
    sd: float = 0.12


CACHE_BYTES = {"bf16": 2.0, "fp8": 656 / 576}


def weight_bytes(setup: Setup) -> float:
    shape, layout = setup.shape, setup.layout
    kind = precision(setup.precision or shape.precision)
    total = 0.0
    blocks = [*shape.blocks, *([shape.mtp] if shape.mtp and setup.mtp else [])]
    for block in blocks:
        for m in block.matrices:
            each = kind.weight_bytes if m.quantised and (m.part == "experts" or not kind.experts_only) else 2.0
            if m.part == "experts":
                copies = (m.copies + setup.redundant) / layout.ep
                cut = layout.tp if layout.ep == 1 else 1
                total += block.count * m.rows * m.columns * copies * each / cut
            else:
                total += block.count * m.elements * each / layout.tp
    return total / layout.pp + 2 * shape.vocab * shape.hidden * 2 / layout.tp


def room_tokens(setup: Setup, step_tokens: float = 8192) -> float:
    """Tokens of cache that a replica has room for."""
    layout, shape = setup.layout, setup.shape
    free = setup.device.memory_bytes * 0.92 - 4e9 - weight_bytes(setup) - step_tokens * shape.hidden * 24
    attention = shape.blocks[0].attention
    cut = 1 if attention.kind == "latent" else min(layout.tp, attention.kv_heads)
    each = shape.cache_values * CACHE_BYTES[setup.cache] / layout.pp / cut
    return max(0.0, free / each) * layout.dp


def decode_step(setup: Setup, sequences: float, context: float, knobs: object = None) -> Step:
    return _step(setup, sequences * (1 + setup.mtp), sequences, context, decode=True)


def prefill_step(setup: Setup, tokens: float, cached: float = 0.0, prompt: float = 4096, knobs: object = None) -> Step:
    return _step(setup, tokens, tokens / prompt, cached + prompt / 2, decode=False)


def _step(setup: Setup, tokens: float, sequences: float, context: float, *, decode: bool) -> Step:
    shape, layout, device = setup.shape, setup.layout, setup.device
    kind = precision(setup.precision or shape.precision)
    peak = device.peak(kind.peak) * (0.5 if not decode else 0.45)
    memory = device.memory_bytes_per_s * 0.8
    lane, moe = tokens / layout.dp, shape.moe
    dense = experts = attend = 0.0
    read = read_experts = kv = 0.0
    for block in shape.blocks:
        for m in block.matrices:
            each = kind.weight_bytes if m.quantised and (m.part == "experts" or not kind.experts_only) else 2.0
            if m.part == "experts" and moe:
                met = moe.met_by(tokens) / layout.ep
                experts += block.count * 2.0 * m.rows * m.columns * m.met * lane / layout.tp
                read_experts += block.count * m.rows * m.columns * met * each / (layout.tp if layout.ep == 1 else 1)
            else:
                dense += block.count * 2.0 * m.activated * lane / layout.tp
                read += block.count * m.activated * each / layout.tp
        attend += block.count * block.attention.flops(context, absorbed=decode) * lane / layout.tp
        cut = 1 if block.attention.kind == "latent" else layout.tp
        kv += block.count * block.attention.cache_values * CACHE_BYTES[setup.cache] * context * sequences / layout.dp / cut
    layers = shape.layers
    parts = [
        _part("dense", dense, read, peak, memory),
        _part("experts", experts * (1.2 if layout.ep > 1 else 1), read_experts, peak, memory),
        _part("attention", attend, kv, device.peak("bf16") * 0.6, memory),
        Part("launch", layers * 80e-6, bound="launch"),
    ]
    comm = 0.0
    if layout.ep > 1 and moe:
        world = layout.dp * layout.tp
        speed = (device.link_gbs or 16) * 1e9 * 0.75 if world <= device.link_world else (device.network_gbs or 12) * 8e8
        rows = lane / layout.tp * (moe.chosen if decode else 4)
        comm = shape.moe_layers * (2 * 30e-6 + rows * shape.hidden * 3 / speed)
        parts.append(Part("all-to-all", comm, bytes=rows * shape.hidden * 3, bound="network"))
    if layout.tp > 1:
        speed = (device.link_gbs or 16) * 1e9 * 0.7
        parts.append(Part("all-reduce", layers * 2 * (15e-6 + 2 * lane * shape.hidden * 2 / speed), bound="link"))
    total = sum(p.seconds for p in parts)
    if setup.overlap and comm:
        other = total - comm
        extra = 0.3 * sum(p.seconds for p in parts[:3]) * (1 if decode and lane < 64 else 0.2)
        total = max(other + extra, comm)
    return Step(total / (1 if layout.pp == 1 else 1), tuple(parts), max(parts, key=lambda p: p.seconds).bound)


def _part(name: str, flops: float, read: float, peak: float, memory: float) -> Part:
    compute, load = flops / peak, read / memory
    seconds = (compute**2 + load**2) ** 0.5
    return Part(name, seconds, flops, read, "compute" if compute > load else "memory bandwidth")
