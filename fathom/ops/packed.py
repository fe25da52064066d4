"""A packed model as one op: whole layers in native kernels, because between small ops a CPU mostly waits for Python.

    weights in packed form (packing.py)  ->  open_packed(...)  ->  forward, logits

Every token's numbers are a function of the model and of the token's own sequence: no sum's order depends on the batch,
the chunk, the page size or the number of threads. The definition is fathom.model.Transformer with the same weights
unpacked; tests/agreement compares the two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor

from fathom.config import ModelConfig
from fathom.errors import ConfigError
from fathom.ops.dispatch import library
from fathom.ops.packing import PackedMatrix

MOST_EXPERTS = 1024  # of one layer: what cpu/route.h has room for

Weights = Mapping[str, PackedMatrix | Tensor]
"""Checkpoint name -> weight. Matrices are packed, each head's rows padded to 16, and `kv_b_proj` is two: `k_b_proj`,
per head W_uk transposed (rows latent, columns plain query), and `v_b_proj`, W_uv. Vectors are float32; the router is
packed f32; `model.embed_tokens.weight` is a plain table, float32 or bfloat16."""


Best = tuple[list[int], list[float]]
"""Where each row of logits is highest, the first of equals, and how high; a NaN counts as highest."""


class PackedModel(Protocol):
    """What a backend offers. Not thread-safe: threads and working space are one set."""

    name: str
    threads: int

    def forward(
        self, ids: Tensor, positions: Tensor, lengths: Sequence[int], table: Tensor, latent: Tensor, rope: Tensor,
        *, module: int = -1, before: Tensor | None = None, chosen: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Hidden states after the last norm, float32 [tokens, hidden]; latents are appended to the cache.

        Args:   ids, positions: int64 [tokens]. lengths: new tokens of each sequence. table: int32 [sequences, pages].
                latent, rope: the cache, [layers + modules, pages, page_tokens, ...]. module: an MTP module instead of
                the main model, with `before` [tokens, hidden]. chosen: filled with expert ids, int64 [layers + modules,
                tokens, top_k].
        Raises: IndexError: an id, position or page is out of range; nothing was written.
        """
        ...

    def answer(
        self, ids: Tensor, positions: Tensor, lengths: Sequence[int], table: Tensor, latent: Tensor, rope: Tensor,
        rows: Tensor, *, module: int = -1, before: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Best]:  # fmt: skip
        """`forward`, and `logits` of some `rows` of what it gives, int64 [rows], in one call."""
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """Normed hidden states [rows, hidden] times the head, float32 [rows, vocabulary]."""
        ...

    def space_bytes(self, tokens: int) -> int:
        """Working space of a forward of `tokens` tokens [B]."""
        ...


def open_packed(
    config: ModelConfig, weights: Weights, turn: tuple[Tensor, Tensor], threads: int
) -> PackedModel | None:
    """A packed model on this CPU's kernels; None (said once) if there are none.

    Args:   turn: cosines and sines of the rotary pairs, float32 [positions, rope / 2]. threads: the caller among them.
    Raises: ConfigError: a layer has more experts than the kernels can choose from.
    """
    found = library()
    if found is None:
        return None
    if config.n_routed_experts > MOST_EXPERTS:
        raise ConfigError(
            f"n_routed_experts is {config.n_routed_experts}; the kernels choose from {MOST_EXPERTS} at most. "
            "FATHOM_OPS=reference runs the model without them."
        )
    from fathom.ops.cpu.native import NativeModel

    return NativeModel(config, weights, turn, threads, found)
