"""What a rank of a deployment holds is what its shard owns; the published deployments come out as published."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from fathom import cost
from fathom.config import Packed, preset
from fathom.errors import ConfigError
from fathom.layout import Layout, Shard
from fathom.layout.deploy import Pool, read_deploy
from fathom.layout.sharding import slices

NANO, V3 = preset("nano"), preset("deepseek-v3")
PAPER, SERVICE = (f"recipes/deploy/deepseek-v3-{name}.toml" for name in ("paper", "service"))
GB = 10**9


def pool_of(file: str, name: str) -> Pool:
    return next(pool for pool in read_deploy(file).pool if pool.name == name)


def owned_bytes(shard: Shard, *, mtp: bool) -> int:
    """Added up tensor by tensor; an MTP module's embedding and head are the model's."""
    total = 0
    for name, shape, dtype in cost.tensors(shard.config):
        module = any(f"layers.{layer}." in name for layer in cost.mtp_layers(shard.config))
        if module and (not mtp or "embed_tokens" in name or "shared_head.head" in name):
            continue
        owned = slices(name, shape, shard)
        total += 0 if owned is None else math.prod(s.stop - s.start for s in owned) * cost.BYTES[dtype]
    return total


@pytest.mark.parametrize("mtp", [False, True])
@pytest.mark.parametrize(
    "layout", [Layout(), Layout(tp=2), Layout(tp=4, ep=4), Layout(dp=4, ep=2), Layout(pp=3, dp=2, tp=2, ep=4)]
)
def test_a_rank_holds_what_its_shard_owns(layout: Layout, mtp: bool) -> None:
    pool = Pool(layout=layout)
    for stage in range(layout.pp):
        ranks = range(stage * layout.dp * layout.tp, (stage + 1) * layout.dp * layout.tp)
        most = max(owned_bytes(Shard(NANO, layout, rank), mtp=mtp) for rank in ranks)
        assert sum(cost.rank_weight_bytes(NANO, pool, stage, mtp=mtp).values()) == most


def test_one_rank_holds_the_checkpoint_and_fp8_is_cut_with_its_scales() -> None:
    plain = replace(V3, num_nextn_predict_layers=0)
    assert sum(cost.rank_weight_bytes(plain, Pool()).values()) == cost.checkpoint_bytes(plain)
    short = replace(V3, num_hidden_layers=4, num_nextn_predict_layers=0)
    layout = Layout(tp=4, ep=4)
    held = cost.rank_weight_bytes(short, Pool(layout=layout))
    assert sum(held.values()) == owned_bytes(Shard(short, layout), mtp=False)


def test_copies_take_their_place_and_whole_mlps_theirs() -> None:
    layout = Layout(dp=2, tp=2, ep=4)
    plain = cost.rank_weight_bytes(NANO, Pool(layout=layout))
    copies = cost.rank_weight_bytes(NANO, Pool(layout=layout, redundant_experts=8))
    assert copies["experts"] * 4 == plain["experts"] * 6
    assert {part: size for part, size in copies.items() if part != "experts"} == {
        part: size for part, size in plain.items() if part != "experts"
    }
    whole = cost.rank_weight_bytes(NANO, Pool(layout=layout, whole_mlp=True))
    for part in ("dense_mlp", "shared_experts"):
        assert whole[part] == 2 * plain[part]
    placed = cost.rank_weight_bytes(NANO, Pool(layout=layout, shared_copies=4))
    assert "shared_experts" not in placed and placed["experts"] * 4 == plain["experts"] * 5


# DeepSeek-V3, section 3.4, and open-infra-index, day 6.
@pytest.mark.parametrize(
    ("file", "name", "ranks", "routed", "shared"),
    [(PAPER, "prefill", 32, 9, 1), (PAPER, "decode", 320, 1, 0), (SERVICE, "prefill", 32, 9, 1),
     (SERVICE, "decode", 144, 2, 1)],
)  # fmt: skip
def test_experts_per_gpu_are_those_published(file: str, name: str, ranks: int, routed: int, shared: int) -> None:
    found = cost.plan_pool(V3, pool_of(file, name), memory_bytes=80 * GB)
    assert (found["ranks"], found["experts_per_rank"], found["shared_experts_per_rank"]) == (ranks, routed, shared)
    assert found["nodes"] == {32: 4, 144: 18, 320: 40}[ranks]
    assert found["weight_bytes"] + found["cache_tokens_per_rank"] * 70_272 <= 80 * GB
    assert found["weight_bytes"] + (found["cache_tokens_per_rank"] + 1) * 70_272 > 80 * GB


def test_weights_of_a_gpu_that_decodes_add_up_by_hand() -> None:
    """EP144: 3 experts of 58 layers, attention and dense MLPs in FP8, routers, embedding and head in BF16."""
    held = cost.rank_weight_bytes(V3, pool_of(SERVICE, "decode"))
    expert, attention = 3 * 7168 * 2048, 187_107_328
    block = 1 + 4 / 128**2  # FP8 with an FP32 scale for 128 x 128
    assert held["experts"] == 2 * held["shared_experts"] == 2 * 58 * expert * block
    assert held["attention"] == pytest.approx(61 * attention * block, rel=1e-3)
    assert held["embedding"] == held["head"] == 129_280 * 7168 * 2
    rest = sum(held.values()) - held["embedding"] - held["head"]
    assert rest == pytest.approx(20.5 * GB, rel=1e-3)


def test_rows_between_ranks_are_those_of_deepep() -> None:
    """128 tokens to 8 experts: dispatch 7168 + 7168 / 128 * 4 B a row, combine 7168 * 2 B (DeepEP's own tests)."""
    sent = cost.all_to_all(V3, pool_of(SERVICE, "prefill"))
    assert (sent.dispatch_row_bytes, sent.combine_row_bytes) == (7392, 14336)
    assert (sent.ranks, sent.nodes, sent.layers) == (8, 4, 58)
    told = sent.to_dict()
    assert told["layer_bytes"] == 8 * 21_728 and told["step_bytes"] == 58 * 8 * 21_728
    assert told["layer_bytes_between_nodes"] == 4 * 21_728


def test_groups_bound_the_nodes_that_a_token_visits() -> None:
    """Where nodes hold whole groups a token visits at most topk_group; elsewhere as many as it has experts."""
    decode, paper = pool_of(SERVICE, "decode"), pool_of(PAPER, "decode")
    assert cost.all_to_all(V3, decode).nodes == 8, "18 nodes do not divide 8 groups"
    assert (cost.all_to_all(V3, paper).ranks, cost.all_to_all(V3, paper).nodes) == (9, 9)
    for ep, nodes in ((8, 0), (16, 2), (64, 4)):
        assert cost.all_to_all(V3, Pool(layout=Layout(dp=ep, ep=ep))).nodes == nodes
    assert cost.all_to_all(NANO, Pool()).to_dict()["step_bytes"] == 0, "one rank sends nothing"
    with pytest.raises(ConfigError, match="a node has 0 ranks"):
        cost.all_to_all(V3, decode, 0)


def test_a_token_is_cached_on_each_rank_of_its_stage() -> None:
    layout = Layout(pp=2, tp=2)
    each = [cost.rank_cache_bytes_per_token(NANO, Pool(layout=layout), stage, mtp=True) for stage in range(2)]
    assert sum(each) == cost.cache_bytes_per_token(NANO, mtp=True)
    assert each == [3 * 80 * 2, 3 * 80 * 2]


def test_the_fullest_stage_is_shown() -> None:
    found = cost.plan_pool(NANO, Pool(layout=Layout(pp=2, dp=2)), memory_bytes=GB)
    held = [sum(cost.rank_weight_bytes(NANO, Pool(layout=Layout(pp=2, dp=2)), stage).values()) for stage in range(2)]
    assert found["weight_bytes"] == held[found["stage"]]
    assert found["cache_tokens"] == 2 * found["cache_tokens_per_rank"]
    assert found["nodes"] == 1


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(ConfigError, match="pool main: the weights of a rank take 673.2 GB of 80.0 GB"):
        cost.plan_pool(replace(V3, num_nextn_predict_layers=0), Pool(), memory_bytes=80 * GB)
    packed = replace(NANO, quantization_config={"quant_method": "fathom", "bits": 4, "group": 32})
    assert packed.packed == Packed(4, 32)
    with pytest.raises(ConfigError, match="the model is packed"):
        cost.rank_weight_bytes(packed, Pool())


def test_a_move_copies_one_expert_of_one_layer() -> None:
    assert cost.expert_bytes(V3) == 3 * (7168 * 2048 + 56 * 16 * 4)
    assert cost.expert_bytes(NANO) == 3 * 256 * 112 * 2
