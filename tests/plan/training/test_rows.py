"""Descriptions of measured runs, read as their pages mean them."""

import pytest

from fathom.errors import ConfigError
from fathom.plan.training.job import Job
from fathom.plan.training.rows import device_of, job_of, limited, number

ROW = dict.fromkeys(
    ("system", "model", "hardware", "n_gpus", "parallelism", "precision", "input_len", "batch", "conditions"), ""
)


def job(**said: str) -> Job:
    return job_of(ROW | said)


def test_a_torchtitan_run_has_the_batch_of_its_page() -> None:
    found = job(
        system="torchtitan", model="Llama-3.1-405B", hardware="H100", n_gpus="512", precision="FP8", input_len="8192",
        parallelism="FSDP8 TP8 PP8 1F1B",
    )  # fmt: skip
    assert (found.layout.pp, found.layout.tp, found.layout.dp) == (8, 8, 8)
    assert (found.batch, found.micro_batches, found.recompute, found.precision) == (256, 8, "full", "fp8")


def test_a_megatron_bridge_run_recomputes_what_it_must() -> None:
    said = {"system": "Megatron-Bridge 26.08", "model": "DeepSeekV3", "n_gpus": "256", "precision": "MXFP8"}
    large = job(**said, hardware="GB300", parallelism="TP1 PP2 CP1 VP8 EP32", input_len="4096", batch="GBS 4096 MBS 1")
    small = job(**said, hardware="GB200", parallelism="TP1 PP4 CP1 VP4 EP64", input_len="4096", batch="GBS 4096 MBS 1")
    assert (large.schedule, large.chunks, large.recompute) == ("interleaved", 8, "none")
    assert small.recompute == "norms"


def test_deepseeks_own_runs_have_their_published_layout() -> None:
    found = job(system="HAI-LLM", model="DeepSeek-V3 671B-A37B", hardware="H800", n_gpus="2048", precision="FP8 mixed")
    assert (found.schedule, found.micro_batches, found.layout.ep) == ("dualpipe", 120, 64)


def test_a_run_without_a_layout_gets_one() -> None:
    found = job(system="various", model="BLOOM-176B", hardware="A100", n_gpus="384.0", precision="BF16/FP16")
    assert found.gpus == 384


def test_ranks_of_a_context_share_a_sequence() -> None:
    found = job(
        system="torchtitan", model="Llama-3.1-8B", hardware="H100", n_gpus="8", precision="FP8", input_len="131072",
        parallelism="FSDP2 CP4",
    )  # fmt: skip
    assert (found.gpus, found.cp, found.replicas, found.batch, found.rank_tokens) == (8, 4, 2, 2, 32768)


def test_a_device_is_what_the_text_says_of_it() -> None:
    device = device_of("H100 96GB HBM2e 2.4TB/s, 500W cap")
    assert (device.memory_gb, device.memory_tbs, device.tdp_w) == (96, 2.4, 500)
    assert device.matmul_bf16_tflops == pytest.approx(794.5 * (360 / 560) ** 0.5)
    assert limited(device, 400).matmul_bf16_tflops < device.matmul_bf16_tflops
    assert device_of("NVIDIA A100 SXM4 40 GB").memory_gb == 40
    with pytest.raises(ConfigError, match="not known"):
        device_of("Cerebras CS-3")


def test_numbers_are_found_in_texts() -> None:
    assert number(r"FLOP (\d[\d.e+]*)", "params 3e9, FLOP 1.26e+24, tokens") == 1.26e24
    assert number(r"GBS (\d+)", "MBS 1") is None
