"""Who talks to whom: the process groups of a Layout."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta

import torch.distributed as dist

from fathom.errors import ConfigError
from fathom.layout import Layout, Shard

Group = dist.ProcessGroup


@dataclass(frozen=True)
class Meeting:
    """Where ranks find each other. timeout_s: the longest that one waits for another [s]."""

    host: str
    port: int
    timeout_s: float = 30.0

    def __post_init__(self) -> None:
        if self.timeout_s <= 0:
            raise ConfigError(f"timeout_s is {self.timeout_s} s; it must be above 0.")


@dataclass(frozen=True)
class Groups:
    """tp: those who share a batch. ep: those who share the experts. None: this rank alone.

    before, after: the ranks that hold the pipeline's neighbouring stages of the same batch; None at its ends.
    """

    tp: Group | None
    ep: Group | None
    before: int | None
    after: int | None


@contextmanager
def joined(shard: Shard, meeting: Meeting, backend: str = "gloo") -> Iterator[Groups]:
    """The groups of one rank, for as long as the context lasts; every rank of the layout enters it at the same time.

    Raises: RuntimeError, from torch: not all came within the timeout.
    """
    layout, rank, timeout = shard.layout, shard.rank, timedelta(seconds=meeting.timeout_s)
    store = dist.TCPStore(  # type: ignore[attr-defined]
        meeting.host, meeting.port, layout.world_size, is_master=rank == 0, timeout=timeout
    )
    dist.init_process_group(backend, store=store, rank=rank, world_size=layout.world_size, timeout=timeout)
    try:
        tp = _own([tp_ranks(layout, first) for first in range(0, layout.world_size, layout.tp)], rank, timeout)
        ep = _own([ep_ranks(layout, first) for first in range(0, layout.world_size, layout.ep)], rank, timeout)
        stage = layout.dp * layout.tp
        before, after = rank - stage, rank + stage
        yield Groups(tp, ep, before if before >= 0 else None, after if after < layout.world_size else None)
    finally:
        with suppress(RuntimeError):  # a peer has gone already
            dist.destroy_process_group()


def tp_ranks(layout: Layout, rank: int) -> range:
    """Those who share the batch of `rank`."""
    first = rank - rank % layout.tp
    return range(first, first + layout.tp)


def ep_ranks(layout: Layout, rank: int) -> range:
    """Those who share the experts of the layers of `rank`."""
    stage = layout.dp * layout.tp
    first = rank - rank % stage % layout.ep
    return range(first, first + layout.ep)


def free_port(host: str = "127.0.0.1") -> int:
    """A port nobody listens on now."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def _own(members: list[range], rank: int, timeout: timedelta) -> Group | None:
    """The group that `rank` is in, of groups that all ranks make in the same order; None if it is alone in it."""
    found = None
    for ranks in members:
        if len(ranks) == 1:
            continue
        group = dist.new_group(list(ranks), timeout=timeout)
        if rank in ranks:
            found = group
    return found
