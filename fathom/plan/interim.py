"""Interim memory of a replica, until memory.py is here."""

from __future__ import annotations

from fathom.plan.latency import Setup
from fathom.plan.precision import precision

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
