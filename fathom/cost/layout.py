"""What a deployment asks of one rank: bytes of weights and latents, and bytes that its tokens send to experts.

Counted for the rank that holds most, from the same tables as everything else: `weights` says what there is,
layout/sharding.py how it is cut.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

from fathom.config import FP8_BLOCK, ModelConfig
from fathom.cost.model import BYTES, Weight, mtp_layers, stored_as, weights
from fathom.errors import ConfigError
from fathom.layout import Layout, Shard
from fathom.layout.deploy import Pool
from fathom.layout.sharding import slices

LATENT_BYTES = 2  # BF16, as DeepSeek keeps latents


@dataclass(frozen=True)
class AllToAll:
    """What one token sends to experts in one layer and gets back, at most.

    ranks, nodes: how many of them it visits; 0 where one has all experts. Where experts are placed by groups, a token
    crosses to a node once and is passed on there; a direct transfer crosses once per rank.
    """

    ranks: int
    nodes: int
    dispatch_row_bytes: int
    combine_row_bytes: int
    layers: int

    @property
    def row_bytes(self) -> int:
        """There and back, for one destination [B]."""
        return self.dispatch_row_bytes + self.combine_row_bytes

    def to_dict(self) -> dict[str, int]:
        """As JSON: to all ranks, and between nodes if each node is reached once; per layer and per step [B/token]."""
        return {
            "ranks": self.ranks,
            "nodes": self.nodes,
            "dispatch_row_bytes": self.dispatch_row_bytes,
            "combine_row_bytes": self.combine_row_bytes,
            "layer_bytes": self.ranks * self.row_bytes,
            "step_bytes": self.ranks * self.row_bytes * self.layers,
            "layer_bytes_between_nodes": self.nodes * self.row_bytes,
            "step_bytes_between_nodes": self.nodes * self.row_bytes * self.layers,
        }


def all_to_all(config: ModelConfig, pool: Pool, node_ranks: int = 8) -> AllToAll:
    """The rows that a token of `pool` sends and gets in a layer with experts.

    A row goes out in FP8, with an FP32 scale for each 128 values, and comes back in BF16. Nodes that divide the groups
    of the router hold whole groups, so a token visits at most `topk_group` of them.

    Source: DeepSeek-V3, arXiv:2412.19437, sections 3.2.2 and 3.4; tests/legacy/test_low_latency.py of DeepEP.
    """
    _, node_count = nodes_of(pool, node_ranks)
    shared = int(pool.shared_copies > 0)
    ranks = config.num_experts_per_tok + shared
    nodes = ranks if config.n_group % node_count else config.topk_group + shared
    hidden = config.hidden_size
    scales = -(-hidden // FP8_BLOCK) * BYTES["F32"]
    return AllToAll(
        ranks=min(ranks, pool.layout.ep) if pool.layout.ep > 1 else 0,
        nodes=min(nodes, node_count) if node_count > 1 else 0,
        dispatch_row_bytes=hidden + scales,
        combine_row_bytes=hidden * BYTES["BF16"],
        layers=sum(map(config.is_moe, range(config.num_hidden_layers))),
    )


def nodes_of(pool: Pool, node_ranks: int) -> tuple[int, int]:
    """(nodes of a replica, nodes that share out the experts of a layer)."""
    if node_ranks < 1:
        raise ConfigError(f"a node has {node_ranks} ranks; it must be at least 1.")
    return -(-pool.layout.world_size // node_ranks), -(-pool.layout.ep // node_ranks)


def rank_weight_bytes(config: ModelConfig, pool: Pool, stage: int = 0, *, mtp: bool = False) -> dict[str, int]:
    """Bytes of weights, by part, on the rank of a pipeline stage that holds most of it [B].

    As a checkpoint stores them: FP8 with its scales if it is FP8. Experts are slots, copies included.

    Args:   mtp: with the MTP modules; their embedding and head are the model's.
    Raises: ConfigError: the model cannot be divided like that, or is packed (which `fathom info` counts).
    """
    pool.check(config)
    if config.packed is not None:
        raise ConfigError("the model is packed; plan with its checkpoint before packing, or see `fathom info --bits`.")
    layout = pool.layout
    shard = Shard(config, replace(layout, ep=1), stage * layout.dp * layout.tp)  # tp_rank 0 has most of what is uneven
    found: Counter[str] = Counter()
    for weight in weights(config):
        is_mtp = weight.layer is not None and weight.layer in mtp_layers(config)
        if is_mtp and (not mtp or weight.part in ("embedding", "head")):
            continue
        size = _held(config, weight, shard, pool)
        if size:
            found["mtp" if is_mtp else weight.part] += size
    return dict(found)


def _held(config: ModelConfig, weight: Weight, shard: Shard, pool: Pool) -> int:
    """Bytes of one kind of tensor on a rank."""
    if weight.part in ("dense_mlp", "shared_experts") and pool.whole_mlp:
        shard = Shard(config, Layout(pp=shard.layout.pp), shard.pp_rank)
    if weight.part == "shared_experts" and pool.shared_copies:
        return 0  # counted among the slots: it is as wide as a routed one (Pool.check)
    copies = pool.slots_per_rank(config) if weight.part == "experts" else 1
    size = 0
    for suffix, shape, dtype in stored_as(config, weight):
        owned = slices(weight.name.replace("{expert}", "0") + suffix, shape, shard)
        size += 0 if owned is None else math.prod(s.stop - s.start for s in owned) * BYTES[dtype] * copies
    return size


def rank_cache_bytes_per_token(config: ModelConfig, pool: Pool, stage: int = 0, *, mtp: bool = False) -> int:
    """Bytes of latent cache that a token leaves on each rank of a stage [B]: its tp ranks all keep the latent."""
    shard = Shard(config, replace(pool.layout, ep=1), stage * pool.layout.dp * pool.layout.tp)
    layers = len(shard.layers) + (len(shard.mtp_layers) if mtp else 0)
    return layers * (config.kv_lora_rank + config.qk_rope_head_dim) * LATENT_BYTES


def plan_pool(
    config: ModelConfig, pool: Pool, *, memory_bytes: int, node_ranks: int = 8, mtp: bool = False
) -> dict[str, Any]:
    """What `fathom plan` prints of a pool. The stage that has room for fewest tokens is shown.

    Args:   memory_bytes: of one rank, for weights and cache [B].
    Raises: ConfigError: the model cannot be divided like that, or the weights do not fit.
    """
    stages = []
    for stage in range(pool.layout.pp):
        parts = rank_weight_bytes(config, pool, stage, mtp=mtp)
        per_token = rank_cache_bytes_per_token(config, pool, stage, mtp=mtp)
        stages.append(((memory_bytes - sum(parts.values())) // per_token, per_token, stage, parts))
    tokens, per_token, stage, parts = min(stages, key=lambda row: row[:3])
    total = sum(parts.values())
    if tokens < 1:
        raise ConfigError(
            f"pool {pool.name}: the weights of a rank take {total / 1e9:,.1f} GB of {memory_bytes / 1e9:,.1f} GB, "
            f"which leaves no room for a token; use more ranks (ep {pool.layout.ep}, tp {pool.layout.tp}, pp "
            f"{pool.layout.pp}), or say --memory-gb."
        )
    shared = config.n_shared_experts if not pool.shared_copies else 0
    return {
        "name": pool.name,
        "role": pool.role,
        "replicas": pool.replicas,
        "ranks": pool.layout.world_size,
        "nodes": nodes_of(pool, node_ranks)[0],
        "stage": stage,
        "slots": pool.slots(config),
        "experts_per_rank": pool.slots_per_rank(config),
        "shared_experts_per_rank": shared,
        "weight_bytes_by_part": parts,
        "weight_bytes": total,
        "expert_move_bytes": expert_bytes(config),
        "cache_bytes_per_token": per_token,
        "cache_tokens_per_rank": tokens,
        "cache_tokens": tokens * pool.layout.dp,
        "all_to_all": all_to_all(config, pool, node_ranks).to_dict(),
    }


def expert_bytes(config: ModelConfig) -> int:
    """Bytes of one routed expert of one layer, with its scales: what one move of a placement copies [B]."""
    layer = next((n for n in range(config.num_hidden_layers) if config.is_moe(n)), None)
    return sum(
        math.prod(shape) * BYTES[dtype]
        for weight in weights(config)
        if weight.part == "experts" and weight.layer == layer
        for _, shape, dtype in stored_as(config, weight)
    )
