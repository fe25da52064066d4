"""Pages of a crew as one process would have them: put together from its stages, and cut up among its ranks.

All ranks of a lane's stage hold the same latents, so any of them can say what is in a page, and all must be told.
"""

from __future__ import annotations

import queue
from collections.abc import Mapping
from itertools import count

from fathom.engine import orders
from fathom.engine.part import Part
from fathom.errors import WorkerError
from fathom.parallel.control import Link


class CrewPages:
    """The content of pages, by lane and number. Args: own: the leader's part. links: to all other ranks."""

    def __init__(self, own: Part, links: Mapping[int, Link], timeout_s: float) -> None:
        self._own, self._links, self._timeout_s = own, links, timeout_s
        self._layout, self._questions = own.shard.layout, count()
        self._asked: dict[int, queue.SimpleQueue[orders.Fetched]] = {}

    def write(self, lane: int, page: int, content: bytes) -> None:
        """Fill a page before the next step. Between steps only. Raises: WorkerError: a rank is lost."""
        order = orders.Fill(page, content)
        frame = orders.pack(order)
        for first in self._stages(lane):
            for rank in range(first, first + self._layout.tp):
                if rank == 0:
                    self._own.fill(order)
                    continue
                try:
                    self._links[rank].send(frame)
                except OSError as error:
                    raise WorkerError(f"rank {rank} takes no orders: {error}") from error

    def read(self, lane: int, page: int) -> bytes:
        """A page that nobody writes into; from any thread, also during a step. Raises: WorkerError: no answer comes."""
        parts = [self._part(rank, page) for rank in self._stages(lane)]
        return b"".join([part.latent for part in parts] + [part.rope for part in parts])

    def hear(self, fetched: orders.Fetched) -> None:
        """A rank says what is in a page."""
        if (asked := self._asked.get(fetched.number)) is not None:  # else it came too late
            asked.put(fetched)

    def _stages(self, lane: int) -> list[int]:
        """The first rank of each of its stages."""
        return [(stage * self._layout.dp + lane) * self._layout.tp for stage in range(self._layout.pp)]

    def _part(self, rank: int, page: int) -> orders.Fetched:
        number, answer = next(self._questions), queue.SimpleQueue[orders.Fetched]()
        order = orders.Fetch(number, page)
        if rank == 0:
            return self._own.place.fetch(order)
        self._asked[number] = answer
        try:
            self._links[rank].send(orders.pack(order))
            return answer.get(timeout=self._timeout_s)
        except (OSError, queue.Empty) as error:
            raise WorkerError(f"rank {rank} does not say what is in page {page}") from error
        finally:
            del self._asked[number]
