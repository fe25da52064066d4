"""The packed model is counted to the byte, and its kinds follow one table."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import pytest

from fathom import cost
from fathom.config import preset
from fathom.errors import ConfigError

V3, NANO = preset("deepseek-v3"), preset("nano")


def test_matrices_of_a_layer_are_those_that_the_kernels_ask_for() -> None:
    found = {matrix.name: matrix for matrix in cost.matrices(V3)}
    attention = {name.split(".")[-2] for name in found if name.startswith("model.layers.0.self_attn.")}
    assert attention == {"q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "k_b_proj", "v_b_proj", "o_proj"}
    shapes = {name: (found[f"model.layers.3.self_attn.{name}.weight"]) for name in ("q_b_proj", "k_b_proj", "v_b_proj")}
    assert {name: (m.rows, m.columns) for name, m in shapes.items()} == {
        "q_b_proj": (128 * 192, 1536), "k_b_proj": (128 * 512, 128), "v_b_proj": (128 * 128, 512),
    }  # fmt: skip
    assert found["model.layers.3.mlp.experts.{expert}.down_proj.weight"].source.copies == 256
    assert "model.layers.61.eh_proj.weight" in found and "model.layers.61.embed_tokens.weight" not in found
    assert "lm_head.weight" in found and not any("kv_b_proj" in name for name in found)


def test_heads_are_padded_to_whole_blocks() -> None:
    narrow = replace(NANO, qk_nope_head_dim=20, v_head_dim=10, kv_lora_rank=40, q_lora_rank=None)
    rows = {m.short: m.rows for m in cost.matrices(narrow) if m.source.layer == 0}
    assert [rows[name] for name in ("q_proj", "k_b_proj", "v_b_proj")] == [4 * 48, 4 * 48, 4 * 16]


def test_a_tied_head_is_the_embedding_packed() -> None:
    heads = [m for m in cost.matrices(replace(NANO, tie_word_embeddings=True)) if m.name == "lm_head.weight"]
    assert [m.source.name for m in heads] == ["model.embed_tokens.weight"]


def test_kinds_follow_one_table() -> None:
    kinds = {
        wanted: {m.short: cost.kind_for(V3, m, wanted) for m in cost.matrices(V3)}
        for wanted in ("f32", "bf16", "f8", "i8", "i4")
    }
    assert all(kinds[wanted]["gate"] == "f32" for wanted in kinds)
    assert set(kinds["i8"].values()) == {"f32", "i8"}
    assert kinds["i4"]["lm_head"] == "i8" and kinds["i4"]["down_proj"] == "i4"
    assert kinds["f8"]["k_b_proj"] == kinds["f8"]["gate_proj"] == "f8"
    assert kinds["f8"]["lm_head"] == kinds["f8"]["eh_proj"] == "bf16"


def test_an_fp8_block_over_two_heads_cannot_stay() -> None:
    odd = replace(V3, num_attention_heads=14, num_key_value_heads=14, qk_nope_head_dim=6, v_head_dim=6)
    kinds = {m.short: cost.kind_for(odd, m, "f8") for m in cost.matrices(odd) if m.source.layer == 0}
    assert kinds["v_b_proj"] == kinds["q_b_proj"] == "f32" and kinds["k_b_proj"] == kinds["o_proj"] == "f8"


def test_bits_per_weight_are_those_of_levels_and_scales() -> None:
    """V3 needs no padding: 8 + 16 / 64 and, for all but a few, 4 + 16 / 32; routers are float32."""
    routers = sum(w.elements for w in cost.weights(V3) if w.part == "router" and len(w.shape) == 2)
    eight = cost.packed_size(V3, "i8")
    levels = eight.elements - routers
    assert (eight.values_bytes, eight.scales_bytes) == (levels + 4 * routers, levels // 32)
    assert 8.25 < eight.bits_per_weight < 8.26
    assert 4.5 < cost.packed_size(V3, "i4").bits_per_weight < 4.6
    assert cost.packed_size(V3, "i4", 128).scales_bytes * 3 < cost.packed_size(V3, "i4", 32).scales_bytes
    assert 16 < cost.packed_size(V3, "bf16").bits_per_weight < 16.1


def test_the_size_is_that_of_the_tensors() -> None:
    types = Counter[str]()
    for _, shape, dtype in cost.packed_tensors(NANO, "i4"):
        types[dtype] += math.prod(shape) * cost.BYTES[dtype]
    size = cost.packed_size(NANO, "i4")
    assert sum(types.values()) == size.bytes
    assert set(types) == {"BF16", "F16", "F32", "I8", "U8"} and types["F16"] == size.scales_bytes


def test_a_senseless_group_is_refused() -> None:
    with pytest.raises(ConfigError, match="32, 64, 128"):
        cost.packed_size(NANO, "i4", 48)


def test_what_steps_read_is_the_packed_model_without_embedding_vectors_and_modules() -> None:
    config = replace(NANO, num_nextn_predict_layers=0)
    always, expert = cost.step_weight_bytes(config, "i4")
    size = cost.packed_size(config, "i4")
    assert always + expert * config.n_routed_experts == size.bytes - size.plain_bytes
    assert cost.step_weight_bytes(NANO, "i4") == (always, expert)  # modules are read by the drafter only
