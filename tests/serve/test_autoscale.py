"""Replicas follow the queue, up by need and down one at a time, and never leave their bounds."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from fathom.errors import ConfigError
from fathom.layout.deploy import Pool, Scale
from fathom.serve.autoscale import Autoscaler, demand, follow
from fathom.serve.client import EngineClient, Watcher
from fathom.serve.fleet import Fleet
from fathom.serve.ledger import Inbox
from fathom.serve.messages import Hello, Stats
from fathom.serve.transport import Spawned
from tests.serve.conftest import SCRIPTED
from tests.serve.test_fleet import replies, slow

POLICY = Scale(min=1, max=4, queued_per_replica=8, idle_s=60.0)


def test_a_long_queue_calls_for_as_many_as_shorten_it() -> None:
    policy = Autoscaler(POLICY)
    assert policy.decide(0.0, queued=8, running=2, replicas=1) == 1  # full is not too long
    assert policy.decide(1.0, queued=9, running=2, replicas=1) == 2
    assert policy.decide(2.0, queued=17, running=2, replicas=1) == 3
    assert policy.decide(3.0, queued=17, running=2, replicas=3) == 3  # those asked for may still be loading
    assert policy.decide(4.0, queued=1000, running=2, replicas=3) == 4


def test_one_leaves_after_a_time_without_need_and_the_next_after_as_long_again() -> None:
    policy = Autoscaler(POLICY)
    asked = [policy.decide(float(now), queued=0, running=2, replicas=4) for now in range(0, 130, 10)]
    assert asked == [4] * 6 + [3] + [4] * 5 + [3]


@pytest.mark.parametrize(("queued", "running"), [(1, 0), (0, 4)])
def test_work_for_all_begins_the_wait_anew(queued: int, running: int) -> None:
    policy = Autoscaler(POLICY)
    assert policy.decide(0.0, 0, 0, 4) == policy.decide(59.0, 0, 0, 4) == policy.decide(59.5, queued, running, 4) == 4
    assert policy.decide(60.0, 0, 0, 4) == policy.decide(119.0, 0, 0, 4) == 4
    assert policy.decide(120.0, 0, 0, 4) == 3


def test_bounds_are_kept_whoever_set_the_number() -> None:
    policy = Autoscaler(Scale(min=2, max=3))
    assert [policy.decide(0.0, 0, 9, count) for count in (1, 2, 3, 7)] == [2, 2, 3, 3]
    assert policy.decide(1e6, 0, 0, 2) == policy.decide(2e6, 0, 0, 2) == 2


@pytest.mark.parametrize(
    "wrong", [{"min": 0}, {"min": 3, "max": 2}, {"queued_per_replica": 0}, {"idle_s": 0.0}, {"idle_s": float("nan")}]
)
def test_a_policy_that_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"scale.{next(iter(wrong))} is"):
        Scale(**wrong)  # type: ignore[arg-type]


def test_a_fleet_grows_with_its_queue_and_shrinks_without(scripted_model: Path) -> None:
    async def main() -> None:
        def hire(pool: Pool, number: int, watcher: Watcher) -> EngineClient:
            return EngineClient(
                Hello(str(scripted_model)), via=Spawned(SCRIPTED), name=f"main-{number}", watcher=watcher
            )

        pool = Pool(scale=Scale(max=2, queued_per_replica=2, idle_s=0.3))
        fleet = Fleet([pool, Pool("other")], hire)
        fleet.start()
        chore = asyncio.create_task(follow(fleet, 0.02))
        async with asyncio.timeout(60):
            await fleet.settled.wait()
            while not fleet.find("other-0").free or not fleet.find("main-0").free:
                await asyncio.sleep(0.01)
            fleet.find("other-0").draining = True  # all requests to the pool that is watched
            inbox, names = Inbox(), set("abcdefgh")
            for name in sorted(names):
                fleet.add([slow(scripted_model, name)], inbox)
            reading = asyncio.create_task(replies(inbox, names))  # four run, four wait
            while len(fleet.replicas) < 3:
                await asyncio.sleep(0.01)
            assert demand(fleet, pool)[2] == 2 and fleet.find("main-1").pool is pool
            await reading
            while len(fleet.replicas) > 2:
                await asyncio.sleep(0.01)
        assert fleet.find("main-0") and demand(fleet, pool) == (0, 0, 1)
        fleet.find("main-0").client.stats = Stats(waiting=5)  # of a moment ago: nobody is left
        assert demand(fleet, pool) == (0, 0, 1)
        chore.cancel()
        await fleet.stop()

    asyncio.run(main())
