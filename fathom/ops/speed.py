"""How fast this machine reads weights and multiplies with them: measured with the very products that models run.

A figure of a data sheet, or of another access pattern, would be a limit that nothing can reach or that a model beats:
decoding reads some weights at every token and others (experts) now and then, so part of them stays in the caches.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from time import perf_counter

import torch
import torch.nn.functional as F

from fathom.config import FP8_BLOCK
from fathom.ops.dispatch import library
from fathom.ops.packing import BLOCK_ROWS, Kind, PackedMatrix, pack, pack_f8

COLUMNS = 2048
PEAK_ROWS, PEAK_SIZE = 64, (1024, 1024)  # activations, and a matrix that the caches hold in every kind
LARGE_BYTES = 256 << 20  # larger than the caches; what is larger still is read at the same rate
HUGE_PAGE_BYTES = 2 << 20
TRIES = 20  # of which the fastest counts for a peak: others were disturbed
TORCH = {"f32": torch.float32, "bf16": torch.bfloat16}  # kinds that plain torch computes with

Run = Callable[[], None]


@dataclass(frozen=True)
class Reads:
    """What one step reads: `always_bytes`, and `chosen` parts, drawn anew each time, of `parts` of `part_bytes`."""

    always_bytes: float
    part_bytes: float = 0.0
    parts: int = 0
    chosen: int = 0

    @property
    def total_bytes(self) -> float:
        """What all steps together read."""
        return self.always_bytes + self.part_bytes * self.parts

    @property
    def step_bytes(self) -> float:
        """What one step reads."""
        return self.always_bytes + self.part_bytes * self.chosen


def native_name() -> str:
    """The kernels that answer and their version, "" for plain torch: what a measurement is good for."""
    found = library()
    return "" if found is None else f"{found.name} {found.path.stem}"


def step_s(kind: Kind, reads: Reads, threads: int, *, seconds: float = 0.25, seed: int = 0) -> float:
    """Time to read what one step reads, by products of one row, over and over [s].

    What is larger than LARGE_BYTES in all is measured on a like pattern of that size.
    """
    scale = max(1.0, reads.total_bytes / LARGE_BYTES)
    with _products(threads) as prepare:
        always = _blocks(kind, reads.always_bytes / scale)
        part = _blocks(kind, reads.part_bytes / scale) if reads.parts else 0
        whole = _filled(kind, always + part * reads.parts)
        x = torch.randn(1, whole.columns, generator=torch.Generator().manual_seed(seed))
        first = prepare(whole.blocks(0, always), x)
        others = [
            prepare(whole.blocks(begin, begin + part), x)
            for begin in range(always, always + part * reads.parts, max(1, part))
        ]
        rng = Random(seed)
        taken: list[float] = []
        end = perf_counter() + seconds
        while len(taken) < 3 or perf_counter() < end:
            chosen = rng.sample(others, min(reads.chosen, len(others)))
            started = perf_counter()
            first()
            for run in chosen:
                run()
            taken.append(perf_counter() - started)
        read = always + part * min(reads.chosen, len(others))
        settled = sorted(taken[len(taken) // 4 :])  # without the beginning
        return settled[len(settled) // 4] * reads.step_bytes / (read * whole.nbytes / len(whole.data))


def multiply_adds_per_s(kind: Kind, threads: int, *, rows: int = PEAK_ROWS) -> float:
    """Multiply-adds per second of products of many (or `rows`) rows with a matrix that stays in the caches [1/s]."""
    draw = torch.Generator().manual_seed(0)
    matrix = _packed(torch.randn(*PEAK_SIZE, generator=draw), kind)
    with _products(threads) as prepare:
        run = prepare(matrix, torch.randn(rows, matrix.columns, generator=draw))
        run()
        return rows * PEAK_SIZE[0] * PEAK_SIZE[1] / min(_times(run, TRIES))


def _times(run: Run, count: int) -> Iterator[float]:
    for _ in range(count):
        started = perf_counter()
        run()
        yield perf_counter() - started


@contextmanager
def _products(threads: int) -> Iterator[Callable[[PackedMatrix, torch.Tensor], Run]]:
    """(matrix, activations) -> a product to time, on the native kernels or, without them, by torch."""
    found = library()
    if found is None:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        yield _torch_product
        torch.set_num_threads(before)
        return
    team = found.open_team(threads)
    try:
        yield lambda matrix, x: found.prepare(matrix, x, team)
    finally:
        found.close_team(team)


def _torch_product(matrix: PackedMatrix, x: torch.Tensor) -> Run:
    """The same bytes as a plain matrix; torch computes in f32 and bf16 only."""
    weight = matrix.data.flatten().view(-1, matrix.columns)
    x = x.to(weight.dtype)
    return lambda: (F.linear(x, weight), None)[1]


def _filled(kind: Kind, blocks: int) -> PackedMatrix:
    """A matrix of so many blocks in huge pages, as weights are; its values repeat, which no memory notices."""
    draw = torch.Generator().manual_seed(1)
    small = _packed(torch.randn(64 * BLOCK_ROWS, COLUMNS, generator=draw), kind)
    parts: list[torch.Tensor | None] = []
    for tensor in (small.data, small.scale):
        if tensor is None:
            parts.append(None)
            continue
        each = tensor[0].nbytes
        space = _space(blocks * each).view(tensor.dtype).view(blocks, *tensor.shape[1:])
        for begin in range(0, blocks, 64):
            space[begin : begin + 64] = tensor[: min(64, blocks - begin)]
        parts.append(space)
    data, scale = parts
    assert data is not None, "every kind has data"
    return PackedMatrix(kind, blocks * BLOCK_ROWS, COLUMNS, small.group, data, scale)


def _space(size_bytes: int) -> torch.Tensor:
    """Memory in huge pages where the system has them: with small ones every page is looked up and stops a prefetch."""
    held = mmap.mmap(-1, size_bytes + HUGE_PAGE_BYTES)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        held.madvise(mmap.MADV_HUGEPAGE)
    whole = torch.frombuffer(held, dtype=torch.uint8)
    start = -whole.data_ptr() % HUGE_PAGE_BYTES
    return whole[start : start + size_bytes]


def _blocks(kind: Kind, size_bytes: float) -> int:
    return max(1, round(size_bytes / _packed(torch.zeros(BLOCK_ROWS, COLUMNS), kind).nbytes))


def _packed(weight: torch.Tensor, kind: Kind) -> PackedMatrix:
    if kind != "f8":
        return pack(weight, kind)
    scales = torch.ones(-(-weight.shape[0] // FP8_BLOCK), -(-weight.shape[1] // FP8_BLOCK))
    return pack_f8(weight.to(torch.float8_e4m3fn), scales)
