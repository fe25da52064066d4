"""Layout and Shard: every rank knows its place, every thing has its owner, and what cannot be divided is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fathom.config import preset
from fathom.errors import ConfigError
from fathom.layout import Layout, Shard, share

NANO, V3 = preset("nano"), preset("deepseek-v3")


def test_the_whole_shard_owns_everything() -> None:
    shard = Shard.whole(NANO)
    assert shard.is_whole and shard.has_embedding and shard.has_head
    assert shard.layers == range(5) and shard.mtp_layers == range(5, 6)
    assert shard.heads == range(4) and shard.experts == range(16) and shard.vocabulary == range(512)
    assert shard.intermediate == range(768) and shard.shared_intermediate == range(112)


@given(total=st.integers(0, 300), parts=st.integers(1, 40))
def test_shares_are_consecutive_even_and_complete(total: int, parts: int) -> None:
    shares = [share(total, parts, index) for index in range(parts)]
    assert [number for one in shares for number in one] == list(range(total))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_ranks_count_tp_first_then_dp_then_pp() -> None:
    layout = Layout(pp=2, dp=2, tp=2, ep=4)
    shards = [Shard(NANO, layout, rank) for rank in range(layout.world_size)]
    assert [shard.tp_rank for shard in shards] == [0, 1] * 4
    assert [shard.dp_rank for shard in shards] == [0, 0, 1, 1] * 2
    assert [shard.pp_rank for shard in shards] == [0] * 4 + [1] * 4
    assert [shard.ep_rank for shard in shards] == [0, 1, 2, 3] * 2
    assert [shard.has_embedding for shard in shards] == [True] * 4 + [False] * 4
    assert [shard.has_head for shard in shards] == [False] * 4 + [True] * 4
    assert not any(shard.is_whole for shard in shards)


def test_a_tied_embedding_is_on_the_last_stage_too() -> None:
    tied = replace(NANO, tie_word_embeddings=True)
    assert [Shard(tied, Layout(pp=3), rank).has_embedding for rank in range(3)] == [True, False, True]


def test_deepseek_v3_as_it_was_trained() -> None:
    layout = Layout(pp=16, dp=128, ep=64)
    assert layout.world_size == 2048
    shard = Shard(V3, layout, 2047)
    assert len(shard.experts) == 4 and shard.mtp_layers == range(61, 62)
    assert sum(len(Shard(V3, layout, stage * 128).layers) for stage in range(16)) == 61


@pytest.mark.parametrize("axis", ["pp", "dp", "tp", "ep"])
@pytest.mark.parametrize("value", [0, -1, 1.0, True, "2"])
def test_degrees_are_whole_numbers_from_one(axis: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"{axis} is"):
        Layout(**{axis: value})


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ({"tp": 3}, "num_attention_heads is 4, which tp=3 does not divide; use tp 1, 2 or 4."),
        ({"dp": 32, "ep": 32}, "n_routed_experts is 16, which ep=32 does not divide; use ep 1, 2, 4, 8 or 16."),
        ({"pp": 7}, r"pp is 7; it must be at most num_hidden_layers \(5\)."),
    ],
)
def test_a_layout_the_model_does_not_allow_is_refused_with_those_it_does(layout: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Shard(NANO, Layout(**layout))


def test_copies_let_other_numbers_of_ranks_share_the_experts() -> None:
    layout = Layout(dp=12, ep=12)
    layout.check(NANO, redundant=8)
    with pytest.raises(ConfigError, match="n_routed_experts is 16, which ep=12 does not divide"):
        layout.check(NANO)
    with pytest.raises(ConfigError, match=r"n_routed_experts \+ redundant is 20, .*; use ep 1, 2, 4, 5, 10 or 20"):
        layout.check(NANO, redundant=4)


def test_ep_divides_the_ranks_of_a_stage() -> None:
    with pytest.raises(ConfigError, match=r"ep is 4, which does not divide dp \* tp = 6; use ep 1, 2, 3 or 6."):
        Layout(dp=3, tp=2, ep=4)


def test_fp8_weights_are_cut_between_blocks() -> None:
    Shard(V3, Layout(tp=16))
    with pytest.raises(ConfigError, match="tp is 32, which gives a rank 576 of mlp.gate_proj, not a multiple"):
        Shard(V3, Layout(tp=32))
    Shard(replace(V3, quantization_config=None), Layout(tp=32))


@pytest.mark.parametrize("rank", [-1, 4])
def test_a_rank_is_in_the_layout(rank: int) -> None:
    with pytest.raises(ConfigError, match=f"rank is {rank}; it must be from 0 to 3"):
        Shard(NANO, Layout(tp=4), rank)
