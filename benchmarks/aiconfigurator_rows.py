"""Asks aiconfigurator for measured runs, in a Python that has it: JSON lines in, JSON lines out (see planners.py).

in:  {"id", "model", "precision", "system", "backend", "isl", "osl", "concurrency", "tp", "dp", "ep"}
out: {"id", "tpot_ms", "ttft_ms"}, or {"id", "error"}
"""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

logging.disable(logging.CRITICAL)

MODELS = {
    ("deepseek-r1", "fp8"): "deepseek-ai/DeepSeek-V3",
    ("deepseek-r1", "fp4"): "nvidia/DeepSeek-V3.1-NVFP4",  # the same architecture
    ("kimi-k2.5", "fp4"): "nvidia/Kimi-K2.5-NVFP4",
    ("minimax-m2.5", "fp8"): "MiniMaxAI/MiniMax-M2.5",
    ("minimax-m2.5", "fp4"): "nvidia/MiniMax-M2.5-NVFP4",
    ("qwen3.5-397b-a17b", "bf16"): "Qwen/Qwen3.5-397B-A17B",
    ("qwen3.5-397b-a17b", "fp4"): "nvidia/Qwen3.5-397B-A17B-NVFP4",
    ("qwen3.5-397b-a17b", "fp8"): "Qwen/Qwen3.5-397B-A17B",
}
MODES = {("qwen3.5-397b-a17b", "fp8"): {"gemm_quant_mode": "fp8_block", "moe_quant_mode": "fp8_block"}}


def ask(case: dict[str, Any]) -> dict[str, Any]:
    """One estimate with its default database. Lengths are whole numbers; the batch is that of one attention rank."""
    from aiconfigurator.cli.api import cli_estimate

    key = case["model"], case["precision"]
    width = case["tp"] * case["dp"]
    found = cli_estimate(
        MODELS[key], case["system"], backend_name=case["backend"], isl=case["isl"], osl=case["osl"],
        batch_size=max(1, round(case["concurrency"] / case["dp"])), tp_size=case["tp"], attention_dp_size=case["dp"],
        moe_tp_size=width // case["ep"], moe_ep_size=case["ep"], **MODES.get(key, {}),
    )  # fmt: skip
    return {"id": case["id"], "tpot_ms": found.tpot, "ttft_ms": found.ttft}


if __name__ == "__main__":
    for line in sys.stdin:
        one = json.loads(line)
        try:
            answer = ask(one)
        except Exception as error:  # whatever a foreign library says of one case, the next is asked
            answer = {"id": one["id"], "error": f"{type(error).__name__}: {str(error)[:200]}"}
        print(json.dumps(answer), flush=True)
