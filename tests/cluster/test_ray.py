"""Two nodes of a Ray cluster, the real engine: an actor is killed, then a node, and no request notices."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import psutil
import pytest

from fathom.batching.request import Output, Request, SamplingParams
from fathom.config import settle_ray
from fathom.layout.deploy import Pool
from fathom.serve.client import RestartPolicy
from fathom.serve.deployment import build_fleet
from fathom.serve.fleet import Fleet
from fathom.serve.ledger import Inbox
from fathom.serve.messages import Hello
from fathom.serve.ray import RayCluster, RayTransport
from fathom.tokenizer import Tokenizer
from tests.serve.conftest import ROOT

settle_ray("a token of these tests, as good as any")
pytest.importorskip("ray")
from ray.cluster_utils import Cluster  # noqa: E402 - it reads what is settled above

MODEL = ROOT / "fathom/weights/nano"
REQUESTS = 100
HEALTH = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 250, "health_check_timeout_ms": 1000}
NODE: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}


def ray_children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children(recursive=True) if child.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture
def two_nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """Each with room for one replica. Nothing of them stays."""
    monkeypatch.setattr("ray._private.utils.write_ray_address", lambda *_: None)  # for `ray.init()` of others
    before = {child.pid for child in ray_children()}, set(Path("/dev/shm").iterdir())
    folder = tempfile.TemporaryDirectory(dir="/tmp", prefix="ray-test-")  # the path of a socket must be short
    head = {**NODE, "temp_dir": folder.name, "_system_config": {**HEALTH, "health_check_failure_threshold": 3}}
    cluster = Cluster(initialize_head=True, head_node_args=head, shutdown_at_exit=False)
    try:
        cluster.add_node(**NODE)
        yield cluster
    finally:
        left = [child for child in ray_children() if child.pid not in before[0]]
        cluster.shutdown()
        _, alive = psutil.wait_procs(left, timeout=20)
        folder.cleanup()
    assert not [child.cmdline()[:3] for child in alive], "these outlived their cluster"
    assert ({child.pid for child in ray_children()}, set(Path("/dev/shm").iterdir())) == before


def drawn() -> list[Request]:
    rng = Random(5)
    stem = tuple(rng.choices(range(5, 500), k=70))
    return [
        Request(
            f"r{i}",
            (*stem[: rng.choice([0, 33, 70])], *rng.choices(range(5, 500), k=rng.randint(1, 30))),
            SamplingParams(
                max_tokens=rng.randint(60, 160), temperature=(0.0, 0.8)[i % 2], seed=i, ignore_eos=True
            ),
            streamed=i % 4 > 0,
        )
        for i in range(REQUESTS)
    ]  # fmt: skip


async def texts(fleet: Fleet, requests: list[Request], disturb: dict[int, Any]) -> dict[str, str]:
    """What each reply says; `disturb` is what is done once so many tokens have arrived."""
    tokenizer, inbox, count = Tokenizer.load(MODEL), Inbox(), 0
    tokens: dict[str, list[int]] = {request.id: [] for request in requests}
    ended: set[str] = set()
    for request in requests:
        fleet.add([request], inbox)
    async with asyncio.timeout(80):
        while len(ended) < len(requests):
            arrival = await inbox.queue.get()
            assert isinstance(arrival.event, Output), arrival.event
            assert arrival.request_id not in ended, "something came after the end"
            tokens[arrival.request_id] += arrival.event.token_ids
            count += len(arrival.event.token_ids)
            if arrival.event.finish_reason:
                ended.add(arrival.request_id)
            for at in [at for at in disturb if at <= count]:
                await asyncio.to_thread(disturb.pop(at))
    assert inbox.queue.empty() and fleet.in_flight == 0 and not disturb
    assert [len(tokens[request.id]) for request in requests] == [request.params.max_tokens for request in requests]
    return {name: tokenizer.decode(ids) for name, ids in tokens.items()}


async def worker_of(cluster: RayCluster, transport: object) -> psutil.Process:
    assert isinstance(transport, RayTransport) and transport._starting is not None
    return psutil.Process((await cluster.address(await transport._starting))[2])


async def until_all_are_ready(fleet: Fleet) -> None:
    async with asyncio.timeout(60):
        while not all(replica.free for replica in fleet.replicas):
            await asyncio.sleep(0.05)


def raylet_of(node: Any) -> psutil.Process:
    return psutil.Process(node.all_processes["raylet"][0].process.pid)


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks for what is left in /proc")
def test_an_actor_and_then_a_node_are_killed_and_no_request_notices(two_nodes: Cluster) -> None:
    cluster = RayCluster.connect(two_nodes.address)
    files = set(Path("/tmp").glob("fathom-*"))

    async def main() -> list[psutil.Process]:
        hello = Hello(str(MODEL), threads=2, num_pages=256, beat_s=0.2, silent_beats=10)
        fleet = build_fleet(hello, (Pool(replicas=2),), cluster=cluster)
        assert [replica.client.hello.threads for replica in fleet.replicas] == [1, 1]
        for replica in fleet.replicas:
            replica.client.policy = RestartPolicy(restarts=50, first_pause_s=0.1, longest_pause_s=0.5)
        fleet.start()
        await until_all_are_ready(fleet)
        transports = [replica.client.via for replica in fleet.replicas]
        workers = [await worker_of(cluster, via) for via in transports]
        requests = drawn()
        undisturbed = await texts(fleet, requests, {})
        (far,) = two_nodes.worker_nodes
        near = next(worker for worker in workers if raylet_of(far) not in worker.parents())
        assert sum(raylet_of(far) in worker.parents() for worker in workers) == 1, "a replica on each node"

        def kill_an_actor() -> None:
            os.kill(near.ppid(), signal.SIGKILL)

        def kill_a_node() -> None:
            for process in (raylet := raylet_of(far), *raylet.children(recursive=True)):
                process.kill()
            two_nodes.remove_node(far, allow_graceful=False)

        again = [msgspec.structs.replace(request, id=f"{request.id} again") for request in requests]
        found = await texts(fleet, again, {300: kill_an_actor, 1200: kill_a_node})
        assert found == {f"{name} again": text for name, text in undisturbed.items()}
        assert fleet.moved + fleet.resumed > 0 and fleet.poisoned == 0
        two_nodes.add_node(**NODE)
        await until_all_are_ready(fleet)
        assert fleet.restarts >= 2
        workers += [await worker_of(cluster, via) for via in transports]
        assert await texts(fleet, requests, {}) == undisturbed
        fleet.scale("main", 1)
        async with asyncio.timeout(60):
            while len(fleet.replicas) > 1 or sum(worker.is_running() for worker in workers) > 1:
                await asyncio.sleep(0.05)
        await fleet.stop()
        return workers

    try:
        workers = asyncio.run(main())
    finally:
        cluster.close()
    assert not psutil.wait_procs(workers, timeout=5)[1]
    assert set(Path("/tmp").glob("fathom-*")) == files
