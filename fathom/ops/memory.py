"""Memory in huge pages, for what is read from end to end at every step: weights.

With pages of 4 KB a processor looks up addresses as often as it reads, and its prefetchers stop at every page: two
cores read 18 MB of weights at 45 GB/s from small pages and at 90 GB/s from huge ones (docs/log.md).
"""

from __future__ import annotations

import mmap

import torch
from torch import Tensor

ALIGN = 64  # bytes: a line of the cache
HUGE_PAGE_BYTES = 2 << 20


def arena(size_bytes: int) -> Tensor:
    """Zeroed memory of `size_bytes`, uint8 [size_bytes], in huge pages where the system has them."""
    held = mmap.mmap(-1, max(size_bytes, 1) + HUGE_PAGE_BYTES)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        held.madvise(mmap.MADV_HUGEPAGE)
    whole = torch.frombuffer(held, dtype=torch.uint8)
    start = -whole.data_ptr() % HUGE_PAGE_BYTES
    return whole[start : start + size_bytes]


def settle(tensors: list[Tensor]) -> list[Tensor]:
    """Copies of the tensors, one after another in one arena, each at a line of its own."""
    offsets, total = [], 0
    for tensor in tensors:
        offsets.append(total)
        total += -(-tensor.nbytes // ALIGN) * ALIGN
    space = arena(total)
    settled = []
    for tensor, offset in zip(tensors, offsets, strict=True):
        place = space[offset : offset + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        settled.append(place.copy_(tensor))
    return settled
