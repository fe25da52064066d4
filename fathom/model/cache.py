"""What one forward works on: the latent cache, and the Batch that says which tokens are where."""

from __future__ import annotations

import math
import mmap
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from fathom.config import ModelConfig


class LatentCache:
    """Pages of latents and rotated keys, per layer: all that attention keeps of a token (V3, section 2.1.1).

    Shapes: latent [layers, pages, page_tokens, kv_lora_rank], rope [layers, pages, page_tokens, qk_rope_head_dim].
    Layers include the MTP modules when `mtp` is true; a stage of a pipeline has `layers` of its own.
    """

    def __init__(
        self, config: ModelConfig, num_pages: int, page_tokens: int, *, dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None, mtp: bool = False, layers: int | None = None,
    ) -> None:  # fmt: skip
        if layers is None:
            layers = config.num_hidden_layers + (config.num_nextn_predict_layers if mtp else 0)
        pages = (layers, num_pages, page_tokens)
        self.latent = _zeros((*pages, config.kv_lora_rank), dtype, device)
        self.rope = _zeros((*pages, config.qk_rope_head_dim), dtype, device)
        self.page_tokens = page_tokens

    @property
    def nbytes(self) -> int:
        """Bytes held [B]."""
        return self.latent.nbytes + self.rope.nbytes

    @property
    def page_bytes(self) -> int:
        """Bytes of one page, over all layers [B]."""
        return self.nbytes // self.latent.shape[1]

    def page(self, index: int) -> tuple[Tensor, Tensor]:
        """All that is kept of one page's tokens, as views [layers, page_tokens, ...]."""
        return self.latent[:, index], self.rope[:, index]

    def copy_pages(self, moves: Sequence[tuple[int, int]]) -> None:
        """Copy pages (from, to), as if all at once."""
        sources, targets = torch.tensor(moves, dtype=torch.int64, device=self.latent.device).unbind(1)
        self.latent[:, targets] = self.latent[:, sources]
        self.rope[:, targets] = self.rope[:, sources]


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device | str | None) -> Tensor:
    """Zeros that take memory once they are written: a server has room for many contexts, and most stay short."""
    if torch.device(device or "cpu").type != "cpu" or 0 in shape:
        return torch.zeros(*shape, dtype=dtype, device=device)
    held = mmap.mmap(-1, math.prod(shape) * dtype.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(held, dtype=dtype).view(shape)


@dataclass
class Routing:
    """A recorder: which experts each MoE layer chose, and the affinities it chose from. For balance and for looking.

    With `replay` a Transformer is told what to choose, layer by layer: what the kernels of a PackedTransformer chose,
    which record `ids` and no affinities.
    """

    replay: dict[int, Tensor] = field(default_factory=dict)  # layer -> int64 [tokens, chosen]
    ids: dict[int, Tensor] = field(default_factory=dict)  # layer -> int [tokens, chosen]
    affinity: dict[int, Tensor] = field(default_factory=dict)  # layer -> float [tokens, experts]

    def add(self, layer: int, ids: Tensor, affinity: Tensor) -> None:
        self.ids[layer] = ids
        self.affinity[layer] = affinity

    def counts(self, experts: int) -> dict[int, Tensor]:
        """Tokens each expert received, per layer [experts]."""
        return {layer: torch.bincount(ids.flatten(), minlength=experts) for layer, ids in self.ids.items()}


@dataclass(frozen=True)
class Batch:
    """Where the tokens of one forward belong. Tokens of all sequences lie end to end, in the order given here.

    positions: int64 [tokens], absolute. query_lengths: new tokens of each sequence. context_lengths: tokens of each
    sequence that are in the cache already. page_table: int32 [sequences, pages], of pages of `page_tokens` each.
    """

    positions: Tensor
    query_lengths: tuple[int, ...]
    context_lengths: tuple[int, ...]
    page_table: Tensor | None = None
    page_tokens: int = 0
    routing: Routing | None = None

    @staticmethod
    def packed(
        lengths: Sequence[int], *, device: torch.device | str | None = None, routing: Routing | None = None
    ) -> Batch:
        """Whole sequences without a cache: training, scoring."""
        positions = torch.cat([torch.arange(n) for n in lengths]).to(device)
        return Batch(positions, tuple(lengths), (0,) * len(lengths), routing=routing)

    @staticmethod
    def paged(
        query_lengths: Sequence[int], context_lengths: Sequence[int], page_table: Sequence[Sequence[int]],
        page_tokens: int, *, device: torch.device | str | None = None,
    ) -> Batch:  # fmt: skip
        """New tokens that follow what the pages hold already."""
        width = max(map(len, page_table))
        table, positions = array("i"), array("q")
        for count, context, pages in zip(query_lengths, context_lengths, page_table, strict=True):
            table.extend(pages)
            table.extend([0] * (width - len(pages)))
            positions.extend(range(context, context + count))
        return Batch(
            int_tensor(positions, device), tuple(query_lengths), tuple(context_lengths),
            int_tensor(table, device).view(-1, width), page_tokens,
        )  # fmt: skip

    @cached_property
    def slots(self) -> Tensor:
        """Where each token's latent goes, page * page_tokens + offset, int64 [tokens]."""
        assert self.page_table is not None, "a forward with a cache needs a paged Batch"
        lengths = torch.tensor(self.query_lengths, device=self.positions.device)
        owner = torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths)
        size = self.page_tokens
        return self.page_table[owner, self.positions // size].long() * size + self.positions % size

    @property
    def key_lengths(self) -> tuple[int, ...]:
        """Tokens of each sequence after this forward."""
        return tuple(c + n for c, n in zip(self.context_lengths, self.query_lengths, strict=True))

    @cached_property
    def decoding(self) -> Part:
        """Sequences with one new token: they attend in the absorbed form."""
        return self._part([i for i, n in enumerate(self.query_lengths) if n == 1])

    @cached_property
    def reading(self) -> Part:
        """Sequences with several new tokens: they attend in the expanded form."""
        return self._part([i for i, n in enumerate(self.query_lengths) if n > 1])

    def _part(self, members: list[int]) -> Part:
        assert self.page_table is not None, "only a paged Batch has parts"
        device = self.positions.device
        chosen = torch.zeros(len(self.query_lengths), dtype=torch.bool)
        chosen[members] = True
        rows = chosen.repeat_interleave(torch.tensor(self.query_lengths)).nonzero()[:, 0].to(device)
        keys = self.key_lengths
        return Part(
            rows,
            self.page_table[torch.tensor(members, dtype=torch.long, device=device)],
            tuple(self.query_lengths[i] for i in members),
            tuple(keys[i] for i in members),
        )


def int_tensor(values: array[int], device: torch.device | str | None = None) -> Tensor:
    """The numbers of an array, int32 for code "i" and int64 for "q". A tensor from a list takes four times as long."""
    held = torch.frombuffer(values, dtype=torch.int32 if values.typecode == "i" else torch.int64)
    return held if device is None else held.to(device)


def take_rows(x: Tensor, rows: array[int], device: torch.device | str | None = None) -> Tensor:
    """x[rows], but a view where that is one row or all of them: the usual cases, and indexing costs 10 us."""
    if len(rows) == 1:
        return x[rows[0] : rows[0] + 1]
    if rows == array("q", range(x.shape[0])):
        return x
    return x[int_tensor(rows, device)]


@dataclass(frozen=True)
class Part:
    """Some sequences of a Batch: the rows of their tokens, their pages, their lengths."""

    rows: Tensor
    page_table: Tensor
    query_lengths: tuple[int, ...]
    key_lengths: tuple[int, ...]
