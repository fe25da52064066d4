"""Bytes of a device: those of the cost room for DeepSeek models, published figures; more of anything is less room."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fathom.config import preset
from fathom.cost import rank_cache_bytes_per_token, rank_weight_bytes
from fathom.layout import Layout
from fathom.layout.deploy import Pool
from fathom.plan import families
from fathom.plan.hardware import Catalogue
from fathom.plan.latency import Setup
from fathom.plan.memory import memory

CATALOGUE = Catalogue.read()
V3, H200 = families.find("deepseek-v3"), CATALOGUE.find("h200")
WEIGHTS = ("attention", "dense_mlp", "shared_experts", "experts", "router")


@pytest.mark.parametrize(
    ("layout", "redundant"), [(Layout(dp=32, ep=32), 32), (Layout(dp=144, ep=144), 32), (Layout(dp=8, ep=8), 0)]
)
def test_weights_and_cache_equal_the_cost_room(layout: Layout, redundant: int) -> None:
    config = preset("deepseek-v3")
    pool = Pool(layout=layout, redundant_experts=redundant)
    counted = rank_weight_bytes(config, pool)
    held = memory(Setup(V3, H200, layout, redundant=redundant))
    for part in ("dense_mlp", "shared_experts", "experts", "router"):
        assert held.parts[part] == pytest.approx(counted[part], rel=2e-3), part
    assert held.parts["embedding and head"] == counted["embedding"] + counted["head"]
    assert held.token_bytes == rank_cache_bytes_per_token(config, pool)


def test_vllm_has_34_gb_left_on_eight_h200() -> None:
    held = memory(Setup(V3, H200, Layout(tp=8)))
    weights = sum(held.parts[part] for part in WEIGHTS) + held.parts["embedding and head"]
    free = 141e9 * 0.9 - weights - held.parts["runtime"] - held.parts["activations"]  # vLLM's gpu_memory_utilization
    assert free / 1e9 == pytest.approx(34, rel=0.12)


def test_latents_are_whole_on_every_tensor_parallel_rank_and_heads_are_divided() -> None:
    llama = families.find("llama-3.1-405b")
    assert memory(Setup(V3, H200, Layout(tp=8))).token_bytes == memory(Setup(V3, H200, Layout(dp=8, ep=8))).token_bytes
    whole, cut = (memory(Setup(llama, H200, Layout(tp=tp), precision="fp8")).token_bytes for tp in (1, 8))
    assert whole == 516_096 and cut * 8 == whole


def test_the_stage_that_holds_most_is_counted() -> None:
    one, eight = (memory(Setup(V3, H200, Layout(pp=pp))).parts["experts"] for pp in (1, 8))
    assert eight * 58 == pytest.approx(one * 8)


@settings(max_examples=40, deadline=None)
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
