"""One replica of a fleet, as the fleet sees it, and the counts of several together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Any

from fathom.layout.deploy import Pool
from fathom.serve import messages
from fathom.serve.client import EngineClient


@dataclass(eq=False)
class Replica:
    """Fields: number: within its pool. draining: it gets no new requests; what it has runs on."""

    pool: Pool
    number: int
    client: EngineClient
    draining: bool = False

    @property
    def prefills(self) -> bool:
        """Whether requests leave it after their first token."""
        return self.pool.role == "prefill"

    @property
    def name(self) -> str:
        return f"{self.pool.name}-{self.number}"

    @property
    def free(self) -> bool:
        """Whether a request would start at once."""
        return self.client.state == "ready" and not self.draining and not self.client.ledger.quarantined

    @property
    def hopeful(self) -> bool:
        """Whether a request would start some time."""
        return self.client.state in ("ready", "restarting") and not self.draining


@dataclass
class Tally:
    """What replicas that are gone have counted."""

    restarts: int = 0
    resumed: int = 0
    poisoned: int = 0


def summed(all_stats: Sequence[messages.Stats]) -> messages.Stats:
    """Counts of several engines, added up."""
    if not all_stats:
        return messages.Stats()
    total: dict[str, Any] = {}
    for name in messages.Stats.__struct_fields__:
        values = [getattr(stats, name) for stats in all_stats]
        if name == "experts":
            continue  # of each replica by itself
        if isinstance(values[0], tuple):
            total[name] = tuple(sum(depth) for depth in zip_longest(*values, fillvalue=0))
        elif isinstance(values[0], dict):
            total[name] = {key: sum(each.get(key, 0) for each in values) for key in dict.fromkeys(chain(*values))}
        else:
            total[name] = sum(values)
    return messages.Stats(**total)
