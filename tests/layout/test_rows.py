"""The ranks that share a batch own every row of a packed model once, and each tensor is where its layer is."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fathom import cost
from fathom.config import PRESETS, ModelConfig, preset
from fathom.layout import Layout, Shard
from fathom.layout.placement import Placement
from fathom.layout.rows import ALONG, BLOCK_ROWS, bounds, held, here, owned

# Nothing that is divided into blocks of 16 rows comes out even.
ODD = replace(
    preset("nano"), vocab_size=523, hidden_size=200, intermediate_size=72, moe_intermediate_size=40,
    num_hidden_layers=3, num_attention_heads=8, num_key_value_heads=8, qk_nope_head_dim=12, v_head_dim=20,
)  # fmt: skip
SIZES = st.tuples(st.sampled_from([1, 2, 3]), st.sampled_from([1, 2]), st.sampled_from([1, 2, 4, 8]))
LAYOUTS = SIZES.flatmap(
    lambda s: st.sampled_from([n for n in (1, 2, 4, 8) if s[1] * s[2] % n == 0]).map(lambda ep: Layout(*s, ep))
)


def rows_of(name: str, matrix: cost.Matrix, shard: Shard) -> range:
    """The rows that a rank owns, counted as they are packed: whole blocks."""
    own = owned(name, shard)
    blocks = -(-matrix.rows // BLOCK_ROWS)
    if own is None:
        return range(blocks * BLOCK_ROWS)
    begin, end, parts = own
    assert blocks % parts == 0, f"{name}: {blocks} blocks are not {parts} equal parts"
    each = blocks // parts * BLOCK_ROWS
    return range(begin * each, end * each)


@settings(max_examples=40)
@given(layout=LAYOUTS, tied=st.booleans())
def test_the_ranks_of_a_batch_own_every_row_once(layout: Layout, tied: bool) -> None:
    config = replace(ODD, tie_word_embeddings=tied)
    shards = [Shard(config, layout, rank) for rank in range(layout.world_size)]
    for name, matrix, _ in cost.single_matrices(config):
        holders = [shard for shard in shards if here(name, shard, {})]
        rows = Counter(row for shard in holders for row in rows_of(name, matrix, shard))
        assert sorted(rows) == list(range(-(-matrix.rows // BLOCK_ROWS) * BLOCK_ROWS)), name
        copies = layout.dp * layout.tp // (layout.ep if ".experts." in name else 1)
        if owned(name, shards[0]) is not None:
            copies = layout.dp
        assert set(rows.values()) == {copies}, name


@settings(max_examples=20)
@given(layout=LAYOUTS)
def test_every_tensor_is_with_its_layer(layout: Layout) -> None:
    shards = [Shard(ODD, layout, rank) for rank in range(layout.world_size)]
    for shard in shards:
        layers = {*shard.layers, *shard.mtp_layers}
        names = [weight.name for weight in cost.vectors(ODD)] + [name for name, _, _ in cost.single_matrices(ODD)]
        found = {name for name in names if here(name, shard, {})}
        assert {int(name.split(".")[2]) for name in found if name.startswith("model.layers.")} == layers
        ends = {"model.norm.weight", "lm_head.weight"} & found
        assert len(ends) == 2 * shard.has_head
        needs_embedding = shard.pp_rank == 0 or shard.has_head  # the MTP module reads it too
        assert ("model.embed_tokens.weight" in found) == needs_embedding
        kept = {int(name.split(".experts.")[1].split(".")[0]) for name in found if ".experts." in name}
        assert kept == set(shard.experts if any(map(ODD.is_moe, layers)) else ())


def test_experts_may_be_placed_otherwise() -> None:
    shard = Shard(ODD, Layout(dp=2, ep=2), 1)
    names = [name for name, _, _ in cost.single_matrices(ODD) if name.startswith("model.layers.1.mlp.experts.")]
    others = Placement((*range(8), 0, *range(8, 16), 9), 2)
    placed = {int(name.split(".")[5]) for name in names if here(name, shard, {1: others})}
    assert placed == set(range(8, 16)) and tuple(held(shard, 1, {1: others})) == others.on_rank(1)
    assert tuple(held(shard, 2, {1: others})) == tuple(shard.experts), "other layers keep theirs"


@pytest.mark.parametrize("name", PRESETS)
def test_every_matrix_of_the_presets_is_known(name: str) -> None:
    """What is not named in ALONG is whole on purpose; a new kind of matrix is to be put on one side or the other."""
    config = preset(name)
    shard = Shard(replace(config, quantization_config=None), Layout(tp=2, ep=2))
    whole = {"q_a_proj", "kv_a_proj_with_mqa", "gate", "eh_proj"}
    for full, matrix, _ in cost.single_matrices(config):
        divided = owned(full, shard) is not None
        assert divided == (matrix.short in ALONG and ".experts." not in full and ".shared_experts." not in full), full
        assert divided or matrix.short in whole or ".experts." in full or ".shared_experts." in full, full
    stored = {name.removesuffix("_scale") for name, *_ in cost.packed_tensors(config, "i8")}
    assert {full for full, _, _ in cost.single_matrices(config)} <= stored


@pytest.mark.parametrize("along", ["heads", "hidden", "inner", "vocabulary"])
def test_bounds_are_where_the_parts_of_the_ranks_meet(along: str) -> None:
    total = {"heads": 8, "hidden": 200, "inner": 72, "vocabulary": 523}[along]
    places = bounds(Shard(ODD, Layout(tp=4), 2), along)
    assert places[0] == 0 and places[-1] == total and list(places) == sorted(places)
    assert along == "heads" or all(place % BLOCK_ROWS == 0 for place in places[:-1])
    assert all(bounds(Shard(ODD, Layout(tp=4), rank), along) == places for rank in range(4)), "all see the same"


def test_where_blocks_are_few_some_ranks_get_none() -> None:
    narrow = replace(ODD, hidden_size=24)
    assert bounds(Shard(narrow, Layout(tp=4)), "hidden") == (0, 16, 24, 24, 24)
    parts = [owned("model.layers.0.self_attn.o_proj.weight", Shard(narrow, Layout(tp=4), rank)) for rank in range(4)]
    assert parts == [(0, 1, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2)]


def test_heads_of_a_rank_are_those_of_its_shard() -> None:
    config: ModelConfig = ODD
    for rank in range(4):
        shard = Shard(config, Layout(tp=4), rank)
        begin, end, parts = owned("model.layers.0.self_attn.q_b_proj.weight", shard) or (0, 0, 0)
        assert (range(begin, end), parts) == (shard.heads, config.num_attention_heads)


def test_alone_a_rank_owns_all() -> None:
    shard = Shard(ODD, Layout(dp=4, ep=4), 3)
    assert all(owned(name, shard) is None for name, _, _ in cost.single_matrices(ODD))
