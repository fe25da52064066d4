"""Replicas as actors of a Ray cluster: Ray says where workers run and starts them again, and never sees a token.

A replica is a placement group of one bundle, all CPUs of its ranks together, which so are on one node; and in it an
actor, a `Host`. That one starts a worker which listens on its node (supervised.py), and tells its address. When the
worker or the actor dies, or the node, Ray starts the actor again, there or on another node. A `RayTransport` asks for
the address each time that it connects, and speaks with the worker itself from then on.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import os
import secrets
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from fathom.config import settle_ray
from fathom.errors import ConfigError, WorkerError
from fathom.serve.supervised import supervise
from fathom.serve.transport import Link, Remote

log = logging.getLogger(__name__)

LOCAL = "local"
PLACE_S = 5.0
"""For Ray to find room and start an actor. Then we ask again; meanwhile others may do what the replica had."""
STORE_BYTES = 80 << 20  # of Ray's store of objects, about the least that it takes: nothing of ours goes through it
INSTALL = "Ray is not installed; pip install 'fathom-llm[ray]' -c requirements/constraints.txt"


class Host:
    """An actor: a worker process on its node. When either ends, so does the other, and Ray starts the actor again."""

    def __init__(self, secret: str, command: Sequence[str] = ()) -> None:
        self._host = str(importlib.import_module("ray").util.get_node_ip_address())
        self._process, self._port = supervise(self._host, secret, command)
        threading.Thread(target=self._follow, name="worker", daemon=True).start()

    def address(self) -> tuple[str, int, int]:
        """Where the worker listens: its node's address, and the port; and its process."""
        return self._host, self._port, self._process.pid

    def _follow(self) -> None:
        self._process.wait()
        os._exit(1)  # not exit_actor: Ray would take it for an end that was meant, and not start another


class Cluster(Protocol):
    """What a RayTransport asks of Ray. Actors are whatever `start` gives."""

    secret: str

    def start(self, name: str, cpus: int) -> Any:
        """An actor with a worker, started when there is room for it. Raises: WorkerError: Ray does not take it."""
        ...

    async def address(self, actor: Any) -> tuple[str, int, int]:
        """Where the worker listens, once it does. Raises: WorkerError: there is none, or will be none."""
        ...

    def renew(self, actor: Any) -> None:
        """Kill the actor and its worker; Ray starts it again."""
        ...

    def end(self, actor: Any) -> None:
        """Kill them for good."""
        ...

    def describe(self) -> str:
        """The cluster's nodes and what is free on them, in a few words."""
        ...


@dataclass
class RayLink(Link):
    """A worker of an actor. Fields: transport: told when the worker is of no more use."""

    transport: RayTransport | None = None

    async def end(self, patience_s: float) -> str:
        """Let go of the worker. One that shall not be waited for hangs, or makes no sense: it is replaced."""
        ended = await super().end(patience_s)
        if patience_s == 0.0 and self.transport is not None:
            await self.transport.renew()
        return ended


class RayTransport:
    """The way to the worker of one replica, wherever it is now. Args: cpus: of the replica together, on one node."""

    awaited = True

    def __init__(self, cluster: Cluster, name: str, cpus: int) -> None:
        self.name, self.cpus = name, cpus
        self._cluster = cluster
        self._starting: asyncio.Future[Any] | None = None  # the actor, once Ray knows of it

    async def open(self) -> Link:
        """Have an actor, ask it where its worker is, connect."""
        try:
            async with asyncio.timeout(PLACE_S):
                host, port, _ = await self._cluster.address(await self._start())
        except TimeoutError as error:
            there = await asyncio.to_thread(self._cluster.describe)
            raise WorkerError(
                f"Ray has not started {self.name} within {PLACE_S:g} s; it needs {self.cpus} free CPUs on one node of "
                f"a cluster that has {there}"
            ) from error
        try:
            link = await Remote(host, port, self._cluster.secret.encode()).open()
        except WorkerError:
            await self.renew()  # who has told its address and cannot be reached is not there, or hangs
            raise
        return RayLink(link.reader, link.writer, f"the worker of {self.name} at {host}:{port}", transport=self)

    async def renew(self) -> None:
        """Have Ray kill the worker and start another."""
        if self._starting is not None:
            await asyncio.to_thread(self._cluster.renew, await self._starting)

    async def release(self) -> None:
        """End the actor, and give back its place."""
        starting, self._starting = self._starting, None
        if starting is not None:
            with contextlib.suppress(WorkerError):
                await asyncio.to_thread(self._cluster.end, await starting)

    async def _start(self) -> Any:
        """The actor. Raises: WorkerError: Ray cannot have one."""
        if self._starting is None:
            self._starting = asyncio.ensure_future(asyncio.to_thread(self._cluster.start, self.name, self.cpus))
        try:
            return await asyncio.shield(self._starting)  # who waits may leave; `release` must find what was begun
        except WorkerError:
            self._starting = None
            raise


@dataclass(frozen=True)
class Placed:
    """An actor in its placement group."""

    actor: Any
    group: Any


class RayCluster:
    """A cluster that this process is connected to.

    Attributes: secret: what its workers ask of a front; made up here, given to the actors, known to nobody else.
    """

    def __init__(self, ray: Any, command: Sequence[str] = (), folder: tempfile.TemporaryDirectory[str] | None = None):
        self.secret = secrets.token_hex(32)
        self._ray, self._command, self._folder = ray, tuple(command), folder

    @classmethod
    def connect(cls, address: str, command: Sequence[str] = (), cpus: int | None = None) -> RayCluster:
        """The cluster at an address, as HOST:PORT or "auto", or with "local" one of our own on this machine.

        Ours listens on the loopback address, asks for a token, has no dashboard, and leaves with us. Of others, this
        machine must be a node. Args: command: starts workers instead. cpus: of a local cluster; default all.

        Raises: ConfigError: Ray is missing, or there is no such cluster.
        """
        if "://" in address:
            raise ConfigError(f"ray is {address!r}; it must be HOST:PORT of a cluster's head node, auto or local.")
        settle_ray(secrets.token_hex(32) if address == LOCAL else None)
        try:
            ray = importlib.import_module("ray")
        except ImportError:
            raise ConfigError(INSTALL) from None
        options: dict[str, Any] = {}
        folder = None
        if address == LOCAL:
            # Mode 700: Ray's own folders are open to all. In /tmp: a socket's path has 107 bytes at most.
            folder = tempfile.TemporaryDirectory(prefix="fathom-ray-", dir="/tmp")
            options = {"num_cpus": cpus, "include_dashboard": False, "object_store_memory": STORE_BYTES}
            options["_temp_dir"] = str(Path(folder.name) / "ray")
        try:
            ray.init(address, log_to_driver=False, logging_level=logging.WARNING, **options)
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            raise ConfigError(f"no Ray cluster to use at {address!r}: {error}; start one, or use local.") from error
        return cls(ray, command, folder)

    @property
    def cpus(self) -> int:
        """Of all nodes together."""
        return int(self._ray.cluster_resources().get("CPU", 0))

    def transport(self, name: str, cpus: int) -> RayTransport:
        """The way to a replica that needs so many CPUs."""
        return RayTransport(self, name, cpus)

    def start(self, name: str, cpus: int) -> Placed:
        """An actor with a worker, started when a node has so many CPUs free. Raises: WorkerError: Ray refuses."""
        try:
            group = self._ray.util.placement_group([{"CPU": cpus}], strategy="STRICT_PACK", name=name)
            place = self._ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy(placement_group=group)
            kind = self._ray.remote(Host).options(
                num_cpus=cpus, scheduling_strategy=place, max_restarts=-1, max_task_retries=-1
            )
            return Placed(kind.remote(self.secret, self._command), group)
        except self._ray.exceptions.RayError as error:
            raise WorkerError(f"Ray cannot start {name} ({error})") from error

    async def address(self, actor: Placed) -> tuple[str, int, int]:
        """Waits while the actor is started, again too. Raises: WorkerError: Ray has given it up."""
        try:
            return await asyncio.wrap_future(actor.actor.address.remote().future())
        except self._ray.exceptions.RayError as error:
            raise WorkerError(f"Ray has lost the actor ({error})") from error

    def renew(self, actor: Placed) -> None:
        """Kill the actor; Ray starts it again."""
        with contextlib.suppress(self._ray.exceptions.RayError, ValueError):
            self._ray.kill(actor.actor, no_restart=False)

    def end(self, actor: Placed) -> None:
        """Kill the actor for good, and give its place back."""
        with contextlib.suppress(self._ray.exceptions.RayError, ValueError):
            self._ray.kill(actor.actor)
            self._ray.util.remove_placement_group(actor.group)

    def describe(self) -> str:
        """As "2 nodes with 3 CPUs, 1 of them free"."""
        nodes = [node for node in self._ray.nodes() if node["Alive"]]
        free = self._ray.available_resources().get("CPU", 0)
        return f"{len(nodes)} nodes with {self.cpus} CPUs, {free:g} of them free"

    def close(self) -> None:
        """Leave the cluster; our actors end, and one of our own ends too."""
        self._ray.shutdown()
        if self._folder is not None:
            self._folder.cleanup()
