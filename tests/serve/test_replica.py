"""What a replica can take, and the counts of several."""

from __future__ import annotations

import msgspec
import pytest

from fathom.layout.deploy import Pool
from fathom.serve.client import EngineClient
from fathom.serve.messages import Hello, Stats
from fathom.serve.replica import Replica, summed


@pytest.mark.parametrize(
    ("state", "draining", "free", "hopeful"),
    [
        ("ready", False, True, True),
        ("ready", True, False, False),
        ("restarting", False, False, True),
        ("starting", False, False, False),
        ("failed", False, False, False),
    ],
)
def test_what_is_ready_is_free_and_what_will_be_is_hopeful(state, draining, free, hopeful) -> None:
    replica = Replica(Pool("p", role="prefill"), 3, EngineClient(Hello("m")), draining)
    replica.client.state = state
    assert (replica.free, replica.hopeful) == (free, hopeful)
    assert replica.name == "p-3" and replica.prefills and not Replica(Pool(), 0, replica.client).prefills


def test_counts_are_added_up() -> None:
    one = Stats(running=1, drafted_by_depth=(3, 2), leases={"live": 1})
    two = Stats(running=2, steps=5, drafted_by_depth=(1,), leases={"live": 2, "sent": 3})
    assert summed([one, two]) == Stats(running=3, steps=5, drafted_by_depth=(4, 2), leases={"live": 3, "sent": 3})
    assert msgspec.structs.asdict(summed([])) == msgspec.structs.asdict(Stats())
