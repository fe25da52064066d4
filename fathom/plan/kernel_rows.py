"""Measured kernels, a row each, and what the laws say of them.

A row has the columns of data/kernels.csv. What its text does not say is not guessed: `predict_kernel` refuses, with
the reason.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from fathom.errors import ConfigError
from fathom.plan import exchange, kernels
from fathom.plan.families import find
from fathom.plan.hardware import Catalogue, Device
from fathom.plan.kernels import Reach
from fathom.plan.quantity import Quantity
from fathom.plan.shape import Shape

FILE = Path(__file__).parent / "data" / "kernels.csv"
Row = Mapping[str, str]

GENERATIONS = {"SM90": "h100_sxm", "SM100": "b200_sxm"}  # as DeepEP names them
SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
RATES = {"GB/s": 1e9, "TFLOPS": 1e12}


@dataclass(frozen=True)
class Timed:
    """What a law says of a row. work: bytes or FLOPs that its rate is counted in, where it gives a rate."""

    law: str
    seconds: float
    work: float = 0.0


@lru_cache(maxsize=1)
def shipped_rows() -> tuple[Row, ...]:
    """The measured kernels that come with the package."""
    with FILE.open(encoding="utf-8", newline="") as file:
        return tuple(csv.DictReader(file))


def predict_kernel(row: Row, reach: Reach | None = None) -> Quantity:
    """What a row measured, in its unit, with an 80 % interval.

    Args:   reach: the constants of the laws; those that are shipped unless given.
    Raises: ConfigError: the row says too little, or no law speaks of it.
    """
    reach, unit = reach or kernels.shipped(), row["unit"]
    if unit not in SECONDS and unit not in RATES:
        raise ConfigError(f"a kernel in {unit or 'no unit'} is not predicted; use {', '.join((*SECONDS, *RATES))}.")
    device = device_of(row["hardware"])
    timed = time_of(row, device, reach)
    if (unit in RATES) != bool(timed.work):
        raise ConfigError(f"{row['metric']} of {row['system']} is not predicted in {unit}.")
    value = timed.work / timed.seconds / RATES[unit] if timed.work else timed.seconds / SECONDS[unit]
    wide = math.exp(kernels.spread(timed.law, device, reach))
    return Quantity(value, unit, f"{row['metric']} by the law {timed.law}", value / wide, value * wide,
                    source="fitted", note="data/kernels.toml")  # fmt: skip


@lru_cache(maxsize=64)
def device_of(text: str) -> Device:
    """The device that a row names, with or without its network. Raises: ConfigError: none does."""
    catalogue = Catalogue.read()
    generation = re.match(r"SM\d+", text)
    return catalogue.find(GENERATIONS.get(generation[0], text) if generation else text)


def time_of(row: Row, device: Device, reach: Reach) -> Timed:
    """What a law says of a row. Raises: ConfigError: none does."""
    system = row["system"]
    readers: tuple[tuple[str, Callable[[Row, Device, Reach], Timed]], ...] = (
        ("DeepEP", _exchange), ("grouped GEMM", _grouped), ("DeepGEMM dense", _product), ("MLA decode", _decode),
        ("MLA prefill", _prefill), ("FlashAttention", _prefill), ("FlashMLA", _peak), ("MAMF", _best_product),
    )  # fmt: skip
    for word, reader in readers:
        if word in system:
            return reader(row, device, reach)
    raise ConfigError(f"no law for kernels of {system}; known: {', '.join(word for word, _ in readers)}.")


@lru_cache(maxsize=1)
def _deepseek() -> Shape:
    return find("deepseek-v3")


def _number(text: str, what: str) -> int:
    found = re.search(r"\d+", text)
    if found is None:
        raise ConfigError(f"{what} is {text!r}; a number is needed.")
    return int(found[0])


def _exchange(row: Row, device: Device, reach: Reach) -> Timed:
    """DeepEP: rates count a row for each node that a token visits, or inside a node for each rank, its own too."""
    parallel = re.search(r"EP\s*(\d+)(?:x(\d+))?", row["parallelism"])
    if parallel is None:
        raise ConfigError(f"an exchange of {row['parallelism']!r} names no ranks; write EP64 or EP 8x2.")
    ranks, tokens = int(parallel[1]) * int(parallel[2] or 1), _number(row["batch"], "tokens of a rank")
    hidden, moe = _deepseek().hidden, _deepseek().moe
    assert moe is not None, "DeepSeek-V3 has experts"
    dispatch = "dispatch" in row["metric"] or "dispatch" in row["system"]
    low_latency = "low-latency" in row["system"]
    size = exchange.combine_row_bytes(hidden)
    if dispatch:
        size = exchange.dispatch_row_bytes(hidden, low_latency=low_latency)
    seconds = exchange.all_to_all(device, ranks, tokens, size, chosen=moe.chosen, nodes=moe.chosen_groups,
                                  low_latency=low_latency, overlapped="overlapped" in row.get("conditions", ""),
                                  reach=reach)  # fmt: skip
    if "bandwidth" not in row["metric"]:
        return Timed("all_to_all", seconds)
    nodes = ranks // min(ranks, device.link_world)
    rows = float(moe.chosen) if low_latency else exchange.ranks_met(ranks, moe.chosen)
    if nodes > 1 and not low_latency:
        rows = min(nodes, moe.chosen_groups)
    return Timed("all_to_all", seconds, tokens * rows * size)


def _grouped(row: Row, device: Device, reach: Reach) -> Timed:
    """`4 experts m8192 k7168 n4096`, each with so many rows; or `EP8 (32 local experts)` of V3 and tokens of a rank."""
    sizes = re.search(r"(\d+) experts m(\d+) k(\d+) n(\d+)", row["parallelism"])
    kind = row["precision"].lower()
    if sizes is not None:
        experts, m, k, n = map(int, sizes.groups())
        seconds = kernels.grouped_gemm(device, experts, experts * m, n, k, kind, even=True, reach=reach)
        return Timed("grouped_gemm", seconds, 2.0 * experts * m * n * k if row["metric"] == "achieved" else 0.0)
    local = re.search(r"(\d+) local experts", row["parallelism"])
    widths = re.search(r"experts (\d+)x(\d+)", row["model"])
    if local is None or widths is None:
        raise ConfigError(
            f"a grouped product of {row['parallelism']!r} names no experts; write EP8 (32 local experts)."
        )
    hidden, width = map(int, widths.groups())
    moe = _deepseek().moe
    assert moe is not None, "DeepSeek-V3 has experts"
    rows = _number(row["batch"], "tokens of a rank") * moe.chosen
    n, k = (2 * width, hidden) if "up" in row["metric"] else (hidden, width)
    even = "contiguous" in row["system"]
    return Timed("grouped_gemm", kernels.grouped_gemm(device, int(local[1]), rows, n, k, kind, even=even, reach=reach))


def _product(row: Row, device: Device, reach: Reach) -> Timed:
    sizes = re.match(r"m(\d+) k(\d+) n(\d+)", row["parallelism"])
    if sizes is None:
        raise ConfigError(f"a product of {row['parallelism']!r} names no sizes; write m16 k1536 n24576.")
    m, k, n = map(int, sizes.groups())
    seconds = kernels.gemm(device, m, n, k, row["precision"].lower(), reach)
    return Timed("gemm", seconds, 2.0 * m * n * k if row["metric"] == "achieved" else 0.0)


def _decode(row: Row, device: Device, reach: Reach) -> Timed:
    sequences, context = _number(row["batch"], "sequences"), _number(row["input_len"], "context")
    return Timed("mla_decode", kernels.mla_decode(device, sequences, context, reach=reach))


def _prefill(row: Row, device: Device, reach: Reach) -> Timed:
    attention = _deepseek().blocks[0].attention
    tokens, backward = _number(row["input_len"], "tokens"), "bwd" in row["system"]
    return Timed(
        "attention_prefill", kernels.attention_prefill(device, attention, tokens, backward=backward, reach=reach)
    )


def _peak(row: Row, device: Device, reach: Reach) -> Timed:
    """FlashMLA's best: heads of one rank where memory binds, a long prompt or two queries where compute does."""
    model, attention, context = row["model"], _deepseek().blocks[0].attention, 1 << 17
    if "sparse" in model and "decode" in model:
        raise ConfigError(
            "no law for decoding over chosen tokens, which FlashMLA unpacks from FP8; there is one for whole contexts."
        )
    if "decode" in model:
        heads, queries = (16, 1) if row["unit"] == "GB/s" else (128, 2)
        seconds = kernels.mla_decode(device, 128, context, heads=heads, queries=queries, reach=reach)
        pairs = 128.0 * context
        work = pairs * 576 * 2 if row["unit"] == "GB/s" else 2.0 * queries * pairs * heads * (576 + 512)
        return Timed("mla_decode", seconds, work)
    backward = "bwd" in model
    seconds = kernels.attention_prefill(device, attention, context, backward=backward, reach=reach)
    work = context * attention.flops((context + 1) / 2)
    if backward:
        work *= (3 * attention.qk_dim + 2 * attention.v_dim) / (attention.qk_dim + attention.v_dim)
    return Timed("attention_prefill", seconds, work)


def _best_product(row: Row, device: Device, reach: Reach) -> Timed:
    """The best product of a device, as if it had not been measured: from its peak and what others reach."""
    kind = row["precision"].lower()
    if kind not in ("bf16", "fp8"):
        raise ConfigError(f"the best product in {row['precision']} is not predicted; use BF16 or FP8.")
    unmeasured = replace(device, matmul_bf16_tflops=None, matmul_fp8_tflops=None)
    work = 2.0 * 16384**3
    return Timed("matmul", work / (device.peak(kind) * kernels.matmul_share(unmeasured)), work)  # type: ignore[arg-type]
