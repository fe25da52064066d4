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
    """Replicas of `pools`, started here, on a Ray cluster or where they say, and those at `workers`, as HOST:PORT.

    Raises: ConfigError: an address is none, or a pool cannot be served.
    """
    if workers:
        pools = (*pools, Pool(REMOTE, replicas=len(workers), workers=tuple(workers)))
    places = {pool.name: [_address(worker) for worker in pool.workers] for pool in pools}
    ours = [pool for pool in pools if not pool.workers]
    share = shared(hello, sum(pool.replicas for pool in ours)) if cluster is None else spread(hello, ours, cluster.cpus)
    check_reach(pools, afar=cluster is not None)

    def hire(pool: Pool, number: int, watcher: Watcher) -> EngineClient:
        name, there = f"{pool.name}-{number}", places[pool.name]
        if there and number >= len(there):
            raise ConfigError(f"pool {pool.name} has {len(there)} workers; it cannot have more than were given.")
        own = fitted(hello if there else share, pool, name)
        own = msgspec.structs.replace(own, transfer=transfer(pool, number))
        if there:
            return _client(own, Remote(*there[number], secret), FAR, name, watcher)
        if cluster is not None:
            via = cluster.transport(name, pool.layout.world_size * (share.threads or 1))
            return _client(own, via, FAR, name, watcher)
        return _client(own, Spawned(command), RestartPolicy(), name, watcher)

    return Fleet(pools, hire, Router(router))


def read_engine(settings: Mapping[str, Any], where: str) -> messages.Hello:
    """The [engine] table of a deployment. Raises: ConfigError: a setting is unknown or does not fit."""
    own = {"type", "model", "layout", "transfer"} & settings.keys()
    if own:
        raise ConfigError(f"{where}: engine.{own.pop()} is not set here; model and [[pool]] have keys for it.")
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
    """The settings of one replica: those of its pool, its layout and experts, and a spill file of its own.

    Raises: ConfigError: the pool has a setting that is unknown or does not fit.
    """
    if pool.engine:
        given = read_engine(pool.engine, f"pool {pool.name}")
        hello = msgspec.structs.replace(hello, **{key: getattr(given, key) for key in pool.engine})
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


def transfer(pool: Pool, number: int) -> str | None:
    """Where a replica lends pages, if it prefills. Raises: ConfigError: the pool says where, but not for so many."""
    if pool.role != "prefill":
        return None
    if pool.transfer and number >= len(pool.transfer):
        raise ConfigError(f"pool {pool.name}: transfer names {len(pool.transfer)}; more replicas need more.")
    if pool.transfer:
        return pool.transfer[number]
    host = _address(pool.workers[number])[0] if pool.workers else "127.0.0.1"
    return f"[{host}]:0" if ":" in host else f"{host}:0"


def check_reach(pools: Sequence[Pool], *, afar: bool = False) -> None:
    """Raise ConfigError if pages would be lent where workers on other machines cannot fetch them. afar: all are."""
    far = next((pool.name for pool in pools if (pool.workers or afar) and pool.role != "prefill"), None)
    for pool in pools:
        if far is not None and pool.role == "prefill" and not (pool.workers or pool.transfer):
            raise ConfigError(
                f"pool {pool.name} lends pages to pool {far} on other machines; say where those reach its replicas, "
                'with transfer = ["HOST:PORT", ...].'
            )


def _client(hello: messages.Hello, via: Transport, policy: RestartPolicy, name: str, watcher: Watcher) -> EngineClient:
    return EngineClient(hello, policy=policy, via=via, name=name, watcher=watcher)


def _address(worker: str) -> tuple[str, int]:
    host, _, port = worker.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError(f"worker is {worker!r}; it must be HOST:PORT, such as 10.0.0.7:7000.")
    return host.strip("[]"), int(port)
