"""What was measured of memory, against what the planner says: never more room than there was, but for the interval."""

from __future__ import annotations

import pytest

from fathom.plan.hardware import Catalogue
from fathom.plan.memory_rows import predict_memory
from fathom.plan.quantity import Quantity
from fathom.plan.rows import Refusal

CATALOGUE = Catalogue.read()
BLANK = dict.fromkeys(("input_len", "output_len", "batch", "conditions", "parallelism"), "") | {"kind": "memory"}
#: (model, hardware, devices, parallelism, precision, prompt, output, metric, value, unit): public figures.
POINTS = {
    "checkpoint of DeepSeek-V3, index of its files": (
        "DeepSeek-V3/R1", "any", "1", "", "FP8", "", "", "weight_bytes", 688.6e9, "bytes"),
    "ktransformers tutorial": (
        "DeepSeek-V3 q4_k_m", "Xeon + 4090", "1", "1 socket", "Q4_K_M", "", "", "dram", 382, "GB"),
    "SGLang on GB200, part 2": (
        "DeepSeek-V3", "GB200 192GB", "48", "EP48", "FP8 attn + NVFP4 MoE", "2000", "", "max_batch_per_gpu", 1408,
        "requests"),
    "the same, longer prompts": (
        "DeepSeek-V3", "GB200 192GB", "48", "EP48", "FP8 attn + NVFP4 MoE", "4000", "", "max_batch_per_gpu", 768,
        "requests"),
    "SGLang on H100": (
        "DeepSeek-V3", "H100 80GB", "72", "EP72", "FP8/BF16", "2000", "100", "batch_per_gpu_fits", 256, "requests"),
}  # fmt: skip


def _row(name: str, **changes: str) -> dict[str, str]:
    names = ("model", "hardware", "n_gpus", "parallelism", "precision", "input_len", "output_len", "metric", "value")
    return BLANK | dict(zip((*names, "unit"), map(str, POINTS[name]), strict=True)) | changes


@pytest.mark.parametrize("name", POINTS)
def test_public_figures_are_met_within_a_tenth(name: str) -> None:
    found = predict_memory(_row(name), CATALOGUE)
    assert isinstance(found, Quantity)
    assert found.value == pytest.approx(float(POINTS[name][8]), rel=0.1)
    assert found.low is not None and found.low <= found.value
    assert found.unit == POINTS[name][9]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"metric": "peak_train_memory"}, "peak_train_memory"),
        ({"model": "nobody-7b"}, "nobody-7b"),
        ({"hardware": "abacus"}, "abacus"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(change: dict[str, str], reason: str) -> None:
    found = predict_memory(_row("SGLang on H100", **change), CATALOGUE)
    assert isinstance(found, Refusal) and reason in found.reason
