"""What the ranks of a packed model ask of each other in one forward: how often, and how many bytes (parallel/comm.py).

Nothing is summed across ranks, so tensor parallelism gathers columns and experts answer row by row, in float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fathom.config import ModelConfig
from fathom.layout import Layout

FLOAT_BYTES, ID_BYTES = 4, 8


@dataclass(frozen=True)
class Exchange:
    """One kind of question of a forward. count: how often. bytes: that a rank receives each time, on average [B]."""

    op: str
    count: int
    bytes: float


def exchanges(config: ModelConfig, layout: Layout, tokens: int, asked: int) -> list[Exchange]:
    """The questions of a rank in one forward of the main model, if experts are chosen evenly.

    Args: tokens: of its lane; every lane has as many. asked: of them, those whose logits are needed.
    """
    return [one for one in _exchanges(config, layout, tokens, asked) if one.count]


def _exchanges(config: ModelConfig, layout: Layout, tokens: int, asked: int) -> Iterator[Exchange]:
    layers = -(-config.num_hidden_layers // layout.pp)
    moe = sum(map(config.is_moe, range(config.num_hidden_layers))) // layout.pp
    others, hidden = (layout.tp - 1) / layout.tp, config.hidden_size * FLOAT_BYTES
    if layout.tp > 1:
        heads = config.num_attention_heads * config.v_head_dim * FLOAT_BYTES
        yield Exchange("heads", layers, tokens * heads * others)
        yield Exchange("hidden", layers + layers - moe, tokens * hidden * others)
        yield Exchange("inner", layers - moe, tokens * config.intermediate_size * FLOAT_BYTES * others)
        yield Exchange("rows", moe, tokens * hidden * others)
        yield Exchange("vocabulary", int(asked > 0), asked * config.vocab_size * FLOAT_BYTES * others)
    if layout.ep > 1:
        chosen, share = config.num_experts_per_tok, tokens / layout.tp
        elsewhere = 1 - 1 / layout.ep
        reached = layout.ep * (1 - (1 - 1 / layout.ep) ** chosen)  # ranks that hold one of its experts at least
        yield Exchange("begin", 1, (layout.ep - 1) * ID_BYTES)
        yield Exchange("ids", moe, (layout.ep - 1) * share * chosen * ID_BYTES)
        yield Exchange("dispatch", moe, share * reached * elsewhere * hidden)
        yield Exchange("combine", moe, share * chosen * elsewhere * hidden)
    if layout.pp > 1:
        yield Exchange("stage", 1, tokens * hidden)
