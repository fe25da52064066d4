"""All shards together hold every element of every tensor, each exactly as often as the layout has copies of it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fathom import cost
from fathom.config import PRESETS, ModelConfig, preset
from fathom.errors import ConfigError
from fathom.layout import Layout, Shard
from fathom.layout.sharding import COLUMNS, ROWS, TABLE, Cut, rule, slices

TINY = replace(
    preset("nano"), vocab_size=37, hidden_size=6, intermediate_size=16, moe_intermediate_size=8, num_hidden_layers=3,
    num_attention_heads=8, num_key_value_heads=8, q_lora_rank=5, kv_lora_rank=3, qk_nope_head_dim=2, qk_rope_head_dim=2,
    v_head_dim=1, n_routed_experts=8, n_group=2, topk_group=1,
)  # fmt: skip
# 2 x 1 blocks, so that every cut below falls between blocks and every scale is worth checking.
TINY_FP8 = replace(TINY, v_head_dim=2, quantization_config={"quant_method": "fp8", "weight_block_size": [2, 1]})
LAYOUTS = st.tuples(st.sampled_from([1, 2, 3]), st.sampled_from([1, 2]), st.sampled_from([1, 2, 4])).flatmap(
    lambda s: st.sampled_from([n for n in (1, 2, 4, 8) if s[1] * s[2] % n == 0]).map(lambda ep: Layout(*s, ep))
)


def copies(name: str, layout: Layout, config: ModelConfig) -> int:
    """How many ranks should hold each element of `name`."""
    ranks = layout.dp * layout.tp
    if ".mlp.experts." in name:
        return ranks // layout.ep
    if name == "model.embed_tokens.weight" and config.tie_word_embeddings and layout.pp > 1:
        ranks *= 2
    module = name.removeprefix("model.").rsplit(".", 1)[0]
    module = module.split(".", 2)[2] if module.startswith("layers.") else module
    return ranks // layout.tp if rule(module) else ranks


@settings(max_examples=40)
@given(layout=LAYOUTS, tied=st.booleans(), fp8=st.booleans())
def test_every_element_is_held_exactly_as_often_as_there_are_copies(layout: Layout, tied: bool, fp8: bool) -> None:
    config = replace(TINY_FP8 if fp8 else TINY, tie_word_embeddings=tied)
    shards = [Shard(config, layout, rank) for rank in range(layout.world_size)]
    for name, shape, _ in cost.tensors(config):
        held = np.zeros(shape, dtype=np.int64)
        for shard in shards:
            own = slices(name, shape, shard)
            if own is not None:
                held[own] += 1
        assert (held == copies(name, layout, config)).all(), name


@settings(max_examples=40)
@given(layout=LAYOUTS)
def test_the_ranks_of_one_group_hold_no_element_twice(layout: Layout) -> None:
    shards = [Shard(TINY, layout, rank) for rank in range(layout.world_size)]
    for name, shape, _ in cost.tensors(TINY):
        for replica in range(layout.dp):
            group = [shard for shard in shards if shard.dp_rank == replica]
            parts = [own for shard in group if (own := slices(name, shape, shard)) is not None]
            distinct = {tuple((s.start, s.stop) for s in own) for own in parts}
            if ".mlp.experts." not in name:
                sizes = [math.prod(stop - start for start, stop in own) for own in distinct]
                assert sum(sizes) == math.prod(shape), name


@pytest.mark.parametrize("name", PRESETS)
def test_the_table_knows_every_tensor_of_every_preset(name: str) -> None:
    config = preset(name)
    whole = Shard.whole(config)
    for weight in cost.weights(config):
        tensor = weight.name.replace("{expert}", str(weight.copies - 1))
        assert slices(tensor, weight.shape, whole) == tuple(slice(0, size) for size in weight.shape)


def test_every_line_of_the_table_is_used() -> None:
    modules = set()
    for config in (TINY, replace(TINY, q_lora_rank=None)):
        for name, _, _ in cost.tensors(config):
            module = name.removeprefix("model.").rsplit(".", 1)[0]
            modules.add(module.split(".", 2)[2] if module.startswith("layers.") else module)
    assert {rule(module) for module in modules} == {cut for _, cut in TABLE}


def test_heads_stay_whole() -> None:
    shard = Shard(TINY, Layout(tp=4), 1)
    assert slices("model.layers.0.self_attn.q_b_proj.weight", (32, 5), shard) == (slice(8, 16), slice(0, 5))
    assert slices("model.layers.0.self_attn.o_proj.weight", (6, 8), shard) == (slice(0, 6), slice(2, 4))
    assert rule("self_attn.kv_b_proj") == Cut("heads", ROWS)
    assert rule("mlp.down_proj") == Cut("intermediate", COLUMNS)


def test_experts_are_on_their_owner_only() -> None:
    layout = Layout(dp=4, ep=4)
    name = "model.layers.2.mlp.experts.5.up_proj.weight"
    holders = [rank for rank in range(4) if slices(name, (8, 6), Shard(TINY, layout, rank)) is not None]
    assert holders == [2]


@pytest.mark.parametrize("name", ["model.layers.0.self_attn.rotary.weight", "transformer.wte.weight", "lm_head.bias"])
def test_a_foreign_tensor_is_refused_by_name(name: str) -> None:
    with pytest.raises(ConfigError, match="is not a tensor of this model family"):
        slices(name, (1,), Shard.whole(TINY))


def test_a_shape_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"has 31 in dimension 0; heads \(8\) must divide it"):
        slices("model.layers.0.self_attn.q_b_proj.weight", (31, 5), Shard(TINY, Layout(tp=4), 1))
