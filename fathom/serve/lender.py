"""Who lends: a listening socket and threads that send pages under lease, beside the engine's steps.

The threads only read pages. A page under lease is held, and what is full is never written again, so it can be read
while a step runs. Should the lease end meanwhile, the engine frees its pages between two steps and may write into them;
so what was read counts only if the lease is still alive afterwards. All that the threads and the engine's thread share
is the lease table, behind a lock that nobody holds for longer than a look-up.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from fathom.batching.leases import Lease, LeaseError, LeaseState, LeaseTable, Patience
from fathom.batching.pages import PageFormat, content_digest
from fathom.batching.request import PrefixSource
from fathom.errors import ConfigError, WorkerError
from fathom.serve.messages import Message
from fathom.serve.transfer_messages import (
    MOST_ASKED_BYTES,
    Decline,
    Done,
    Line,
    Page,
    Pull,
    Refused,
    Sent,
    ToLender,
    TransferError,
)

log = logging.getLogger(__name__)

TICK_S = 0.25  # how late the end of a lease may be noticed
MOST_CONNECTIONS = 128
Through = Callable[[Page], Page | None]  # the page to send instead; None hangs up. It may take its time, too.


class Readable(Protocol):
    """What it needs of a PageStore: the two things that any thread may ask."""

    @property
    def form(self) -> PageFormat: ...

    def read(self, page: int) -> bytes: ...


class Lender:
    """Offers leases and serves them.

    Args:   wake: called, from any thread, when `freed` has something. through: what happens to each page on its way;
            for tests of damage, loss and delay.
    Raises: ConfigError: the address cannot be listened on.
    """

    def __init__(
        self, store: Readable, address: tuple[str, int], wake: Callable[[], None], patience: Patience | None = None,
        through: Through | None = None,
    ) -> None:  # fmt: skip
        self.patience = patience or Patience()
        self._store, self._wake, self._through = store, wake, through
        self._form = store.form  # now: it takes a forward, which is for the engine's thread
        self._table, self._lock = LeaseTable(self.patience), threading.Lock()
        try:
            self._listening = socket.create_server(address, backlog=MOST_CONNECTIONS)
        except OSError as error:
            where = f"{address[0]}:{address[1]}"
            raise ConfigError(f"transfer is {where}, which cannot be listened on ({error}); choose another.") from error
        self.address: tuple[str, int] = self._listening.getsockname()[:2]
        self._listening.settimeout(TICK_S)
        self._places = threading.Semaphore(MOST_CONNECTIONS)
        self._closed = False
        threading.Thread(target=self._accept, name="lender", daemon=True).start()

    # -- the engine's thread ---------------------------------------------------------------------------------------

    def offer(self, names: Sequence[bytes], pages: Sequence[int]) -> PrefixSource:
        """Lend pages that are held for this; `freed` gives them back."""
        source = PrefixSource(*self.address, secrets.token_hex(8), secrets.token_hex(16))
        with self._lock:
            self._table.offer(source.lease, source.token, tuple(names), tuple(pages), time.monotonic())
        return source

    def freed(self) -> list[tuple[int, ...]]:
        """Pages of leases that have ended."""
        with self._lock:
            return self._table.freed()

    def withdraw_oldest(self) -> bool:
        """Give up the lease that has lasted longest, its pages being needed; False if there is none."""
        with self._lock:
            for lease in self._table:
                log.warning("lease %s (%s) withdrawn: its pages are needed here", lease.id, lease.state)
                with contextlib.suppress(LeaseError):  # it has just expired
                    self._table.apply("withdraw", lease.id, time.monotonic())
                return True
        return False

    @property
    def pages(self) -> int:
        """Pages under lease."""
        with self._lock:
            return self._table.pages

    @property
    def counts(self) -> dict[str, int]:
        """Leases by state: how many came to be in it, ever; and `live`, now."""
        with self._lock:
            return {str(state): self._table.counts[state] for state in LeaseState} | {"live": len(self._table)}

    def close(self) -> None:
        """Listen no more; leases end with the process."""
        self._closed = True
        self._listening.close()

    # -- the other threads -----------------------------------------------------------------------------------------

    def _accept(self) -> None:
        while not self._closed:
            try:
                self._welcome(*self._listening.accept())
            except TimeoutError:
                pass
            except OSError as error:
                if not self._closed:
                    log.warning("lender: no peer can connect: %s", error)
                    time.sleep(TICK_S)
            with self._lock:
                late = self._table.expire(time.monotonic())
            for lease in late:
                log.warning("lease %s expired: nobody fetched its pages in time", lease.id)
            if late:
                self._wake()

    def _welcome(self, connection: socket.socket, peer: object) -> None:
        if self._places.acquire(blocking=False):
            threading.Thread(target=self._answer, args=(connection, peer), daemon=True).start()
            return
        log.warning("lender: %d peers at once; %s is turned away", MOST_CONNECTIONS, peer)
        connection.close()

    def _answer(self, connection: socket.socket, peer: object) -> None:
        """One peer, from its first frame to the end of the line."""
        lease: Lease | None = None
        until_s = time.monotonic() + self.patience.pulling_s
        line = Line(connection, ToLender, self.patience.silence_s, until_s, MOST_ASKED_BYTES)
        try:
            while (message := line.receive()) is not None:
                if isinstance(message, Done):
                    lease = lease and self._apply("release", lease)
                    return
                found = self._find(message)
                if isinstance(message, Decline):
                    self._apply("decline", found)
                    return
                assert isinstance(message, Pull), "the decoder lets nothing else through"
                lease = self._apply("pull", found)  # from here on it is this peer's, and no other's
                self._send_pages(line, lease, message)
                lease = self._apply("sent", lease)
                line.send(Sent())
        except LeaseError as error:
            with contextlib.suppress(TransferError):
                line.send(Refused(str(error)))
        except WorkerError as error:  # the line breaks, or a rank that has the page is lost
            log.warning("lender: %s: %s", peer, error)
        finally:
            connection.close()
            self._places.release()
            if lease is not None and lease.state in (LeaseState.PULLING, LeaseState.SENT):
                with contextlib.suppress(LeaseError):
                    self._apply("drop", lease)

    def _find(self, message: Message) -> Lease:
        """The lease that a frame speaks of. Raises: LeaseError: none, or not for one who reads pages in this way."""
        assert isinstance(message, Pull | Decline), "only these name a lease"
        with self._lock:
            lease = self._table.find(message.lease, time.monotonic(), message.token)
        if isinstance(message, Pull) and (difference := self._form.difference(message.form)):
            raise LeaseError(f"the pages are of another format: {difference}. Use the same model and settings.")
        return lease

    def _apply(self, event: str, lease: Lease) -> Lease:
        with self._lock:
            after = self._table.apply(event, lease.id, time.monotonic())
        if after.state.final:
            self._wake()
        return after

    def _send_pages(self, line: Line, lease: Lease, asked: Pull) -> None:
        pages, key = dict(zip(lease.names, lease.pages, strict=True)), self._form.key
        for name in asked.names:
            if name not in pages:
                continue
            content = self._store.read(pages[name])
            with self._lock:  # only now is it certain that nobody wrote into the page while it was read
                self._table.find(lease.id, time.monotonic())
            page = Page(name, content_digest(key, name, content), content)
            changed = page if self._through is None else self._through(page)
            if changed is None:
                raise TransferError("hung up, as asked")
            line.send(changed)
