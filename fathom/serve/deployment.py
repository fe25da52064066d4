"""From pools and addresses to a Fleet: who is started here, who is reached elsewhere, and with how many threads."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from fathom.errors import ConfigError
from fathom.layout.deploy import Pool
from fathom.serve import messages
from fathom.serve.client import EngineClient, RestartPolicy, Watcher
from fathom.serve.fleet import Fleet
from fathom.serve.router import Router, RouterConfig
from fathom.serve.transport import WORKER, Remote, Spawned, Transport

if TYPE_CHECKING:
    from fathom.serve.ray import RayCluster

REMOTE = "remote"
"""The pool of those replicas that listen on other machines."""

FAR = RestartPolicy(restarts=120, window_s=1200.0)
"""A host that is away for minutes comes back as it was: its model is loaded still."""


def build_fleet(
    hello: messages.Hello,
    pools: Sequence[Pool] = (Pool(),),
    *,
    router: RouterConfig | None = None,
    workers: Sequence[str] = (),
    secret: bytes = b"",
    command: Sequence[str] = WORKER,
    cluster: RayCluster | None = None,
) -> Fleet:
    """Replicas of `pools`, started here or on a Ray cluster, and those at the addresses `workers`, as HOST:PORT.

    Raises: ConfigError: an address is none, or a pool cannot be served.
    """
    places = [_address(worker) for worker in workers]
    if places:
        pools = (*pools, Pool(REMOTE, replicas=len(places)))
    ours = [pool for pool in pools if pool.name != REMOTE]
    share = shared(hello, sum(pool.replicas for pool in ours)) if cluster is None else spread(hello, ours, cluster.cpus)

    def hire(pool: Pool, number: int, watcher: Watcher) -> EngineClient:
        name = f"{pool.name}-{number}"
        if pool.name != REMOTE and cluster is not None:
            via = cluster.transport(name, pool.layout.world_size * (share.threads or 1))
            return _client(fitted(share, pool, name), via, FAR, name, watcher)
        if pool.name != REMOTE:
            return _client(fitted(share, pool, name), Spawned(command), RestartPolicy(), name, watcher)
        if number >= len(places):
            raise ConfigError(f"pool {REMOTE} has {len(places)} workers; it cannot have more than were given.")
        return _client(fitted(hello, pool, name), Remote(*places[number], secret), FAR, name, watcher)

    return Fleet(pools, hire, Router(router))


def read_engine(settings: Mapping[str, Any], where: str) -> messages.Hello:
    """The [engine] table of a deployment. Raises: ConfigError: a setting is unknown or does not fit."""
    own = {"type", "model", "layout"} & settings.keys()
    if own:
        raise ConfigError(f"{where}: engine.{own.pop()} is not set here; models and layouts have keys of their own.")
    try:
        return msgspec.convert({**settings, "type": "hello", "model": ""}, messages.Hello)
    except msgspec.ValidationError as error:
        known = ", ".join(name for name in messages.Hello.__struct_fields__ if name not in ("model", "layout"))
        raise ConfigError(f"{where}: engine: {error}; known: {known}.") from None


def shared(hello: messages.Hello, replicas: int) -> messages.Hello:
    """The settings of one of several replicas on this machine: the cores are divided, not used several times over."""
    if replicas < 2:
        return hello
    threads = max(1, (hello.threads or os.cpu_count() or 1) // replicas)
    return msgspec.structs.replace(hello, threads=threads)


def spread(hello: messages.Hello, pools: Sequence[Pool], cpus: int) -> messages.Hello:
    """The settings of each rank on a cluster: its CPUs are divided among all ranks that there may be at a time."""
    ranks = sum(pool.most * pool.layout.world_size for pool in pools)
    return msgspec.structs.replace(hello, threads=max(1, (hello.threads or cpus) // max(1, ranks)))


def fitted(hello: messages.Hello, pool: Pool, name: str) -> messages.Hello:
    """The settings of one replica: its pool's layout and experts, and a spill file of its own."""
    layout = pool.layout
    degrees = (layout.pp, layout.dp, layout.tp, layout.ep) if layout.world_size > 1 else None
    alone = pool.replicas == 1 and pool.name == Pool().name
    spill = hello.spill_path if hello.spill_path is None or alone else f"{hello.spill_path}.{name}"
    ranks = hello.ranks
    if degrees is not None:
        ranks = msgspec.structs.replace(
            ranks or messages.Ranks(), redundant_experts=pool.redundant_experts, eplb=pool.eplb
        )
    return msgspec.structs.replace(hello, layout=degrees, ranks=ranks, spill_path=spill)


def _client(hello: messages.Hello, via: Transport, policy: RestartPolicy, name: str, watcher: Watcher) -> EngineClient:
    return EngineClient(hello, policy=policy, via=via, name=name, watcher=watcher)


def _address(worker: str) -> tuple[str, int]:
    host, _, port = worker.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError(f"worker is {worker!r}; it must be HOST:PORT, such as 10.0.0.7:7000.")
    return host.strip("[]"), int(port)
