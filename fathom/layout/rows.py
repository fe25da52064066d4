"""How a packed model is divided among those who share a batch: always by rows of a matrix, never by columns.

A rank then computes whole numbers, with every sum in the order it has on one rank; what the others computed is fetched,
and nothing is ever added up across ranks. So no number depends on the layout. Cutting columns, as sharding.py does for
training, moves two thirds of the bytes, but each layout sums in an order of its own.

Small matrices that all heads read (q_a_proj, kv_a_proj_with_mqa, the router), the shared experts and the embedding are
whole on every rank; so are experts, of which a rank holds some (placement.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from fathom.config import ModelConfig
from fathom.layout import Shard, share
from fathom.layout.placement import Placement

BLOCK_ROWS = 16
ALONG = {  # the last part of a name -> what its rows are divided along
    "q_proj": "heads", "q_b_proj": "heads", "k_b_proj": "heads", "v_b_proj": "heads", "o_proj": "hidden",
    "gate_proj": "inner", "up_proj": "inner", "down_proj": "hidden", "lm_head": "vocabulary",
}  # fmt: skip
WHOLE = re.compile(r"\.mlp\.(shared_experts|experts\.\d+)\.")


def bounds(shard: Shard, along: str) -> tuple[int, ...]:
    """Where each rank's part begins and the last one's ends, tp + 1 numbers: heads, or rows in whole blocks."""
    total, unit = _sizes(shard.config)[along]
    parts = [share(-(-total // unit), shard.tp_size, rank) for rank in range(shard.tp_size)]
    return (*(min(part.start * unit, total) for part in parts), total)  # some may get none


def owned(name: str, shard: Shard) -> tuple[int, int, int] | None:
    """(begin, end, parts) of a packed matrix's rows: from begin to end of `parts` equal ones; None: all of it.

    A matrix with rows per head has as many parts as heads; any other one a part per block of rows.
    """
    if shard.tp_size == 1 or WHOLE.search(name):
        return None
    along = ALONG.get(name.removesuffix(".weight").split(".")[-1])
    if along is None:
        return None
    places, unit = bounds(shard, along), _sizes(shard.config)[along][1]
    begin, end, total = (-(-at // unit) for at in (places[shard.tp_rank], places[shard.tp_rank + 1], places[-1]))
    return begin, end, total


def here(name: str, shard: Shard, placements: Mapping[int, Placement]) -> bool:
    """Whether a rank has any of this tensor. placements: of layers whose experts do not lie as `Shard.experts` says."""
    if match := re.match(r"model\.layers\.(\d+)\.", name):
        layer = int(match[1])
        if layer not in shard.layers and layer not in shard.mtp_layers:
            return False
        if expert := re.search(r"\.experts\.(\d+)\.", name):
            return int(expert[1]) in held(shard, layer, placements)
        return True
    if name == "model.embed_tokens.weight":
        return shard.pp_rank == 0 or bool(shard.mtp_layers)
    return shard.has_head


def held(shard: Shard, layer: int, placements: Mapping[int, Placement]) -> Sequence[int]:
    """The expert in each slot of a rank."""
    return placements[layer].on_rank(shard.ep_rank) if layer in placements else shard.experts


def _sizes(config: ModelConfig) -> dict[str, tuple[int, int]]:
    """What is divided -> how much of it there is, and how much of it stays together."""
    return {
        "heads": (config.num_attention_heads, 1),
        "hidden": (config.hidden_size, BLOCK_ROWS),
        "inner": (config.intermediate_size, BLOCK_ROWS),
        "vocabulary": (config.vocab_size, BLOCK_ROWS),
    }
