"""What a device writes and reads while it serves the trained model: the price of data made and filtered by it."""

from __future__ import annotations

from functools import lru_cache

from fathom.layout import Layout
from fathom.plan.hardware import Device
from fathom.plan.latency import Setup, decode_step, prefill_step
from fathom.plan.precision import precision
from fathom.plan.shape import Shape

SEQUENCES, CONTEXT, CHUNK = 64, 4096, 8192  # of a device: sequences it writes, their mean tokens, prompt tokens at once
ROOM = 0.6  # of the memory is for weights


@lru_cache(maxsize=32)
def rates(shape: Shape, device: Device) -> tuple[float, float]:
    """(tokens written, prompt tokens read) per second and device, on the smallest replica that holds the weights."""
    setup = Setup(shape, device, replica(shape, device))
    devices = setup.layout.world_size
    writes = SEQUENCES * devices / decode_step(setup, SEQUENCES * devices, CONTEXT).seconds
    reads = CHUNK * devices / prefill_step(setup, CHUNK * devices, prompt=CONTEXT).seconds
    return writes / devices, reads / devices


def replica(shape: Shape, device: Device) -> Layout:
    """Experts over as many ranks as hold them, at least a node; heads over as many as hold a dense model."""
    size = shape.parameters * precision(shape.precision).weight_bytes
    ranks = 1
    while size > ROOM * ranks * device.memory_bytes and ranks < 64:
        ranks *= 2
    if shape.moe is None:
        return Layout(tp=min(ranks, device.link_world), pp=max(1, ranks // device.link_world))
    ranks = max(ranks, min(8, device.link_world))
    while shape.moe.experts % ranks:
        ranks //= 2
    return Layout(dp=ranks, ep=ranks)
