"""Who talks to whom: the process groups of a Layout."""

from __future__ import annotations

import fcntl
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta

import torch.distributed as dist

from fathom.config import use_interface
from fathom.errors import ConfigError
from fathom.layout import Layout, Shard

Group = dist.ProcessGroup
SIOCGIFADDR = 0x8915  # netdevice(7); other systems refuse it, and gloo chooses


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


def talk_over(address: str) -> None:
    """Let tensors travel over the network that this host's `address` is in, not over the one its name stands for."""
    name = interface_of(address)
    if name is not None:
        use_interface(name)


def interface_of(address: str) -> str | None:
    """The network interface that has an IPv4 address; None if that cannot be found out."""
    try:
        wanted = socket.inet_aton(address)
    except OSError:
        return None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            with suppress(OSError):  # an interface without an address
                answer = fcntl.ioctl(probe.fileno(), SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
                if answer[20:24] == wanted:
                    return name
    return None


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
