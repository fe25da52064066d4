"""Bytes of a device: those of the cost room for DeepSeek models, byte for byte; figures of logs and blogs; monotony."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fathom.config import PRESETS, preset
from fathom.cost import checkpoint_bytes, rank_cache_bytes_per_token, rank_weight_bytes
from fathom.errors import ConfigError
from fathom.layout import Layout
from fathom.layout.deploy import Pool
from fathom.plan import families
from fathom.plan.hardware import Catalogue
from fathom.plan.latency import Setup
from fathom.plan.memory import cache_bytes, exchange_bytes, memory, weights
from fathom.plan.memory_rows import file_bytes

CATALOGUE = Catalogue.read()
V3, H200 = families.find("deepseek-v3"), CATALOGUE.find("h200")
GIB = 2**30


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("mtp", [False, True])
def test_weights_and_cache_equal_the_cost_room_to_the_byte(name: str, mtp: bool) -> None:
    config, shape, compared = preset(name), families.find(name), 0
    for pp, dp, tp, copies in (
        (1, 1, 8, 0),
        (1, 32, 1, 32),
        (2, 4, 2, 0),
        (7, 1, 4, 0),
        (4, 8, 1, 64),
        (1, 144, 1, 32),
    ):
        layout = Layout(pp, dp, tp, dp * tp)
        pool, setup = Pool(layout=layout, redundant_experts=copies), Setup(shape, H200, layout, redundant=copies)
        setup = replace(setup, mtp=int(mtp))
        for stage in range(pp):
            try:
                counted = rank_weight_bytes(config, pool, stage, mtp=mtp)
            except ConfigError:
                continue  # the model cannot be divided so
            found = weights(setup, stage)
            assert sum(found.values()) == sum(counted.values())
            for part in ("experts", "dense_mlp", "shared_experts"):
                assert sum(size for (one, _), size in found.items() if one == part) == counted.get(part, 0)
            assert cache_bytes(setup, stage)[0] == rank_cache_bytes_per_token(config, pool, stage, mtp=mtp)
            compared += 1
    assert compared >= 4


@pytest.mark.parametrize("name", ["deepseek-v3", "deepseek-v2", "deepseek-v2-lite"])
def test_the_checkpoint_with_everything_on_one_device(name: str) -> None:
    setup = Setup(families.find(name), H200, mtp=1)
    assert file_bytes(setup) == checkpoint_bytes(preset(name))


def test_the_file_is_as_large_as_published() -> None:
    assert file_bytes(Setup(V3, H200, mtp=1)) == pytest.approx(688.6e9, rel=1e-3)  # its index: 641.3 GiB


def test_llama_in_fp8_on_eight_ranks_is_what_vllm_loads_but_for_attention_in_bf16() -> None:
    setup = Setup(families.find("llama-3.1-405b"), CATALOGUE.find("h100"), Layout(tp=8), precision="fp8")
    attention = sum(size for (part, _), size in weights(setup).items() if part == "attention")
    loaded = 57.752 * GIB  # vllm issue 6746: Meta keeps attention, and first and last MLPs, in BF16
    assert memory(setup).weights < loaded < memory(setup).weights + 1.2 * attention + 2 * 3 * 16384 * 53248 / 8


def test_room_is_near_what_vllm_found_on_eight_h200() -> None:
    """GLM-5.1-FP8, TP8 on H200: 89.34 GiB of weights, 32.11 GiB for the cache at a use of 0.9 (vLLM 0.19's log)."""
    held = memory(Setup(V3, H200, Layout(tp=8)))
    besides = held.used - held.weights
    assert 0.9 * H200.driver_bytes - 89.34 * GIB - besides == pytest.approx(32.11 * GIB, rel=0.05)


def test_buffers_of_exchange_are_those_of_deepep() -> None:
    """128 tokens, hidden 7168, 256 experts: twice (send + receive) of 14,448 bytes a row, 1.9 GB."""
    setup = Setup(V3, H200, Layout(dp=32, ep=32))
    assert 128 * exchange_bytes(setup) == pytest.approx(2 * 2 * 256 * 128 * (2 * 7168 + 4 * 7168 / 128), rel=1e-3)
    assert exchange_bytes(replace(setup, layout=Layout(tp=8, ep=8))) == 0


def test_sequences_beyond_the_buffers_cost_more_than_their_cache() -> None:
    held = memory(Setup(V3, CATALOGUE.find("gb200"), Layout(dp=48, ep=48), "nvfp4", "fp8", redundant=32))
    plain = replace(held, beyond=())
    assert held.sequences(100_000) == plain.sequences(100_000)
    assert held.sequences(2000) < plain.sequences(2000)
    assert held.sequences(2000) / 48 == pytest.approx(1408, rel=0.1)  # SGLang on GB200: "KV roughly full"
    assert held.sequences(4000) / 48 == pytest.approx(768, rel=0.1)


def test_experts_are_cut_where_ranks_share_them_and_whole_in_our_engine() -> None:
    cut, shared = (Setup(V3, H200, Layout(tp=8, ep=ep)) for ep in (1, 8))
    assert memory(cut).parts["experts"] == pytest.approx(memory(shared).parts["experts"], rel=1e-3)
    assert memory(replace(cut, engine="fathom")).parts["experts"] == pytest.approx(
        8 * memory(shared).parts["experts"], rel=1e-3
    )


def test_keys_are_kept_twice_where_there_are_more_ranks_than_key_heads() -> None:
    llama = families.find("llama-3.1-70b")
    eight, sixteen = (cache_bytes(Setup(llama, H200, Layout(tp=tp)))[0] for tp in (8, 16))
    assert eight == sixteen == 163_840 * 2 / 8


def test_a_linear_state_is_kept_in_fp32_whatever_the_context() -> None:
    setup = Setup(families.find("qwen3.5-397b-a17b"), H200)
    token, state = cache_bytes(setup)
    assert token == 15 * 2 * (256 + 256) * 2  # 15 layers of full attention, 2 key heads
    assert state == 45 * 64 * 128 * 128 * 4


def test_latents_are_whole_on_every_tensor_parallel_rank_and_heads_are_divided() -> None:
    llama = families.find("llama-3.1-405b")
    assert memory(Setup(V3, H200, Layout(tp=8))).token_bytes == memory(Setup(V3, H200, Layout(dp=8, ep=8))).token_bytes
    whole, cut = (memory(Setup(llama, H200, Layout(tp=tp), precision="fp8")).token_bytes for tp in (1, 8))
    assert whole == 516_096 and cut * 8 == whole


def test_the_stage_with_least_room_is_shown() -> None:
    setup = Setup(V3, H200, Layout(pp=8), mtp=1)
    shown = memory(setup)
    free = [H200.driver_bytes - sum(weights(setup, stage).values()) for stage in range(8)]
    assert shown.stage == free.index(min(free)) and shown.token_bytes == cache_bytes(setup, shown.stage)[0]


@settings(max_examples=40)
@given(
    name=st.sampled_from(["deepseek-v3", "llama-3.1-70b", "gpt-oss-120b", "qwen3.5-397b-a17b", "mixtral-8x7b"]),
    tp=st.sampled_from([1, 2, 4, 8]), device=st.sampled_from(["h100", "h200", "b200", "mi300x", "h20"]),
    context=st.integers(128, 100_000),
)  # fmt: skip
def test_more_of_anything_leaves_less_room(name: str, tp: int, device: str, context: int) -> None:
    setup = Setup(families.find(name), CATALOGUE.find(device), Layout(tp=tp))
    held = memory(setup)
    assert held.room >= 0 and held.used > 0
    assert memory(replace(setup, precision="mxfp4")).room >= held.room
    assert memory(replace(setup, cache="fp8")).room >= held.room
    assert memory(setup, chunk=32_768).room <= held.room
    assert held.sequences(context) >= held.sequences(context + 1000)


def test_tensorrt_llm_keeps_what_has_left_a_window() -> None:
    """gpt-oss: every second layer sees 128 tokens; `max_attention_window` is not set by itself."""
    freed, kept = (Setup(families.find("gpt-oss-120b"), H200, engine=engine) for engine in ("vllm", "trtllm"))
    assert cache_bytes(kept)[0] == 2 * cache_bytes(freed)[0]
    assert 0.45 < memory(kept).sequences(8192) / memory(freed).sequences(8192) < 0.6
