"""Steps of a replica: what must grow grows, what is published is met, and what makes no sense is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fathom.errors import ConfigError
from fathom.layout import Layout
from fathom.plan import families
from fathom.plan.hardware import Catalogue
from fathom.plan.latency import Setup, decode_step, prefill_step

CATALOGUE = Catalogue.read()
NAMES = ("deepseek-v3", "llama-3.1-70b", "gpt-oss-120b", "qwen3.5-397b-a17b", "mixtral-8x7b")
R1 = families.find("deepseek-r1")

setups = st.builds(
    Setup, shape=st.sampled_from([families.find(name) for name in NAMES]),
    device=st.sampled_from([CATALOGUE.find(name) for name in ("h100", "h200", "b200", "gb300", "mi300x", "h20")]),
    layout=st.sampled_from([Layout(), Layout(tp=4), Layout(tp=8)]), mtp=st.just(0),
)  # fmt: skip


@settings(max_examples=60)
@given(setups, st.floats(1, 512), st.floats(64, 60_000))
def test_a_decode_step_grows_with_sequences_and_context_and_never_with_bandwidth(
    setup: Setup, sequences: float, context: float
) -> None:
    step = decode_step(setup, sequences, context).seconds
    assert 0 < step < 100
    assert decode_step(setup, sequences * 1.5, context).seconds >= step
    assert decode_step(setup, sequences, context * 1.5).seconds >= step
    faster = replace(setup, device=replace(setup.device, memory_tbs=setup.device.memory_tbs * 1.3))
    assert decode_step(faster, sequences, context).seconds <= step
    peaks = ("bf16_tflops", "fp8_tflops", "fp4_tflops", "matmul_bf16_tflops", "matmul_fp8_tflops")
    more = {name: value * 1.3 for name in peaks if (value := getattr(setup.device, name))}
    stronger = replace(setup, device=replace(setup.device, **more))
    assert decode_step(stronger, sequences, context).seconds <= step * (1 + 1e-9)


@settings(max_examples=30)
@given(setups, st.floats(64, 20_000), st.floats(0, 20_000))
def test_reading_prompts_grows_with_tokens_and_with_what_is_cached(setup: Setup, tokens: float, cached: float) -> None:
    step = prefill_step(setup, tokens, cached, prompt=tokens).seconds
    assert 0 < step < 1000
    assert prefill_step(setup, tokens * 2, cached, prompt=tokens).seconds > step
    assert prefill_step(setup, tokens, cached + 1000, prompt=tokens).seconds >= step


def test_the_parts_are_the_whole_and_say_what_binds() -> None:
    setup = Setup(R1, CATALOGUE.find("h800"), Layout(dp=72, ep=72), overlap=True, redundant=32)
    step = decode_step(setup, 72 * 128, 4096)
    assert sum(part.seconds - part.hidden for part in step.parts) == pytest.approx(step.seconds)
    assert all(part.bound for part in step.parts) and step.bound and step.sd > 0


def test_published_large_replicas() -> None:
    """CloudMatrix384 (arXiv:2506.12708) and Qwen3 on H20 (InferSim): 15 %, without a knob of their own."""
    ascend = Setup(R1, CATALOGUE.find("910c"), Layout(dp=160, ep=160), "int8", mtp=1, acceptance=0.7, redundant=32)
    step = min(decode_step(replace(ascend, overlap=o), 160 * 96, 4096).seconds for o in (True, False))
    assert 96 * 1.7 / step == pytest.approx(1943, rel=0.15)
    qwen = Setup(families.find("qwen3-8b"), CATALOGUE.find("h20"), precision="fp8", engine="sglang")
    assert 64 / decode_step(qwen, 64, 4096).seconds == pytest.approx(2682, rel=0.15)


def test_drafts_give_more_tokens_a_step_and_a_longer_one() -> None:
    one = Setup(R1, CATALOGUE.find("h200"), Layout(tp=8), acceptance=0.85)
    two = replace(one, mtp=1)
    assert two.accepted == pytest.approx(1.85)
    plain, drafted = (decode_step(setup, 16, 2048).seconds for setup in (one, two))
    assert plain < drafted < 1.85 * plain  # it pays, as measured on H200 at 4 to 64 requests


def test_two_micro_batches_pay_for_large_batches_only() -> None:
    """Public measurements: slower at 32 tokens a device, faster from 128 on."""
    setup = Setup(R1, CATALOGUE.find("h800"), Layout(dp=128, ep=128), redundant=32)
    times = {
        batch: [decode_step(replace(setup, overlap=o), 128 * batch, 4096).seconds for o in (False, True)]
        for batch in (8, 128, 256)
    }
    assert times[8][1] > times[8][0] and times[128][1] < times[128][0] and times[256][1] < times[256][0]


def test_deepseeks_profile_of_prompts() -> None:
    """deepseek-ai/profile-data: 4K prompts, 16K tokens on each of 32 ranks, two micro-batches: 7,839 tok/s."""
    setup = Setup(R1, CATALOGUE.find("h800"), Layout(dp=32, ep=32), redundant=32, overlap=True, balancedness=1.0)
    step = prefill_step(setup, 32 * 16_384, prompt=4096)
    assert 16_384 / step.seconds == pytest.approx(7839, rel=0.10)
    sent = [part for part in step.parts if part.name in ("dispatch", "combine")]
    apart = prefill_step(replace(setup, overlap=False), 32 * 16_384, prompt=4096).seconds
    assert apart / step.seconds > 1.27  # SGLang: 27 to 40 % more with two micro-batches, with fewer rows to send
    assert all(0 < part.hidden < part.seconds for part in sent)


def test_latents_in_fp8_are_multiplied_in_fp8_where_a_device_has_fp4() -> None:
    """Kernels of Blackwell multiply what they read; those of Hopper widen it first (FlashMLA)."""

    def attention(device: str, cache: str) -> float:
        setup = Setup(R1, CATALOGUE.find(device), Layout(dp=8, ep=8), cache=cache)
        return next(p.seconds for p in decode_step(setup, 2048, 4096).parts if p.name == "attention")

    assert attention("b200", "fp8") < 0.65 * attention("b200", "bf16")
    assert attention("h200", "fp8") > 0.8 * attention("h200", "bf16")


@pytest.mark.parametrize(
    "change", [{"cache": "fp4"}, {"precision": "fp7"}, {"acceptance": 1.5}, {"mtp": -1}, {"balancedness": 0.0}]
)
def test_setups_that_make_no_sense(change: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        Setup(R1, CATALOGUE.find("h200"), **change)  # type: ignore[arg-type]


def test_steps_of_nothing() -> None:
    setup = Setup(R1, CATALOGUE.find("h200"), Layout(tp=8))
    for call in (lambda: decode_step(setup, 0, 10), lambda: prefill_step(setup, 0)):
        with pytest.raises(ConfigError, match="above 0"):
            call()
