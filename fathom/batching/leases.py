"""Leases: pages that one engine keeps for another to fetch, for as long as somebody may still want them.

                pull                sent
    OFFERED ───────────▶ PULLING ───────────▶ SENT         release, from PULLING and SENT ──▶ RELEASED
       ▲                  │   ▲                │           withdraw (who lends gives up)
       │       drop       │   └──── pull ──────┤           decline (who fetches gives up) ───▶ ABORTED
       └──────────────────┴──────── drop ──────┘           deadline passed ──────────────────▶ EXPIRED

OFFERED waits for a peer, PULLING has one that reads, SENT waits for its last word: `release`, or `pull` again for pages
that came damaged. `drop` is a lost connection; the peer may come back. The three on the right are final, and reached
from any other state. Each state that is not final has a deadline, and the whole lease has one, so none lives for ever.

The pages are held exactly while the lease is not final. `freed` gives the pages of those that ended, each once.
There is no clock here: every call says what time it is. Not thread-safe: callers from several threads bring a lock.
"""

from __future__ import annotations

import hmac
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

from fathom.errors import EngineError


@dataclass(frozen=True)
class Patience:
    """How long the two sides of a transfer wait for each other [s]; stated here and nowhere else.

    Fields: offered_s, pulling_s, sent_s: a lease in that state, from when it came to be in it. whole_s: a lease, from
            its offer, whatever happens. connect_s: for a connection. silence_s: for a peer to take or give one frame.
            pull_s: a request for the pages it could fetch, before it is computed without them.
    """

    offered_s: float = 30.0
    pulling_s: float = 20.0
    sent_s: float = 5.0
    whole_s: float = 60.0
    connect_s: float = 2.0
    silence_s: float = 5.0
    pull_s: float = 20.0


class LeaseState(StrEnum):
    OFFERED = "offered"
    PULLING = "pulling"
    SENT = "sent"
    RELEASED = "released"
    ABORTED = "aborted"
    EXPIRED = "expired"

    @property
    def final(self) -> bool:
        return self in (LeaseState.RELEASED, LeaseState.ABORTED, LeaseState.EXPIRED)


OFFERED, PULLING, SENT, RELEASED, ABORTED, EXPIRED = LeaseState

#: event -> state it is allowed in -> state it leads to. Whatever is not here is refused, and changes nothing.
TRANSITIONS: dict[str, dict[LeaseState, LeaseState]] = {
    "pull": {OFFERED: PULLING, SENT: PULLING},
    "sent": {PULLING: SENT},
    "drop": {PULLING: OFFERED, SENT: OFFERED},
    "release": {PULLING: RELEASED, SENT: RELEASED},
    "withdraw": dict.fromkeys((OFFERED, PULLING, SENT), ABORTED),
    "decline": dict.fromkeys((OFFERED, PULLING, SENT), ABORTED),
    "expire": dict.fromkeys((OFFERED, PULLING, SENT), EXPIRED),
}


class LeaseError(EngineError):
    """A lease is not there (any more), belongs to somebody else, or is in no state for that."""


@dataclass(frozen=True)
class Lease:
    """Pages kept for whoever has the token. names: what they hold, in order. ends_s: when it ends at the latest."""

    id: str
    token: str
    names: tuple[bytes, ...]
    pages: tuple[int, ...]
    state: LeaseState
    deadline_s: float
    ends_s: float


class LeaseTable:
    """All leases of one engine. `counts` says how many came to be in each state, ever."""

    def __init__(self, patience: Patience | None = None) -> None:
        self.patience = patience or Patience()
        self.counts: Counter[LeaseState] = Counter()
        self._live: dict[str, Lease] = {}
        self._freed: list[tuple[int, ...]] = []

    def __len__(self) -> int:
        return len(self._live)

    def __iter__(self) -> Iterator[Lease]:
        """Those that are not final, the oldest first."""
        return iter(list(self._live.values()))

    @property
    def pages(self) -> int:
        """Pages held, those of two leases twice."""
        return sum(len(lease.pages) for lease in self._live.values())

    def offer(self, lease_id: str, token: str, names: tuple[bytes, ...], pages: tuple[int, ...], now_s: float) -> Lease:
        """Begin a lease of pages that the caller has held for it."""
        if lease_id in self._live:
            raise LeaseError(f"lease {lease_id} exists already; choose another id.")
        ends_s = now_s + self.patience.whole_s
        lease = Lease(lease_id, token, names, pages, OFFERED, 0.0, ends_s)
        return self._enter(lease, OFFERED, now_s)

    def apply(self, event: str, lease_id: str, now_s: float) -> Lease:
        """Let one of TRANSITIONS happen, and return the lease after it.

        Raises: LeaseError: it cannot happen; nothing has changed, but that a lease past its deadline is EXPIRED.
        """
        lease = self.find(lease_id, now_s)
        state = TRANSITIONS[event].get(lease.state)
        if state is None:
            raise LeaseError(f"lease {lease_id} is {lease.state}; it cannot {event} now.")
        return self._enter(lease, state, now_s)

    def find(self, lease_id: str, now_s: float, token: str | None = None) -> Lease:
        """The lease, if it is alive and, where a token is given, that is its own.

        Raises: LeaseError: else. It does not say which, so that nobody learns which leases there are.
        """
        self.expire(now_s)
        lease = self._live.get(lease_id)
        if lease is None or (token is not None and not hmac.compare_digest(token.encode(), lease.token.encode())):
            raise LeaseError("there is no such lease: it has ended, or the token is not its own.")
        return lease

    def expire(self, now_s: float) -> list[Lease]:
        """End those whose deadline has passed."""
        late = [lease for lease in self._live.values() if lease.deadline_s <= now_s]
        return [self._enter(lease, EXPIRED, now_s) for lease in late]

    def freed(self) -> list[tuple[int, ...]]:
        """The pages of leases that have ended since this was last asked: release them now."""
        freed, self._freed = self._freed, []
        return freed

    def _enter(self, lease: Lease, state: LeaseState, now_s: float) -> Lease:
        waits = {OFFERED: self.patience.offered_s, PULLING: self.patience.pulling_s, SENT: self.patience.sent_s}
        deadline_s = min(now_s + waits.get(state, 0.0), lease.ends_s)
        entered = replace(lease, state=state, deadline_s=deadline_s)
        self.counts[state] += 1
        if state.final:
            del self._live[lease.id]
            self._freed.append(lease.pages)
        else:
            self._live[lease.id] = entered
        return entered
