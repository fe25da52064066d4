"""The published counts of DeepSeek's models, as equalities; and the table they are counted from."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import pytest

from fathom import cost
from fathom.config import PRESETS, ModelConfig, preset

V3 = preset("deepseek-v3")


def test_deepseek_v3_is_counted_exactly() -> None:
    found = cost.info(V3)
    expected = {
        "parameters_total": 671_026_419_200,
        "parameters_activated": 37_552_297_472,
        "parameters_activated_no_embedding": 36_625_618_432,
        "mtp_parameters": 11_610_068_224,
        "checkpoint_elements": 684_531_386_000,
        "checkpoint_tensors": 91_991,
        "checkpoint_bytes": 688_574_839_360,
        "cache_bytes_per_token": 70_272,
        "yarn_low": 10,
        "yarn_high": 23,
    }
    assert {key: found[key] for key in expected} == expected
    assert round(found["softmax_scale"], 7) == 0.1352338
    assert found["checkpoint_elements_by_dtype"] == {
        "F8_E4M3": 680_571_043_840, "BF16": 3_918_786_560, "F32": 41_555_600,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "total", "activated_with_head"),
    [
        ("deepseek-v2", 235_741_434_880, 20_851_512_320),
        ("deepseek-v2-lite", 15_706_484_224, 2_451_435_008),
        ("moonlight", 15_960_110_208, 2_579_231_872),
        ("kimi-k2", 1_026_408_232_448, 31_687_095_808),
    ],
)
def test_other_members_of_the_family(name: str, total: int, activated_with_head: int) -> None:
    assert cost.parameters(preset(name)) == total
    assert cost.activated_parameters(preset(name), embedding=False) == activated_with_head


def test_one_layer_of_each_kind() -> None:
    def of_layer(layer: int) -> int:
        return sum(weight.elements for weight in cost.weights(V3) if weight.layer == layer)

    assert of_layer(0) == 583_483_392
    assert of_layer(3) == 11_507_286_272
    assert of_layer(61) == 13_463_426_304  # an MTP module as stored, embedding and head once more
    assert cost.parameters_by_part(V3)["attention"] == 61 * (187_107_328)


@pytest.mark.parametrize("name", PRESETS)
def test_the_listed_tensors_add_up(name: str) -> None:
    config = preset(name)
    tensors = list(cost.tensors(config))
    elements: Counter[str] = Counter()
    for _, shape, dtype in tensors:
        elements[dtype] += math.prod(shape)
    assert elements == cost.checkpoint_elements(config)
    assert len(tensors) == len({name for name, _, _ in tensors}) == cost.checkpoint_tensors(config)
    assert sum(cost.parameters_by_part(config).values()) == cost.parameters(config)


def test_names_shapes_and_types_of_the_released_checkpoint() -> None:
    found = {name: (shape, dtype) for name, shape, dtype in cost.tensors(V3)}
    layer = "model.layers.61"
    assert found["model.embed_tokens.weight"] == ((129280, 7168), "BF16")
    assert found["model.layers.0.self_attn.kv_a_proj_with_mqa.weight"] == ((576, 7168), "F8_E4M3")
    assert found["model.layers.0.self_attn.kv_a_proj_with_mqa.weight_scale_inv"] == ((5, 56), "F32")
    assert found["model.layers.2.mlp.down_proj.weight_scale_inv"] == ((56, 144), "F32")
    assert found["model.layers.3.mlp.gate.weight"] == ((256, 7168), "BF16")
    assert found["model.layers.3.mlp.gate.e_score_correction_bias"] == ((256,), "F32")
    assert found["model.layers.60.mlp.experts.255.down_proj.weight"] == ((7168, 2048), "F8_E4M3")
    assert found[f"{layer}.eh_proj.weight"] == ((7168, 14336), "BF16")
    assert found[f"{layer}.shared_head.head.weight"] == found[f"{layer}.embed_tokens.weight"]
    assert f"{layer}.eh_proj.weight_scale_inv" not in found
    assert "model.layers.3.mlp.gate.weight_scale_inv" not in found
    assert sum(name.startswith(f"{layer}.") for name in found) == 1_564


def test_small_variants_leave_out_what_they_lack() -> None:
    nano = preset("nano")

    def names(config: ModelConfig) -> set[str]:
        return {name for name, _, _ in cost.tensors(config)}

    plain = replace(nano, q_lora_rank=None, n_shared_experts=0, tie_word_embeddings=True, num_nextn_predict_layers=0)
    assert "model.layers.0.self_attn.q_proj.weight" in names(plain)
    parts = ("q_a_", "shared", f"layers.{nano.num_hidden_layers}.")
    assert not any(part in name for name in names(plain) for part in parts)
    assert "lm_head.weight" not in names(plain)
    assert cost.mtp_parameters(plain) == 0
    assert cost.activated_parameters(plain) == cost.activated_parameters(plain, embedding=False)
    untied = replace(plain, tie_word_embeddings=False)
    vocabulary = nano.vocab_size * nano.hidden_size
    assert cost.parameters(untied) - cost.parameters(plain) == vocabulary
    assert cost.activated_parameters(untied, embedding=False) == cost.activated_parameters(plain, embedding=False)
    softmax = replace(nano, scoring_func="softmax", topk_method="greedy")
    assert not any("e_score_correction_bias" in name for name in names(softmax))
    dense = replace(nano, first_k_dense_replace=7)
    assert cost.parameters(dense) == cost.activated_parameters(dense)


def test_types_follow_the_configuration() -> None:
    nano = replace(preset("nano"), torch_dtype="float32")
    assert {dtype for _, _, dtype in cost.tensors(nano)} == {"F32"}
    assert cost.checkpoint_bytes(nano) == 4 * sum(cost.checkpoint_elements(nano).values())


def test_training_flops_are_the_published() -> None:
    assert cost.training_flops(V3, 4096) / 1e9 == pytest.approx(250.46, abs=0.005)
    assert cost.training_flops(preset("deepseek-v2"), 4096) / 1e9 == pytest.approx(155.31, abs=0.006)
    assert cost.training_flops(V3, 4096, mtp=True) / 1e9 == pytest.approx(260.6, abs=0.1)


def test_absorbed_attention_costs_3_4_times_the_expanded_one() -> None:
    ratio = cost.attention_flops(V3, 1, absorbed=True) / cost.attention_flops(V3, 1, absorbed=False)
    assert ratio == 3.4


def test_reading_in_chunks_costs_the_attention_of_one_pass_plus_the_expansion() -> None:
    once = 512 * cost.prefill_flops(V3, 512)
    chunked = 256 * (cost.prefill_flops(V3, 256) + cost.prefill_flops(V3, 256, cached=256))
    expanding = 61 * 2 * 16_777_216 * 256
    assert chunked - once == pytest.approx(expanding, rel=1e-9)


def test_decoding_grows_by_one_attention_per_token_of_context() -> None:
    grown = cost.decode_flops(V3, 101) - cost.decode_flops(V3, 100)
    assert grown == 61 * 2 * 128 * (576 + 512)


def test_cache_of_keys_and_values_per_head_would_be_71_times_larger() -> None:
    assert cost.expanded_cache_bytes_per_token(V3) == 4_997_120
    assert cost.cache_bytes_per_token(V3, bytes_per_value=1) == 35_136


def test_experts_met_by_some_tokens() -> None:
    assert cost.experts_met(V3, 1) == pytest.approx(8)
    assert cost.experts_met(V3, 2) == pytest.approx(8 + 8 * (1 - 8 / 256))
    assert cost.experts_met(V3, 10_000) == pytest.approx(256)


def test_a_decoding_step_is_its_tokens_and_a_prompt_has_one_head() -> None:
    linear, attention = cost.step_flops(V3, 1, 1, 4095)
    absorbed = V3.num_hidden_layers * cost.attention_flops(V3, 4096, absorbed=True)
    expanded = V3.num_hidden_layers * cost.attention_flops(V3, 4096, absorbed=False)
    assert linear == 2 * cost.activated_parameters(V3, embedding=False)
    assert attention == min(absorbed, expanded)
    assert cost.step_flops(V3, 3, 1, 4095) == (3 * linear, 3 * attention)
    head = 2 * V3.vocab_size * V3.hidden_size
    assert cost.step_flops(V3, 1, 10, 0)[0] == 10 * (linear - head) + head
