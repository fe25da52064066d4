"""What one device of a replica holds, by what it is for, and the tokens of cache that the rest has room for."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fathom.plan.latency import CACHE_BYTES, LATENT_FP8, Setup
from fathom.plan.precision import precision
from fathom.plan.shape import Block

#: Context, kernels and graphs of an engine, and buffers of collectives: aiconfigurator's systems/*.yaml (3.5 + 0.4 GB).
RUNTIME_BYTES, COLLECTIVES_BYTES = 3.5e9, 0.4e9
USED_SHARE = 0.95  # of the memory: what engines dare to allocate; drivers and fragments keep the rest
ACTIVATION_VALUES = 12  # widths of a token that live at once in a step that reads prompts, in BF16
CHUNK_TOKENS = 8192  # read in one step by a dp rank


@dataclass(frozen=True)
class Memory:
    """Bytes on the device that holds most. room: tokens of cache of the whole replica; 0: it does not fit."""

    parts: dict[str, float]
    capacity: float
    token_bytes: float
    state_bytes: float
    room: float

    @property
    def used(self) -> float:
        """All but the cache [B]."""
        return sum(self.parts.values())

    def sequences(self, context: float) -> float:
        """Contexts of so many tokens that the replica has room for at a time."""
        each = context * self.token_bytes + self.state_bytes
        return math.floor(self.room * self.token_bytes / each) if each > 0 else math.inf


def memory(setup: Setup, *, chunk: float = CHUNK_TOKENS) -> Memory:
    """What a device of `setup` holds. Args: chunk: tokens of prompts that a dp rank reads in one step."""
    layout, shape, device = setup.layout, setup.shape, setup.device
    parts: dict[str, float] = {}
    for block, count in stage(setup):
        for part, size in _weights(setup, block).items():
            parts[part] = parts.get(part, 0.0) + size * count
    ends = 2 if layout.pp == 1 and not shape.tied else 1
    parts["embedding and head"] = ends * shape.embedding * 2.0 / layout.tp
    if setup.mtp and shape.mtp:
        parts["MTP module"] = sum(_weights(setup, shape.mtp).values()) * shape.mtp_depth
    parts["runtime"] = RUNTIME_BYTES + (COLLECTIVES_BYTES if setup.devices > 1 else 0.0)
    parts["activations"] = chunk * shape.hidden * 2.0 * ACTIVATION_VALUES
    capacity = device.memory_bytes * USED_SHARE
    token, state = cache_bytes(setup)
    free = max(0.0, capacity - sum(parts.values()))
    room = free / token * layout.dp if token else (math.inf if free else 0.0)
    return Memory(parts, capacity, token, state, room)


def stage(setup: Setup) -> list[tuple[Block, int]]:
    """(block, how many of its layers) of the pipeline stage that holds most; all of them if there is one stage."""
    blocks = setup.shape.blocks
    if setup.layout.pp == 1:
        return [(block, block.count) for block in blocks]
    layers = [at for at, block in enumerate(blocks) for _ in range(block.count)]
    sizes = [sum(_weights(setup, block).values()) for block in blocks]
    width = math.ceil(len(layers) / setup.layout.pp)
    first = max(range(len(layers) - width + 1), key=lambda n: sum(sizes[at] for at in layers[n : n + width]))
    held = layers[first : first + width]
    return [(block, held.count(at)) for at, block in enumerate(blocks) if at in held]


def _weights(setup: Setup, block: Block) -> dict[str, float]:
    """Bytes of one layer on a device, by part."""
    layout, kind = setup.layout, setup.weights
    rest = precision(kind.rest) if kind.experts_only and setup.shape.moe else kind
    found: dict[str, float] = {"norms": block.norms * 2.0}
    for m in block.matrices:
        each = 2.0 if not m.quantised else kind.weight_bytes if m.part == "experts" else rest.weight_bytes
        if m.part == "experts":
            slots = math.ceil((m.copies + setup.redundant) / layout.ep)
            size = slots * m.rows * m.columns * each * layout.ep / (layout.dp * layout.tp)
        else:
            size = m.elements * each / layout.tp
        found[m.part] = found.get(m.part, 0.0) + size
    return found


def cache_bytes(setup: Setup) -> tuple[float, float]:
    """(bytes that a token leaves on a device, bytes of a sequence's state of fixed size), MTP layers included.

    Tensor-parallel ranks each keep the whole latent; keys and values of heads are divided among them.
    """
    layout, shape = setup.layout, setup.shape
    token = state = 0.0
    extra = [(shape.mtp, shape.mtp_depth)] if setup.mtp and shape.mtp else []
    for block, count in [*stage(setup), *extra]:
        one = block.attention
        width = (LATENT_FP8 if setup.cache == "fp8" else 2.0) if one.kind == "latent" else CACHE_BYTES[setup.cache]
        cut = 1 if one.kind == "latent" else min(layout.tp, one.kv_heads)
        share = count / cut
        if one.window is None:
            token += one.cache_values * width * share
        else:
            state += one.window * one.cache_values * width * share
        state += one.state_values * 2.0 * count / layout.tp
    return token, state
