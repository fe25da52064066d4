"""How many replicas a pool shall have, by the length of its queue: a pure policy, and the loop that asks it.

More when the queue is long: so many that none would have more than `queued_per_replica` waiting, as long as there may
be. Fewer, one at a time, when there were fewer requests than replicas for `idle_s` on end: one of them was not needed.
"""

from __future__ import annotations

import asyncio
import logging
import time

from fathom.errors import ConfigError
from fathom.layout.deploy import Pool, Scale
from fathom.serve.fleet import Fleet

log = logging.getLogger(__name__)

EVERY_S = 1.0


class Autoscaler:
    """The policy for one pool; it remembers since when a replica has not been needed."""

    def __init__(self, policy: Scale) -> None:
        self.policy = policy
        self._spare_since_s: float | None = None

    def decide(self, now_s: float, queued: int, running: int, replicas: int) -> int:
        """Replicas that there shall be.

        Args: now_s: from any clock that does not go back. queued: requests that wait. running: those that do not.
              replicas: those that there are, or will soon be; so one that takes minutes to load is asked for once.
        """
        policy = self.policy
        wanted = replicas
        if queued > policy.queued_per_replica * replicas:
            wanted = -(-queued // policy.queued_per_replica)
        if queued or running >= replicas:
            self._spare_since_s = None
        elif self._spare_since_s is None:
            self._spare_since_s = now_s
        elif now_s - self._spare_since_s >= policy.idle_s:
            self._spare_since_s = now_s  # the next one must be idle for as long again
            wanted = replicas - 1
        return min(max(wanted, policy.min), policy.max)


async def follow(fleet: Fleet, every_s: float = EVERY_S) -> None:
    """Ask the policies of all pools that have one, for ever, and do what they say."""
    policies = [(pool, Autoscaler(pool.scale)) for pool in fleet.pools if pool.scale is not None]
    while policies:
        await asyncio.sleep(every_s)
        for pool, policy in policies:
            queued, running, replicas = demand(fleet, pool)
            wanted = policy.decide(time.monotonic(), queued, running, replicas)
            if wanted == replicas or fleet.state in ("stopped", "failed"):
                continue
            try:
                fleet.scale(pool.name, wanted)
            except ConfigError as error:
                log.warning("pool %s stays at %d replicas: %s", pool.name, replicas, error)
            else:
                log.warning("pool %s: %d replicas, there were %d (%d wait)", pool.name, wanted, replicas, queued)


def demand(fleet: Fleet, pool: Pool) -> tuple[int, int, int]:
    """Of one pool: requests that wait, requests that do not, and replicas."""
    clients = [replica.client for replica in fleet.replicas if replica.pool is pool and not replica.draining]
    queued = sum(
        len(client.ledger.held()) + (client.stats.waiting if client.state == "ready" else 0) for client in clients
    )
    queued = min(queued, sum(client.in_flight for client in clients))  # counts of a worker are a moment old
    return queued, sum(client.in_flight for client in clients) - queued, len(clients)
