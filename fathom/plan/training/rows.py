"""Measured training runs predicted from their public descriptions: the rows of `fathom plan validate`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache

from fathom.layout import Layout
from fathom.plan.hardware import Catalogue, Device
from fathom.plan.training.job import Job, Software, software
from fathom.plan.training.search import best, deepseek, lightest
from fathom.plan.training.sized import shape_of

Row = Mapping[str, str]
SAID = ("system", "model", "hardware", "n_gpus", "parallelism", "precision", "input_len", "batch", "conditions")
UNSAID = 1024  # devices of a run that says no number


def number(pattern: str, text: str) -> float | None:
    """The number that a pattern's group matches first."""
    found = re.search(pattern, text)
    return float(found[1]) if found else None


def device_of(text: str) -> Device:
    """The device, with what the text says otherwise of it: its memory and its power limit."""
    device = Catalogue.read().find(text.split(" (")[0])
    bandwidth, cap = number(r"([\d.]+)TB/s", text), number(r"(\d+)W cap", text)
    size = number(r"(\d+) ?GB", text)
    if bandwidth:
        device = replace(device, memory_tbs=bandwidth)
    if size and 0.4 < size / device.memory_gb < 1.5:
        device = replace(device, memory_gb=size)
    return limited(device, cap) if cap and device.tdp_w and cap < device.tdp_w else device


def limited(device: Device, watts: float) -> Device:
    """A device that may draw less: clock falls with the root of the power above what idles (a fifth of its rating)."""
    idle = 0.2 * (device.tdp_w or watts)
    clock = ((watts - idle) / ((device.tdp_w or watts) - idle)) ** 0.5
    return replace(
        device, matmul_bf16_tflops=(device.matmul_bf16_tflops or 0.72 * device.bf16_tflops) * clock,
        matmul_fp8_tflops=device.matmul_fp8_tflops * clock if device.matmul_fp8_tflops else None, tdp_w=watts,
    )  # fmt: skip


def job_of(row: Row) -> Job:
    """The job of a row, see `_job`; kept, since a run has several metrics."""
    return _job(*(row.get(name, "") for name in SAID))


@lru_cache(maxsize=256)
def _job(*said: str) -> Job:
    """The job that a row describes; what it leaves out is what its framework does, or the fastest layout that fits.

    Raises: ConfigError: the model is not known, or no layout fits.
    """
    row = dict(zip(SAID, said, strict=True))
    text, system = row["parallelism"], row["system"].lower()
    device = device_of(row["hardware"])
    shape = shape_of(row["model"], number(r"params (\d[\d.e+]*)", row["conditions"]))
    gpus = round(float(re.sub(r"[^0-9.]", "", row["n_gpus"]) or 0)) or UNSAID
    seq = int(number(r"^(\d+)", row["input_len"]) or (4096 if shape.context == 0 else min(4096, shape.context)))
    precision = "fp8" if "FP8" in row["precision"].split("(")[0] and device.fp8_tflops else "bf16"
    if system == "hai-llm" and shape.moe:
        return deepseek(shape, device, gpus)
    if not re.search(r"\b(TP|PP|EP|DP|FSDP|FULL_SHARD)", text):
        return best(shape, device, gpus, software("megatron"), seq=seq, precision=precision)
    degree = {axis: int(number(rf"\b{axis.upper()}(\d+)", text) or 1) for axis in ("tp", "pp", "cp", "ep")}
    chunks = 2 if "interleaved" in text else int(number(r"\bVP(\d+)", text) or 1)
    dp = max(1, gpus // (degree["tp"] * degree["pp"]))
    micro, steps, how, recompute = framework(row, device, degree)
    sharded = ("FSDP" in text or "FULL_SHARD" in text) and degree["pp"] == 1  # a pipeline keeps its weights gathered
    job = Job(
        shape, device, Layout(pp=degree["pp"], dp=dp, tp=degree["tp"], ep=degree["ep"]), degree["cp"],
        "interleaved" if chunks > 1 else "1f1b", chunks, precision, seq,
        batch=int(number(r"GBS (\d+)", row["batch"]) or dp // degree["cp"] * micro * steps), micro=micro,
        zero=3 if sharded else 1, recompute=recompute, software=how,
    )  # fmt: skip
    return lightest(job) or job if "bridge" in system else job


def framework(row: Row, device: Device, degree: Mapping[str, int]) -> tuple[int, int, Software, str]:
    """(sequences of a micro-batch, micro-batches of a step, software, recompute) of a row, where it leaves them out.

    Source: the benchmark pages that the rows name; torchtitan: benchmarks/llama3_h100_202412_torchtitan.md.
    """
    text, system, seq = row["parallelism"], row["system"].lower(), row["input_len"]
    micro = int(number(r"(?:MBS|LBS) (\d+)", row["batch"]) or 1)
    steps = int(number(r"GA (\d+)", row["batch"]) or 1)
    if "titan" in system:
        plainly = degree["tp"] == degree["pp"] == degree["cp"] == 1 and seq == "8192"
        how = software("compiled" if "compile" in text or not plainly else "eager")
        if "asyncTP" in text or degree["pp"] > 1:
            how = replace(how, hide_tp=0.5)
        micro = {True: 2, False: micro}[plainly] if degree["tp"] == 1 else 16
        if degree["pp"] > 1:  # 32 sequences of 8192 tokens, 8 longer ones, in pp micro-batches
            steps = degree["pp"]
            micro = (32 if seq == "8192" else 8) // steps
        return micro, steps, how, "selective" if plainly else "full"
    if "foundry" in system:
        return micro, steps, software("plain"), "full" if "AC" in text.split() else "none"
    if "verl" in system:
        return micro, 8, software("megatron"), "full"
    if "nanochat" in system:
        return 32, 1, software("compiled"), "none"
    if "bridge" in system:
        release = number(r"(\d+\.\d+)", row["system"]) or 0.0
        superchip = device.name.startswith("gb")
        name = "fused" if superchip or release >= 26.06 else "megatron"
        if superchip and "MXFP8" in row["precision"]:
            name = "graphs"
        return micro, steps, replace(software(name), grad_bytes=2.0), "none"  # its recipes reduce gradients in BF16
    return micro, steps, software("megatron"), "none"
