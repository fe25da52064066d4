"""A worker's dealings with other workers: prompts whose pages it fetches before, and pages that it lends after.

    begin   a batch of requests arrives, some with `prefix_from`: fetch their pages in a thread, and keep them back
    work    between two steps: take in what has arrived, free what is no longer lent, hand over who is ready
    lend    after a step: requests with `lends_prefix` have ended; hold their pages and say where they are

All methods are for the engine's thread. Fetching has a deadline and never delays a step by more than AT_ONCE pages; a
request whose pages do not come is computed like any other, which is logged and counted. Lending holds at most half of
the cache, and gives way where requests could not begin without those pages.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import msgspec

from fathom.batching.leases import Patience
from fathom.batching.pages import PageFormat
from fathom.batching.request import Output, PrefixSource, Request
from fathom.errors import ConfigError
from fathom.serve.borrower import decline, fetch
from fathom.serve.lender import Lender, Through
from fathom.serve.transfer_messages import TransferError

log = logging.getLogger(__name__)

AT_ONCE = 8  # pages taken in between two steps
MOST_LENT = 0.5  # of the cache


class Store(Protocol):
    """What it needs of an engine's pages (fathom.engine.transfer.PageStore)."""

    @property
    def form(self) -> PageFormat: ...

    @property
    def num_pages(self) -> int: ...

    @property
    def room(self) -> int: ...

    @property
    def starving(self) -> bool: ...

    def names(self, token_ids: Sequence[int], salt: str = "") -> list[bytes]: ...

    def place(self, request: Request) -> int: ...

    def forget(self, request_id: str) -> None: ...

    def missing(self, names: Sequence[bytes], place: int) -> list[bytes]: ...

    def hold(self, names: Sequence[bytes]) -> tuple[int, ...]: ...

    def release(self, pages: Sequence[int]) -> None: ...

    def read(self, page: int) -> bytes: ...

    def take_in(self, name: bytes, content: bytes, place: int) -> bool: ...

    def refresh(self, names: Sequence[bytes]) -> None: ...


@dataclass(frozen=True)
class Wanted:
    """The pages of one prompt, at one source. names: of all its full pages; missing: those to fetch, to this place."""

    source: PrefixSource
    names: list[bytes]
    missing: list[bytes]
    place: int


@dataclass
class Fetching:
    """Requests that wait for their pages. room: pages it may still take in."""

    requests: dict[str, Request]
    wanted: list[Wanted]
    room: int
    arrived: queue.Queue[tuple[bytes, bytes, int]] = field(default_factory=lambda: queue.Queue(AT_ONCE))
    given_up: threading.Event = field(default_factory=threading.Event)
    done: threading.Event = field(default_factory=threading.Event)


def read_address(text: str | None) -> tuple[str, int] | None:
    """HOST and port of HOST:PORT. Raises: ConfigError: it is no such thing."""
    if text is None:
        return None
    host, _, port = text.rpartition(":")
    if not host.strip("[]") or not port.isdecimal():
        raise ConfigError(f"transfer is {text!r}; it must be HOST:PORT, as other workers reach this one.")
    return host.strip("[]"), int(port)


class PageExchange:
    """Both sides of one worker.

    Args: wake: called, from any thread, when `work` has something to do. address: where to lend pages; None: nowhere.
    """

    def __init__(
        self, store: Store, wake: Callable[[], None], address: tuple[str, int] | None = None,
        patience: Patience | None = None, through: Through | None = None,
    ) -> None:  # fmt: skip
        self.patience = patience or Patience()
        self._store, self._wake = store, wake
        self.lender = None if address is None else Lender(store, address, wake, self.patience, through)
        self.fetched = self.fetched_bytes = self.whole = self.failed = 0
        self._fetching: list[Fetching] = []
        self._lending: dict[str, Request] = {}

    @property
    def waiting(self) -> int:
        """Requests whose pages are on their way."""
        return sum(len(each.requests) for each in self._fetching)

    def begin(self, requests: Sequence[Request]) -> bool:
        """Take these requests on; False: nothing to fetch, add them to the engine now."""
        self._lending |= {request.id: request for request in requests if request.lends_prefix}
        wanted = [each for request in requests if (each := self._wanted(request)) is not None]
        if not wanted:
            return False
        room = self._store.room
        fetching = Fetching({request.id: request for request in requests}, wanted, room)
        self._fetching.append(fetching)
        form = self._store.form  # here: the first time it takes a forward, which is for this thread to do
        threading.Thread(target=self._fetch, args=(fetching, form), name="page fetcher", daemon=True).start()
        return True

    def abort(self, request_id: str) -> None:
        """It is not wanted any more."""
        self._lending.pop(request_id, None)
        self._store.forget(request_id)
        for fetching in self._fetching:
            fetching.requests.pop(request_id, None)
            if not fetching.requests:
                fetching.given_up.set()

    def work(self) -> list[tuple[Request, ...]]:
        """Take in up to AT_ONCE pages, free those that are lent no more; batches that have all they will get."""
        if self.lender is not None:
            if self._store.starving:
                self.lender.withdraw_oldest()
            self._free()
        left = AT_ONCE
        for fetching in self._fetching:
            while left and not fetching.arrived.empty():
                self._take_in(fetching, *fetching.arrived.get_nowait())
                left -= 1
        ready = [each for each in self._fetching if each.done.is_set() and each.arrived.empty()]
        for fetching in ready:
            self._fetching.remove(fetching)
            for wanted in fetching.wanted:
                self._store.refresh(wanted.names)
        if not left:
            self._wake()  # there may be more
        return [tuple(fetching.requests.values()) for fetching in ready if fetching.requests]

    def lend(self, outputs: Sequence[Output]) -> list[Output]:
        """The outputs of a step; with those of requests that lend their prefix goes where it can be had."""
        return [self._lent(output) if output.finish_reason is not None else output for output in outputs]

    def stats(self) -> dict[str, Any]:
        """What `messages.Stats` tells of it."""
        counts: dict[str, Any] = {
            "fetched_pages": self.fetched,
            "fetched_bytes": self.fetched_bytes,
            "fetches": self.whole,
            "failed_fetches": self.failed,
        }
        if self.lender is not None:
            counts |= {"leases": self.lender.counts, "leased_pages": self.lender.pages}
        return counts

    def close(self) -> None:
        """Stop fetching, end all leases, listen no more."""
        for fetching in self._fetching:
            fetching.given_up.set()
            for request_id in fetching.requests:
                self._store.forget(request_id)
        if self.lender is not None:
            self.lender.close()
            while self.lender.withdraw_oldest():
                pass
            self._free()

    def _free(self) -> None:
        for pages in self.lender.freed() if self.lender is not None else ():
            self._store.release(pages)

    def _wanted(self, request: Request) -> Wanted | None:
        if request.prefix_from is None:
            return None
        names = self._store.names(request.prompt_token_ids, request.cache_salt)
        place = self._store.place(request)
        missing = self._store.missing(names, place)[: self._store.room]
        if missing:
            return Wanted(request.prefix_from, names, missing, place)
        threading.Thread(target=decline, args=(request.prefix_from, self.patience), daemon=True).start()
        return None

    def _take_in(self, fetching: Fetching, name: bytes, content: bytes, place: int) -> None:
        if fetching.room and not fetching.given_up.is_set() and self._store.take_in(name, content, place):
            fetching.room -= 1
            self.fetched += 1
            self.fetched_bytes += len(content)

    def _lent(self, output: Output) -> Output:
        request = self._lending.pop(output.request_id, None)
        if request is None or self.lender is None or output.finish_reason != "length":
            return output
        names = self._store.names(request.prompt_token_ids, request.cache_salt)
        most = int(MOST_LENT * self._store.num_pages)
        while self.lender.pages + len(names) > most and self.lender.withdraw_oldest():
            pass
        self._free()
        pages = self._store.hold(names[:most])
        if not pages:
            return output
        return msgspec.structs.replace(output, prefix=self.lender.offer(names[: len(pages)], pages))

    # -- the fetching thread ---------------------------------------------------------------------------------------

    def _fetch(self, fetching: Fetching, form: PageFormat) -> None:
        until_s = time.monotonic() + self.patience.pull_s

        def deliver(place: int, name: bytes, content: bytes) -> None:
            while not fetching.given_up.is_set() and time.monotonic() < until_s:
                try:
                    fetching.arrived.put((name, content, place), timeout=0.1)
                except queue.Full:
                    continue
                self._wake()
                return
            raise TransferError("the request was aborted" if fetching.given_up.is_set() else "the engine was too busy")

        for wanted in fetching.wanted:
            try:
                lost = fetch(wanted.source, wanted.missing, form, partial(deliver, wanted.place), self.patience)
            except TransferError as error:
                lost = len(wanted.missing)
                log.warning("pages of %s do not come, they are computed here: %s", wanted.source.lease, error)
            else:
                if lost:
                    log.warning("%d pages of %s are not there, they are computed here", lost, wanted.source.lease)
            self.failed += lost > 0
            self.whole += lost == 0
        fetching.done.set()
        self._wake()
