"""A measured point about memory -> what the planner says of it: bytes of a checkpoint, room for cache, batches.

Columns are those of rows.py. What training holds is predicted in training/.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from fathom.errors import ConfigError
from fathom.plan import rows
from fathom.plan.hardware import Catalogue
from fathom.plan.latency import Setup
from fathom.plan.memory import USED_SHARE, Memory, memory, weights
from fathom.plan.quantity import Quantity
from fathom.plan.rows import Refusal

SHARES = (0.82, 0.95)  # of the memory: what engines are set to by 80 % of those who run large models
EXACT = 0.02  # a checkpoint, relative: files have headers, and quantisers leave this or that matrix as it was
UNITS = {"bytes": 1.0, "gb": 1e9, "gib": 2**30}


def predict_memory(row: Mapping[str, str], catalogue: Catalogue) -> Quantity | Refusal:
    """What a row of kind `memory` measured, predicted; or why not."""
    try:
        return _predict(row, catalogue)
    except ConfigError as error:
        return Refusal(str(error))


def _predict(row: Mapping[str, str], catalogue: Catalogue) -> Quantity | Refusal:
    metric, shape = row["metric"], rows.model(row["model"])
    stored = rows.weights(row["precision"], shape)
    if metric == "weight_bytes":
        return _exact(row, file_bytes(Setup(shape, catalogue.find("h100"), precision=stored, mtp=1)))
    if metric == "dram":
        setup = Setup(shape, catalogue.find("epyc_9654"), precision=stored)
        return _exact(row, sum(size for (part, _), size in weights(setup).items() if part == "experts"))
    if metric not in ("free_memory_per_gpu_after_weights", "max_batch_per_gpu", "batch_per_gpu_fits"):
        return Refusal(f"metric {metric}")
    count = int(float(row["n_gpus"] or 1))
    setup = Setup(
        shape, catalogue.find(row["hardware"]), rows.layout(row["parallelism"], count, shape), stored,
        cache="fp8" if "fp8 attn" in row["precision"].lower() else "bf16", redundant=rows.redundant(row, shape),
    )  # fmt: skip
    held = memory(setup)
    if metric == "free_memory_per_gpu_after_weights":
        low, value, high = (one.free / UNITS[row["unit"].lower()] for one in _ends(held))
    else:
        context = _tokens(row["input_len"]) + _tokens(row["output_len"]) / 2
        low, value, high = (one.sequences(context) / setup.devices for one in _ends(held))
    return Quantity(value, row["unit"], metric, low, high, "memory", note="reserve of memory.py")


def file_bytes(setup: Setup) -> float:
    """Bytes of a checkpoint: its MTP modules keep embedding and head once more."""
    again = 2 * setup.shape.embedding * 2.0 * setup.shape.mtp_depth
    return sum(weights(setup).values()) + again


def _ends(held: Memory) -> list[Memory]:
    whole = held.capacity / USED_SHARE
    return [replace(held, capacity=whole * share) for share in (SHARES[0], USED_SHARE, SHARES[1])]


def _exact(row: Mapping[str, str], size: float) -> Quantity:
    value = size / UNITS[row["unit"].lower()]
    return Quantity(value, row["unit"], row["metric"], value * (1 - EXACT), value * (1 + EXACT), "memory")


def _tokens(text: str) -> float:
    found = re.search(r"[\d,]+", text)
    return float(found[0].replace(",", "")) if found else 0.0
