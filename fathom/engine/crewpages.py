"""Pages of a crew as one process would have them: put together from its stages, and cut up among its ranks.

All ranks of a lane's stage hold the same latents, so any of them can say what is in a page, and all must be told.
"""

from __future__ import annotations

import queue
from itertools import count

from fathom.engine import orders
from fathom.engine.crew import Crew
from fathom.errors import WorkerError


class CrewPages:
    """The content of pages, by lane and number."""

    def __init__(self, crew: Crew) -> None:
        self._crew, self._questions = crew, count()
        self._asked: dict[int, queue.SimpleQueue[orders.Fetched]] = {}
        crew.on_fetched = self._hear

    def write(self, lane: int, page: int, content: bytes) -> None:
        """Fill a page before the next step. Between steps only. Raises: WorkerError: a rank is lost."""
        order = orders.Fill(page, content)
        for stage in range(self._crew.layout.pp):
            first = self._crew.place(lane, stage)
            for rank in range(first, first + self._crew.layout.tp):
                self._crew.fill(rank, order)

    def read(self, lane: int, page: int) -> bytes:
        """A page that nobody writes into; from any thread, also during a step. Raises: WorkerError: no answer comes."""
        parts = [self._part(self._crew.place(lane, stage), page) for stage in range(self._crew.layout.pp)]
        return b"".join([part.latent for part in parts] + [part.rope for part in parts])

    def _part(self, rank: int, page: int) -> orders.Fetched:
        number, answer = next(self._questions), queue.SimpleQueue[orders.Fetched]()
        self._asked[number] = answer
        try:
            own = self._crew.fetch(rank, orders.Fetch(number, page))
            return own or answer.get(timeout=self._crew.config.timeout_s)
        except (OSError, queue.Empty) as error:
            raise WorkerError(f"rank {rank} does not say what is in page {page}") from error
        finally:
            del self._asked[number]

    def _hear(self, fetched: orders.Fetched) -> None:
        if (asked := self._asked.get(fetched.number)) is not None:  # else it came too late
            asked.put(fetched)
