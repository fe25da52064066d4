"""Several replicas of one model behind one front: an EngineClient to whoever asks, and a router inside.

All replicas have the same fingerprint, so a reply begun on one goes on at another to the bit. When a replica dies or is
silent, what it was doing moves at once to those that are left, but never to one where it failed before while there is
another; a request that killed two stays behind, to be tried alone (see ledger.py). A replica gets requests once it has
generated a token.

Replicas of pools with role "prefill" read prompts and give each first token; a replica of another pool goes on with
that, and fetches the pages (exchange.py). Without one that prefills, the others read prompts themselves.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from fathom.batching.request import Request
from fathom.errors import ConfigError, FathomError, WorkerError
from fathom.layout.deploy import Pool
from fathom.serve import messages
from fathom.serve.client import EngineClient, State, Watcher
from fathom.serve.ledger import Inbox, Pending, grouped
from fathom.serve.replica import Replica, Tally, summed
from fathom.serve.router import Router

log = logging.getLogger(__name__)

MAX_REPLICAS = 256  # each has series of its own in the metrics
POLL_S = 0.05

Hire = Callable[[Pool, int, Watcher], EngineClient]
"""A client for the replica of this number in a pool, not started yet."""


@dataclass
class Fleet:
    """Replicas of several pools, each kept alive by its own client.

    Fields: moved: requests that went on at another replica, their own being lost. facts: of the replicas together, once
            one that decodes is ready. prefilled: requests that went on elsewhere after their first token. alone:
            requests read by who decodes them, because none that prefills was there. reading: the router of those.
    """

    pools: Sequence[Pool]
    hire: Hire
    router: Router = field(default_factory=Router)
    replicas: list[Replica] = field(default_factory=list)
    state: State = "starting"
    facts: messages.Ready | None = None
    failure: FathomError | None = None
    moved: int = 0
    prefilled: int = 0
    alone: int = 0

    def __post_init__(self) -> None:
        self.settled = asyncio.Event()
        self._gone = Tally()
        self._chores: set[asyncio.Task[None]] = set()
        self.reading = Router(self.router.config)
        self._lonely = False
        if self.pools and all(pool.role == "prefill" for pool in self.pools):
            raise ConfigError("every pool has role 'prefill'; add one that decodes.")
        self._check_count(sum(pool.replicas for pool in self.pools))
        for pool in self.pools:
            for number in range(pool.replicas):
                self._add_replica(pool, number)

    # -- the surface of an EngineClient ----------------------------------------------------------------------------

    @property
    def in_flight(self) -> int:
        """Requests taken and not yet finished."""
        return sum(replica.client.in_flight for replica in self.replicas)

    @property
    def restarts(self) -> int:
        return self._gone.restarts + sum(replica.client.restarts for replica in self.replicas)

    @property
    def resumed(self) -> int:
        return self._gone.resumed + sum(replica.client.resumed for replica in self.replicas)

    @property
    def poisoned(self) -> int:
        return self._gone.poisoned + sum(replica.client.poisoned for replica in self.replicas)

    @property
    def stats(self) -> messages.Stats:
        """Of all replicas together."""
        return summed([replica.client.stats for replica in self.replicas])

    def start(self) -> None:
        """Start every replica and go on; `settled` says when the first is ready, or all failed."""
        for replica in self.replicas:
            replica.client.start()

    def drain(self, error: FathomError) -> None:
        """Take no more requests and end the running ones with `error`."""
        self.state = "stopped"
        for replica in self.replicas:
            replica.client.drain(error)

    async def stop(self) -> None:
        """End every replica; whatever is running gets a WorkerError."""
        self.drain(WorkerError("the server is shutting down"))
        for chore in self._chores:
            chore.cancel()
        await asyncio.gather(*self._chores, return_exceptions=True)
        await asyncio.gather(*[replica.client.stop() for replica in self.replicas])

    def add(self, requests: Sequence[Request], inbox: Inbox, session: str = "") -> None:
        """Give siblings to the replica that suits them best. Raises: WorkerError: there is none, nor will there be."""
        takers = self._takers()
        if not takers or self.state == "stopped":
            raise self.failure or WorkerError(f"the engine is {self.state}")
        replica = self._choose(requests[0], self._readers(len(requests)) or takers, session)
        assert replica is not None, "there are takers"
        replica.client.add(requests, inbox)

    def abort(self, request_id: str) -> None:
        """Stop a request, if it still runs; none of its events arrive from now on."""
        for replica in self.replicas:
            replica.client.abort(request_id)

    # -- what its clients report -----------------------------------------------------------------------------------

    def admit(self, client: EngineClient, facts: messages.Ready) -> None:
        """Raises: ConfigError: the replica would give other replies than those that serve already."""
        for other in (replica.client for replica in self.replicas if replica.client is not client):
            if other.facts is not None and other.state != "failed" and other.facts.fingerprint != facts.fingerprint:
                raise ConfigError(
                    f"replica {client.name} has fingerprint {facts.fingerprint}, replica {other.name} has "
                    f"{other.facts.fingerprint}; all must hold the same weights and compute them in the same way."
                )

    def changed(self, client: EngineClient) -> None:
        """Move requests away from a replica that cannot work, and to one that can again."""
        replica = next((replica for replica in self.replicas if replica.client is client), None)
        if replica is None or self.state == "stopped":
            return
        self._refresh()
        if client.state == "ready":
            for other in self.replicas:
                if other is not replica and other.client.state == "restarting":
                    self._move(other)
        elif client.state in ("restarting", "failed"):
            self._forget(replica)
            self._move(replica)

    def ended(self, pending: Pending) -> None:
        """A reply is whole: the router learns how long replies are."""
        self.router.ended(len(pending.emitted))

    def read(self, pendings: Sequence[Pending]) -> None:
        """Prompts are read: let others decode."""
        for group in grouped(pendings):
            target = self._choose(group[0].request, self._takers())
            if target is not None:
                target.client.adopt(group)
                self.prefilled += len(group)
                continue
            for pending in group:
                pending.give(self.failure or WorkerError("no engine is left to go on with this request"))

    def _refresh(self) -> None:
        clients = [replica.client for replica in self.replicas if not replica.prefills]
        states = {client.state for client in clients}
        known = [client.facts for client in clients if client.facts is not None and client.state != "failed"]
        if known:
            places = sum(facts.max_sequences for facts in known)
            readers = [replica.client for replica in self.replicas if replica.prefills]
            read = [client.facts for client in readers if client.facts is not None and client.state != "failed"]
            context = min(facts.context for facts in (*known, *read))
            self.facts = msgspec.structs.replace(known[0], max_sequences=places, context=context)
        order: tuple[State, ...] = ("ready", "restarting", "starting", "failed")
        self.state = next((state for state in order if state in states), "failed")
        self.failure = next((client.failure for client in clients if client.failure), None)
        if self.state != "failed":
            self.failure = None
        if self.state in ("ready", "failed"):
            self.settled.set()

    def _move(self, replica: Replica) -> None:
        """Let others go on with what is held there; suspects too, if nobody will be there soon to try them."""
        lost = replica.client.state == "failed"
        away = lost or replica.client.misses > 0
        ledger = replica.client.ledger
        for group in grouped([pending for pending in ledger.held() if away or not pending.suspect]):
            readers = self._readers(len(group)) if replica.prefills else []
            others = self._fresh(replica, readers, group) or [r for r in self._takers() if r is not replica]
            if not lost:
                others = [other for other in others if other.free]  # else it may as well wait where it is
            fresh = self._fresh(replica, others, group)
            target = self._choose(group[0].request, fresh if fresh or not away else others)
            if target is not None:
                ledger.release(group)
                target.client.adopt(group)
                self.moved += len(group)

    @staticmethod
    def _fresh(replica: Replica, others: Iterable[Replica], group: Sequence[Pending]) -> list[Replica]:
        """Others where nothing of the group failed before."""
        failed = {name for pending in group for name in pending.failed_on}
        return [other for other in others if other is not replica and other.name not in failed]

    # -- who takes what --------------------------------------------------------------------------------------------

    def _takers(self) -> list[Replica]:
        """Replicas that decode and can begin now; without any, those that soon can."""
        able = [replica for replica in self.replicas if not replica.prefills]
        return [replica for replica in able if replica.free] or [replica for replica in able if replica.hopeful]

    def _readers(self, count: int) -> list[Replica]:
        """Replicas that prefill and can begin now; without any, `count` requests are read by who decodes them."""
        able = [replica for replica in self.replicas if replica.prefills]
        free = [replica for replica in able if replica.free]
        if able and not free:
            self.alone += count
            if not self._lonely:
                log.warning("no replica that prefills is ready: those that decode read prompts themselves")
        self._lonely = bool(able) and not free
        return free

    def _choose(self, request: Request, replicas: Iterable[Replica], session: str = "") -> Replica | None:
        able = {replica.name: replica for replica in replicas}
        if not able:
            return None
        loads = {name: self.load(replica) for name, replica in able.items()}
        router = self.reading if any(replica.prefills for replica in able.values()) else self.router
        return able[router.choose(request.prompt_token_ids, loads, session=session, salt=request.cache_salt)]

    def load(self, replica: Replica) -> int:
        """Tokens that are due there, as far as can be foreseen."""
        pendings = replica.client.ledger.pending.values()
        unread = sum(len(pending.request.prompt_token_ids) - pending.read_tokens for pending in pendings)
        return unread + (len(pendings) if replica.prefills else sum(map(self._expected, pendings)))

    def _expected(self, pending: Pending) -> int:
        return self.router.expected(pending.request.params.max_tokens, len(pending.emitted))

    # -- what operators ask ----------------------------------------------------------------------------------------

    def find(self, name: str) -> Replica:
        """Raises: ConfigError: no replica has this name."""
        for replica in self.replicas:
            if replica.name == name:
                return replica
        known = ", ".join(replica.name for replica in self.replicas)
        raise ConfigError(f"there is no replica {name!r}; there are {known}.")

    def renew(self, name: str) -> None:
        """Drain a replica and start it afresh, in the background. Raises: ConfigError: it cannot be spared."""
        replica = self._spared(name)
        self._do(self._renew(replica))

    def scale(self, pool_name: str, count: int) -> None:
        """Have so many replicas in a pool: more are started, the last ones drained and ended, in the background.

        Raises: ConfigError: there is no such pool, or the count is out of range.
        """
        pool = next((pool for pool in self.pools if pool.name == pool_name), None)
        if pool is None:
            raise ConfigError(f"there is no pool {pool_name!r}; there are {', '.join(p.name for p in self.pools)}.")
        ours = sorted((r for r in self.replicas if r.pool is pool and not r.draining), key=lambda r: r.number)
        if count < 1:
            raise ConfigError(f"replicas is {count}; it must be at least 1.")
        self._check_count(len(self.replicas) - len(ours) + count)
        for replica in ours[count:]:
            replica.draining = True
            self._do(self._retire(replica))
        taken = {replica.number for replica in self.replicas if replica.pool is pool}
        numbers = (number for number in range(MAX_REPLICAS * 2) if number not in taken)
        for _ in range(count - len(ours)):
            self._add_replica(pool, next(numbers)).client.start()

    def describe(self) -> list[dict[str, Any]]:
        """Each replica as operators see it."""
        return [
            {
                "name": replica.name,
                "pool": replica.pool.name,
                "role": replica.pool.role,
                "state": "draining" if replica.draining else replica.client.state,
                "requests": replica.client.in_flight,
                "due_tokens": self.load(replica),
                "restarts": replica.client.restarts,
                "on_trial": replica.client.ledger.trial is not None,
                "fingerprint": replica.client.facts.fingerprint if replica.client.facts is not None else None,
                "failure": None if replica.client.failure is None else str(replica.client.failure),
                "stats": msgspec.to_builtins(replica.client.stats),
            }
            for replica in self.replicas
        ]

    def _spared(self, name: str) -> Replica:
        replica = self.find(name)
        if not any(other.free for other in self.replicas if other is not replica and not other.prefills):
            raise ConfigError(f"no other replica is ready to do the work of {name}; start one first.")
        replica.draining = True
        return replica

    async def _renew(self, replica: Replica) -> None:
        await self._retire(replica)
        self._add_replica(replica.pool, replica.number).client.start()

    async def _retire(self, replica: Replica) -> None:
        """Wait until a draining replica has no more to do, and end it."""
        client = replica.client
        while client.in_flight and client.state in ("ready", "restarting"):
            await asyncio.sleep(POLL_S)
        await client.stop()
        self.replicas.remove(replica)
        self._forget(replica)
        self._gone.restarts += client.restarts
        self._gone.resumed += client.resumed
        self._gone.poisoned += client.poisoned
        self._refresh()

    def _add_replica(self, pool: Pool, number: int) -> Replica:
        replica = Replica(pool, number, self.hire(pool, number, self))
        replica.client.ledger.prefills = replica.prefills
        self.replicas.append(replica)
        return replica

    def _forget(self, replica: Replica) -> None:
        """Its cache is gone."""
        self.router.forget(replica.name)
        self.reading.forget(replica.name)

    def _do(self, chore: Any) -> None:
        task: asyncio.Task[None] = asyncio.create_task(chore)
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)

    def _check_count(self, count: int) -> None:
        if count > MAX_REPLICAS:
            raise ConfigError(f"that makes {count} replicas; there may be at most {MAX_REPLICAS}.")
