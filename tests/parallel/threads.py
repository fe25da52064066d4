"""Ranks as threads of one process: the groups that fathom/parallel/comm.py asks, in memory."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from queue import Queue
from typing import Any

import pytest
import torch
from torch import Tensor

from fathom.layout import Layout
from fathom.parallel.groups import Groups, ep_ranks, tp_ranks

PATIENCE_S = 10.0


class Board:
    """A group of threads: each leaves something, waits for the others, and sees what all have left."""

    def __init__(self, ranks: range) -> None:
        self.ranks, self._left = ranks, [None] * len(ranks)
        self._barrier = threading.Barrier(len(ranks))
        self.asked: list[str] = []  # by the first of them

    def swap(self, what: str, value: Any) -> list[Any]:
        place = self.place
        self._left[place] = (what, value)
        self._barrier.wait(PATIENCE_S)
        seen = list(self._left)
        if place == 0:
            self.asked.append(what)
        self._barrier.wait(PATIENCE_S)
        assert len({what for what, _ in seen}) == 1, f"ranks ask different things: {[what for what, _ in seen]}"
        return [value for _, value in seen]

    def gather(self, own: Tensor) -> Tensor:
        return torch.stack(self.swap("gather", own.clone()))

    def exchange(self, to: Tensor, rows: Tensor, incoming: Sequence[int], outgoing: Sequence[int]) -> None:
        assert (len(to), len(rows)) == (sum(incoming), sum(outgoing)), "sizes and rows differ"
        parts = [given[self.place] for given in self.swap("exchange", rows.clone().split(list(outgoing)))]
        assert [len(part) for part in parts] == list(incoming), "what one expects is not what the others send"
        to.copy_(torch.cat(parts))

    def give_up(self) -> None:
        self._barrier.abort()

    @property
    def place(self) -> int:
        return self.ranks.index(_thread.rank)


class World:
    """Every group of a layout, and the connections between its stages."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.boards: dict[tuple[str, int], Board] = {}
        self._stage = layout.dp * layout.tp

    def groups(self, rank: int) -> Groups:
        before, after = rank - self._stage, rank + self._stage
        return Groups(
            self._board("tp", tp_ranks(self.layout, rank)),
            self._board("ep", ep_ranks(self.layout, rank)),
            before if before >= 0 else None,
            after if after < self.layout.world_size else None,
        )

    def _board(self, kind: str, ranks: range) -> Board | None:
        return None if len(ranks) == 1 else self.boards.setdefault((kind, ranks.start), Board(ranks))

    def run(self, work: Callable[[int, Groups], Any]) -> list[Any]:
        """What `work` gives on each rank; the first error that is not that another rank has failed."""
        groups = [self.groups(rank) for rank in range(self.layout.world_size)]
        found: list[Any] = [None] * len(groups)
        errors: list[BaseException] = []

        def one(rank: int) -> None:
            _thread.rank = rank
            try:
                with torch.inference_mode():
                    found[rank] = work(rank, groups[rank])
            except BaseException as error:
                errors.append(error)
                for board in self.boards.values():
                    board.give_up()

        threads = [threading.Thread(target=one, args=(rank,), daemon=True) for rank in range(len(groups))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(2 * PATIENCE_S)
        own = [error for error in errors if not isinstance(error, threading.BrokenBarrierError)]
        for error in (own or errors)[:1]:
            raise error
        assert not any(thread.is_alive() for thread in threads), "a rank hangs"
        return found


class InMemory:
    """The functions of torch.distributed that comm.py itself uses."""

    def __init__(self) -> None:
        self._between: defaultdict[tuple[int, int], Queue[Tensor]] = defaultdict(Queue)

    def send(self, x: Tensor, to: int) -> None:
        self._between[_thread.rank, to].put(x.clone())

    def recv(self, x: Tensor, source: int) -> None:
        x.copy_(self._between[source, _thread.rank].get(timeout=PATIENCE_S))


_thread = threading.local()


@pytest.fixture
def in_memory(monkeypatch: pytest.MonkeyPatch) -> InMemory:
    """comm.py talks to threads."""
    stand_in = InMemory()
    monkeypatch.setattr("fathom.parallel.comm.dist", stand_in)
    return stand_in
