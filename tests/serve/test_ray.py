"""What a transport asks of Ray, with a cluster that is played: started once, asked anew, replaced, and given back."""

from __future__ import annotations

import asyncio
import importlib
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from fathom.batching.request import Request, SamplingParams
from fathom.errors import ConfigError, WorkerError
from fathom.layout import Layout
from fathom.layout.deploy import Pool, Scale
from fathom.serve import ray as ours
from fathom.serve.client import EngineClient
from fathom.serve.deployment import build_fleet, spread
from fathom.serve.messages import Hello
from fathom.serve.ray import RayCluster, RayTransport
from fathom.serve.supervised import supervise
from fathom.tokenizer import Tokenizer
from tests.serve.conftest import ROOT, SCRIPTED
from tests.serve.test_transport import QUICK, reply


class Played:
    """A cluster that keeps one worker here. renewed, ended: how often it was told so."""

    def __init__(self) -> None:
        self.secret = "a secret of twenty letters"
        self.worker: subprocess.Popen[bytes] | None = None
        self.port = self.renewed = self.ended = self.asked = 0
        self.room = asyncio.Event()
        self.room.set()
        self.started: list[tuple[str, int]] = []

    def start(self, name: str, cpus: int) -> object:
        self.started.append((name, cpus))
        self.launch()
        return self

    def launch(self) -> None:
        self.worker, self.port = supervise("127.0.0.1", self.secret, SCRIPTED)

    async def address(self, actor: object) -> tuple[str, int, int]:
        assert actor is self and self.worker is not None
        self.asked += 1
        await self.room.wait()
        return "127.0.0.1", self.port, self.worker.pid

    def renew(self, actor: object) -> None:
        assert actor is self
        self.renewed += 1
        self.kill()
        self.launch()

    def end(self, actor: object) -> None:
        assert actor is self
        self.ended += 1
        self.kill()

    def kill(self) -> None:
        if self.worker is not None:
            self.worker.kill()
            self.worker.wait()

    def describe(self) -> str:
        return "3 nodes with 6 CPUs, 0 of them free"


@asynccontextmanager
async def client_of(model: Path, cluster: Played, **more: Any) -> AsyncIterator[EngineClient]:
    hello = Hello(str(model), beat_s=0.05, silent_beats=8)
    client = EngineClient(hello, policy=QUICK, via=RayTransport(cluster, "main-0", 2), name="main-0", **more)
    client.start()
    try:
        async with asyncio.timeout(10):
            await client.settled.wait()
        yield client
    finally:
        await client.stop()
        cluster.kill()


def test_the_address_is_asked_for_anew_and_replies_go_on(scripted_model: Path) -> None:
    prompt = tuple(Tokenizer.load(scripted_model).encode("slow"))
    request = Request("a", prompt, SamplingParams(max_tokens=40, temperature=0.7, seed=3))

    async def main() -> None:
        cluster = Played()
        async with client_of(scripted_model, cluster) as client:
            undisturbed = await reply(client, request, 99, None)
            first = cluster.port

            def elsewhere() -> None:
                cluster.kill()
                cluster.launch()  # as Ray would, on another node

            assert await reply(client, request, 8, elsewhere) == undisturbed
            assert cluster.port != first and cluster.asked >= 2 and cluster.started == [("main-0", 2)]
            assert client.restarts >= 1 and client.misses == 0
        assert cluster.ended == 1 and cluster.worker is not None and cluster.worker.returncode is not None

    asyncio.run(main())


def test_a_worker_that_is_silent_is_replaced(scripted_model: Path) -> None:
    prompt = tuple(Tokenizer.load(scripted_model).encode("slow"))
    request = Request("a", prompt, SamplingParams(max_tokens=40, temperature=0.7, seed=3))

    async def main() -> None:
        cluster = Played()
        async with client_of(scripted_model, cluster) as client:
            undisturbed = await reply(client, request, 99, None)
            stopped = cluster.worker
            assert stopped is not None
            assert await reply(client, request, 8, lambda: os.kill(stopped.pid, 19)) == undisturbed
            assert cluster.renewed == 1 and cluster.worker is not stopped and client.restarts == 1

    asyncio.run(main())


def test_an_address_where_nobody_is_has_its_actor_replaced() -> None:
    async def main() -> None:
        cluster = Played()
        with socket.create_server(("127.0.0.1", 0)) as listening:
            free = listening.getsockname()[1]
        transport = RayTransport(cluster, "main-0", 1)
        (await transport.open()).writer.close()
        cluster.kill()
        cluster.port = free
        with pytest.raises(WorkerError, match="cannot be reached"):
            await transport.open()
        assert cluster.renewed == 1
        await (await transport.open()).end(1.0)
        assert cluster.renewed == 1  # a link that is let go in order costs nobody anything
        await transport.release()
        await transport.release()
        assert cluster.ended == 1

    asyncio.run(main())


def test_a_cluster_without_room_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ours, "PLACE_S", 0.05)

    async def main() -> None:
        cluster = Played()
        cluster.room.clear()
        transport = RayTransport(cluster, "main-0", 8)
        cluster.launch = lambda: setattr(cluster, "worker", subprocess.Popen(["sleep", "9"]))  # type: ignore[method-assign]
        with pytest.raises(WorkerError, match="main-0 within .* 8 free CPUs on one node .* 3 nodes with 6 CPUs, 0 of"):
            await transport.open()
        await transport.release()
        assert cluster.ended == 1 and cluster.renewed == 0

    asyncio.run(main())


class Sized(RayCluster):
    """Of eight CPUs; nothing is started."""

    def __init__(self) -> None:
        super().__init__(None)

    @property
    def cpus(self) -> int:
        return 8


def test_cpus_of_a_cluster_are_divided_among_all_ranks_there_may_be() -> None:
    pools = (Pool("a", replicas=2), Pool("b", layout=Layout(tp=2), scale=Scale(max=3)))
    assert spread(Hello("m"), pools, 32).threads == 4 and spread(Hello("m", threads=9), pools, 32).threads == 1
    assert spread(Hello("m"), pools, 2).threads == 1
    fleet = build_fleet(Hello("m"), (Pool(replicas=2, layout=Layout(tp=2)),), cluster=Sized(), workers=["h:7000"])
    ways = [replica.client.via for replica in fleet.replicas]
    assert [(way.name, way.cpus) for way in ways if isinstance(way, RayTransport)] == [("main-0", 4), ("main-1", 4)]
    assert fleet.replicas[0].client.hello.threads == 2 and fleet.replicas[2].client.hello.threads is None


def test_without_ray_it_is_said_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    monkeypatch.setattr(ours, "settle_ray", lambda _: None)
    with pytest.raises(ConfigError, match=r"Ray is not installed; pip install 'fathom-llm\[ray\]'"):
        RayCluster.connect("local")
    with pytest.raises(ConfigError, match="must be HOST:PORT"):
        RayCluster.connect("ray://head:10001")


def test_the_front_starts_without_ray() -> None:
    code = "import sys, fathom.serve.launch; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
