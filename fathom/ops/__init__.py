"""What the model asks of the hardware: the contract, one typed and documented function per op.

Tokens of all sequences lie end to end; `query_lengths` says where one ends and the next begins. Nothing is padded.
`reference.py` is the living definition of every op, `dispatch.py` the one place that picks who answers.
Must not import anything of fathom above it. Read first: reference.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from fathom.ops.dispatch import describe, pick, use

if TYPE_CHECKING:
    from jaxtyping import Float, Int

__all__ = [
    "append_latent", "attention", "cross_entropy", "describe", "experts", "gather_latent", "linear", "mla_decode",
    "rms_norm", "rotate", "route", "swiglu", "use",
]  # fmt: skip


def rms_norm(x: Float[Tensor, "*tokens dim"], weight: Float[Tensor, "dim"], eps: float) -> Float[Tensor, "*tokens dim"]:
    """`weight * x / sqrt(mean(x^2) + eps)`, computed in float32, returned in x's dtype."""
    return pick("rms_norm", x, weight)(x, weight, eps)


def linear(
    x: Float[Tensor, "tokens dim"],
    weight: Float[Tensor, "out dim"],
    scale: Float[Tensor, "out_blocks dim_blocks"] | None = None,
) -> Float[Tensor, "tokens out"]:
    """`x @ weight.T` in x's dtype; an E4M3 weight is multiplied by its scale, one per 128x128 block (V3, 3.3.2)."""
    return pick("linear", x, weight)(x, weight, scale)


def rotate(
    x: Float[Tensor, "tokens heads rope"],
    cos: Float[Tensor, "tokens half_rope"],
    sin: Float[Tensor, "tokens half_rope"],
) -> Float[Tensor, "tokens heads rope"]:
    """Rotary embedding on neighbouring pairs (x0, x1), (x2, x3), ...: the layout of DeepSeek's checkpoints."""
    return pick("rotate", x)(x, cos, sin)


def attention(
    q: Float[Tensor, "queries heads qk_dim"],
    k: Float[Tensor, "keys heads qk_dim"],
    v: Float[Tensor, "keys heads v_dim"],
    query_lengths: Sequence[int],
    key_lengths: Sequence[int],
    scale: float,
) -> Float[Tensor, "queries heads v_dim"]:
    """Causal attention of each sequence to itself alone (the expanded form of MLA).

    A sequence's queries are its last `query_length` tokens: query i of n sees keys 0 .. key_length - n + i.
    """
    return pick("attention", q, k, v)(q, k, v, query_lengths, key_lengths, scale)


def append_latent(
    latent_pages: Float[Tensor, "pages page_tokens latent"],
    rope_pages: Float[Tensor, "pages page_tokens rope"],
    latent: Float[Tensor, "tokens latent"],
    rope: Float[Tensor, "tokens rope"],
    slots: Int[Tensor, "tokens"],
) -> None:
    """Write each token's normalised latent and rotated key into its slot (page * page_tokens + offset), in place."""
    pick("append_latent", latent)(latent_pages, rope_pages, latent, rope, slots)


def gather_latent(
    latent_pages: Float[Tensor, "pages page_tokens latent"],
    rope_pages: Float[Tensor, "pages page_tokens rope"],
    page_table: Int[Tensor, "sequences table"],
    lengths: Sequence[int],
) -> tuple[Float[Tensor, "keys latent"], Float[Tensor, "keys rope"]]:
    """Latents and rotated keys of the first `length` tokens of each sequence, laid end to end."""
    return pick("gather_latent", latent_pages)(latent_pages, rope_pages, page_table, lengths)


def mla_decode(
    q_latent: Float[Tensor, "sequences heads latent"],
    q_rope: Float[Tensor, "sequences heads rope"],
    latent_pages: Float[Tensor, "pages page_tokens latent"],
    rope_pages: Float[Tensor, "pages page_tokens rope"],
    page_table: Int[Tensor, "sequences table"],
    lengths: Sequence[int],
    scale: float,
) -> Float[Tensor, "sequences heads latent"]:
    """One query token per sequence over its paged latents (the absorbed form of MLA); the newest key is its own.

    score = (q_latent . latent + q_rope . rope) * scale; returns sum of softmax(score) * latent, per head.
    Source: DeepSeek-V2, arXiv:2405.04434, section 2.1.2 and appendix C.
    """
    return pick("mla_decode", q_latent, q_rope)(q_latent, q_rope, latent_pages, rope_pages, page_table, lengths, scale)


def swiglu(gate: Float[Tensor, "*tokens inner"], up: Float[Tensor, "*tokens inner"]) -> Float[Tensor, "*tokens inner"]:
    """`silu(gate) * up`."""
    return pick("swiglu", gate, up)(gate, up)


def route(
    affinity: Float[Tensor, "tokens experts"],
    bias: Float[Tensor, "experts"] | None,
    *,
    top_k: int,
    n_group: int,
    topk_group: int,
    group_score: str,
    normalise: bool,
    scaling: float,
    ids: Int[Tensor, "tokens chosen"] | None = None,
) -> tuple[Int[Tensor, "tokens chosen"], Float[Tensor, "tokens chosen"]]:
    """Choose experts by `affinity + bias` inside the best groups; weigh them by `affinity` alone.

    A group scores the sum of its two best experts ("top2", V3) or its best one ("max", V2); experts of other groups
    are masked with -inf. Weights: affinity of the chosen, divided by their sum if `normalise`, times `scaling`.
    Ids come in descending order of choice score, ties to the lower id.

    Args:    affinity: sigmoid (V3) or softmax (V2) of the router's logits, float32. ids: experts chosen elsewhere,
             only to be weighed (replay).
    Source:  DeepSeek-V3, arXiv:2412.19437, eq. 12-16; the -inf mask as in the released model code.
    """
    return pick("route", affinity)(
        affinity, bias, top_k=top_k, n_group=n_group, topk_group=topk_group, group_score=group_score,
        normalise=normalise, scaling=scaling, ids=ids,
    )  # fmt: skip


def experts(
    x: Float[Tensor, "tokens dim"],
    ids: Int[Tensor, "tokens chosen"],
    weights: Float[Tensor, "tokens chosen"],
    gate_up: Float[Tensor, "experts 2 inner dim"],
    down: Float[Tensor, "experts dim inner"],
    gate_up_scale: Float[Tensor, "experts 2 inner_blocks dim_blocks"] | None = None,
    down_scale: Float[Tensor, "experts dim_blocks inner_blocks"] | None = None,
) -> Float[Tensor, "tokens dim"]:
    """Sum over each token's chosen experts of weight * down(silu(gate x) * (up x)), added in slot order in float32.

    An id below 0 or beyond the experts held here adds nothing: it belongs to another rank. Scales come with E4M3
    weights, as in `linear`.
    """
    return pick("experts", x, weights, gate_up, down)(x, ids, weights, gate_up, down, gate_up_scale, down_scale)


def cross_entropy(
    logits: Float[Tensor, "tokens vocabulary"], targets: Int[Tensor, "tokens"]
) -> Float[Tensor, "tokens"]:
    """Negative log-probability of each target, in float32 [nats]."""
    return pick("cross_entropy", logits)(logits, targets)
