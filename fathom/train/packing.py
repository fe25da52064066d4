"""Documents laid end to end in rows of at most so many tokens: what a step reads, and how it is chosen, epoch by epoch.

A document does not see its neighbours, and nothing pads a row: one that is not full is shorter.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random

import torch
from torch import Tensor

from fathom.errors import InputError

#: Token ids of what is read, and of what shall follow it: loss is taken on the second part.
Document = tuple[Sequence[int], Sequence[int]]


@dataclass(frozen=True)
class Packed:
    """Rows of documents, end to end: tokens int64 [tokens]; counted bool [tokens]: is loss taken on predicting it?

    lengths: tokens of each document. rows: how many rows they make. row_lengths: tokens of each row; () if all have
    the same number.
    """

    tokens: Tensor
    counted: Tensor
    lengths: tuple[int, ...]
    rows: int
    row_lengths: tuple[int, ...] = ()


def pack(rows: Sequence[Sequence[Document]]) -> Packed:
    """The documents of each row, laid end to end."""
    tokens: list[int] = []
    counted: list[bool] = []
    for prompt, answer in (document for row in rows for document in row):
        tokens += [*prompt, *answer]
        counted += [False] * len(prompt) + [True] * len(answer)
    lengths = [[len(prompt) + len(answer) for prompt, answer in row] for row in rows]
    per_row = tuple(map(sum, lengths))
    return Packed(
        torch.tensor(tokens, dtype=torch.int64), torch.tensor(counted, dtype=torch.bool), tuple(sum(lengths, [])),
        len(rows), per_row if len(set(per_row)) > 1 else (),
    )  # fmt: skip


def best_fit(lengths: Sequence[int], room: int, order: Iterable[int] | None = None) -> list[list[int]]:
    """Rows of indices into `lengths`: longest first, each into the fullest row that it fits in (best-fit decreasing).

    How many rows come out depends on the lengths alone, not on the order of the equally long.

    Args:    room: tokens of a row. order: in which documents of one length are taken; as given if None.
    Raises:  InputError: a document does not fit in a row.
    """
    rows: list[list[int]] = []
    with_room: dict[int, list[int]] = defaultdict(list)  # tokens left -> rows that have so many
    rooms: list[int] = []  # the keys of with_room, ascending
    for index in sorted(range(len(lengths)) if order is None else order, key=lambda i: -lengths[i]):
        length = lengths[index]
        if length > room:
            raise InputError(f"a document has {length} tokens; a row has room for {room}. Leave it out.")
        place = bisect_left(rooms, length)
        if place == len(rooms):
            left, row = room, len(rows)
            rows.append([])
        else:
            left = rooms[place]
            row = with_room[left].pop()
            if not with_room[left]:
                del with_room[left], rooms[place]
        rows[row].append(index)
        left -= length
        if left:
            if left not in with_room:
                insort(rooms, left)
            with_room[left].append(row)
    return rows


class Epochs:
    """Which documents a step reads: every one once an epoch, packed and shuffled anew; a function of (seed, step).

    The rows of an epoch are divided among ceil(rows of the epoch / rows) steps as evenly as can be, so that no step is
    much smaller than the others and no step straddles two epochs.
    """

    def __init__(self, lengths: Sequence[int], row_tokens: int, rows: int, epochs: int, seed: int) -> None:
        self.lengths, self.row_tokens, self.seed = lengths, row_tokens, seed
        self.rows = len(best_fit(lengths, row_tokens))
        self.steps_per_epoch = -(-self.rows // rows)
        self.steps = self.steps_per_epoch * epochs
        self._epoch = lru_cache(maxsize=2)(self._shuffled)

    def step(self, step: int) -> list[list[int]]:
        """Document indices of each row of a step."""
        epoch, part = divmod(step, self.steps_per_epoch)
        first, end = (self.rows * i // self.steps_per_epoch for i in (part, part + 1))
        return self._epoch(epoch)[first:end]

    def _shuffled(self, epoch: int) -> list[list[int]]:
        rng = Random(f"{self.seed}/epoch/{epoch}")
        order = list(range(len(self.lengths)))
        rng.shuffle(order)
        rows = best_fit(self.lengths, self.row_tokens, order)
        for row in rows:
            rng.shuffle(row)
        rng.shuffle(rows)
        return rows
