"""Replicas in service: what more requests do, what a limit costs, published throughputs without a knob of their own."""

from __future__ import annotations

import math

import pytest

from fathom.errors import ConfigError
from fathom.layout import Layout
from fathom.plan import families, rates
from fathom.plan.hardware import Catalogue
from fathom.plan.latency import Setup
from fathom.plan.rates import Service, measured

CATALOGUE = Catalogue.read()
R1 = families.find("deepseek-r1")
H200 = Setup(R1, CATALOGUE.find("h200"), Layout(tp=8), engine="sglang")


def test_more_requests_are_slower_each_and_more_together() -> None:
    found = [measured(Service(H200, count, 1024, 1024)) for count in (1, 4, 16, 64)]
    for fewer, more in zip(found, found[1:], strict=False):
        assert more.tpot_s > fewer.tpot_s and more.ttft_s > fewer.ttft_s and more.output > fewer.output


def test_longer_prompts_cost_every_token() -> None:
    short, long = (measured(Service(H200, 16, prompt, 1024)) for prompt in (1024, 8192))
    assert long.tpot_s > short.tpot_s and long.ttft_s > short.ttft_s


def test_a_limit_on_the_time_per_token_costs_throughput() -> None:
    free = rates.saturated(H200, 1024, 1024)
    held = rates.saturated(H200, 1024, 1024, tpot_s=0.02)
    assert free is not None and held is not None
    assert held.tpot_s <= 0.02 < free.tpot_s and held.output < free.output
    assert rates.saturated(H200, 1024, 1024, tpot_s=1e-4) is None


def test_a_server_keeps_its_limits_and_gives_less_than_a_full_replica() -> None:
    full = rates.saturated(H200, 1024, 1024, tpot_s=0.05)
    loose, tight = (rates.served(H200, 1024, 1024, first_s=f, token_s=0.05) for f in (5.0, 0.45))
    assert full is not None and loose is not None and tight is not None
    assert tight.output < loose.output < full.output and loose.tpot_s < 0.05
    assert rates.served(H200, 1024, 1024, first_s=5.0, token_s=1e-4) is None


def test_llama_405b_as_a_server() -> None:
    """MLPerf Inference v5.1 on 8 B200, four devices a replica: 155.5 tok/s each; its prompts of 9,400 tokens wait up
    to 5 of the 6 s that are allowed, while a full batch would give 206 (Offline)."""
    setup = Setup(families.find("llama-3.1-405b"), CATALOGUE.find("b200"), Layout(tp=4), "nvfp4", "fp8", "trtllm")
    found = rates.served(setup, 9400, 655, first_s=6.0, token_s=0.175, variation=0.4)
    assert found is not None and found.output == pytest.approx(155.5, rel=0.20)


@pytest.mark.parametrize(
    ("device", "precision", "prompt", "output", "measured"),
    [("b200", "nvfp4", 1000, 1000, 6463), ("gb200", "nvfp4", 1000, 1000, 6939)],
)
def test_tensorrt_llm_on_deepseek(device: str, precision: str, prompt: int, output: int, measured: float) -> None:
    """TensorRT-LLM's table of performance: four devices, attention data-parallel, as many requests as go."""
    setup = Setup(R1, CATALOGUE.find(device), Layout(dp=4, ep=4), precision, cache="fp8")
    found = rates.saturated(setup, prompt, output)
    assert found is not None and found.output == pytest.approx(measured, rel=0.15)


def test_readers_that_are_too_few_hold_the_others_back() -> None:
    reads = Setup(R1, CATALOGUE.find("gb200"), Layout(dp=4, ep=4), "nvfp4")
    decodes = Setup(R1, CATALOGUE.find("gb200"), Layout(dp=32, ep=32), "nvfp4")
    few, many = (measured(Service(decodes, 4096, 8192, 1024, reads, (count, 1))) for count in (1, 12))
    assert few.output * (4 + 32) < many.output * (48 + 32)
    assert few.tpot_s < many.tpot_s  # fewer requests decode at a time


def test_reading_alone_at_the_published_rate() -> None:
    """SGLang on GB200, two ranks, FP8 attention and NVFP4 experts, 2,000-token prompts: 26,156 tok/s/GPU."""
    setup = Setup(R1, CATALOGUE.find("gb200"), Layout(dp=2, ep=2), "nvfp4")
    assert rates.reading(setup, 16_384, 2000) == pytest.approx(26_156, rel=0.15)
    assert math.isfinite(rates.reading(setup, 1, 1))


def test_nothing_asked_is_refused() -> None:
    with pytest.raises(ConfigError, match="above 0"):
        Service(H200, 0, 1024, 1024)
