"""A Transformer that computes one token at a time, so that each token's bits are its own.

Plain torch picks another order of sums for another number of rows. Here every product has one row, attention one
sequence with as many keys as the token's position says: nothing else can matter. It is what a machine without native
kernels serves with in exact mode, and it is as slow as it sounds.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from fathom.config import ModelConfig
from fathom.model.answer import InTwoCalls
from fathom.model.cache import Batch, LatentCache
from fathom.model.transformer import Transformer


class OneAtATime(InTwoCalls):
    """Stands in for `model` wherever one generates."""

    def __init__(self, model: Transformer) -> None:
        self.model = model.eval()
        self.config: ModelConfig = model.config
        self.compute_dtype = model.compute_dtype
        self.device = model.device
        self.mtp_modules = model.mtp_modules
        self.numerics = f"{model.numerics}, one token at a time"

    def eval(self) -> OneAtATime:
        """Itself."""
        return self

    def forward(self, tokens: Tensor, batch: Batch, cache: LatentCache) -> Tensor:
        """As Transformer.forward, with a cache."""
        return torch.cat([self.model(tokens[i], one, cache) for i, one in self._each(batch, cache)])

    __call__ = forward

    def logits(self, hidden: Tensor) -> Tensor:
        """As Transformer.logits."""
        return torch.cat([self.model.logits(row[None]) for row in hidden])

    def predict_ahead(
        self, hidden: Tensor, next_tokens: Tensor, batch: Batch, cache: LatentCache, depth: int = 0
    ) -> Tensor:
        """As Transformer.predict_ahead, with a cache."""
        ahead = self.model.predict_ahead
        return torch.cat([ahead(hidden[i], next_tokens[i], one, cache, depth) for i, one in self._each(batch, cache)])

    def _each(self, batch: Batch, cache: LatentCache) -> Iterator[tuple[slice, Batch]]:
        """(rows, their Batch) of every token by itself, in order."""
        assert batch.page_table is not None, "one token at a time needs a paged Batch"
        row = 0
        for pages, count, context in zip(
            batch.page_table.tolist(), batch.query_lengths, batch.context_lengths, strict=True
        ):
            for before in range(context, context + count):
                yield slice(row, row + 1), Batch.paged([1], [before], [pages], cache.page_tokens, device=self.device)
                row += 1
