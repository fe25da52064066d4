"""States and, of some of them, logits: what a step of generation wants of a model."""

from __future__ import annotations

from array import array
from typing import Any

from torch import Tensor

from fathom.model.cache import Batch, LatentCache, take_rows
from fathom.ops.packed import Best

Answer = tuple[Tensor, Tensor, Best | None]
"""Hidden states [tokens, hidden], logits [rows, vocabulary], and where these are highest if that is known already."""


class InTwoCalls:
    """`answer` and `answer_ahead` of a model that has `forward`, `predict_ahead` and `logits`."""

    def answer(self: Any, tokens: Tensor, batch: Batch, cache: LatentCache, rows: array[int]) -> Answer:
        """`forward`, and the logits of some rows of what it gives."""
        hidden = self(tokens, batch, cache)
        return hidden, self.logits(take_rows(hidden, rows, self.device)), None

    def answer_ahead(
        self: Any, hidden: Tensor, next_tokens: Tensor, batch: Batch, cache: LatentCache, depth: int, rows: array[int]
    ) -> Answer:
        """`predict_ahead`, and the logits of some rows of what it gives."""
        hidden = self.predict_ahead(hidden, next_tokens, batch, cache, depth)
        return hidden, self.logits(take_rows(hidden, rows, self.device)), None

    def draft(
        self: Any, hidden: Tensor, next_tokens: Tensor, batch: Batch, cache: LatentCache, rows: array[int], count: int
    ) -> list[list[int]] | None:  # fmt: skip
        """`count` guesses in a row after each of `rows`, the last of every sequence, each where the logits are highest.

        A list for each guess, first that of `answer_ahead`; None: it has no faster way than to be asked one by one.
        """
        return None
