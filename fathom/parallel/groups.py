"""Who talks to whom, and over what: memory that the ranks of one host share, torch.distributed between hosts."""

from __future__ import annotations

import fcntl
import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from fathom.config import use_interface
from fathom.errors import ConfigError
from fathom.layout import Layout, Shard
from fathom.ops.shared import Room
from fathom.parallel.control import family_of

_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor  # its name until torch 2.12
SIOCGIFADDR = 0x8915  # netdevice(7); other systems refuse it, and gloo chooses


@dataclass(frozen=True)
class Meeting:
    """Where ranks find each other. timeout_s: the longest that one waits for another [s].

    cores: whether each rank of this host has a core of its own: then it need not sleep while it waits.
    """

    host: str
    port: int
    timeout_s: float = 30.0
    cores: bool = False

    def __post_init__(self) -> None:
        if self.timeout_s <= 0:
            raise ConfigError(f"timeout_s is {self.timeout_s} s; it must be above 0.")


class Group(Protocol):
    """Some ranks, of which this is one. Raises, whatever it is asked: RuntimeError: somebody did not come."""

    def gather(self, own: Tensor) -> Tensor:
        """Everybody's tensor, by rank [size, ...]."""
        ...

    def exchange(self, to: Tensor, rows: Tensor, incoming: Sequence[int], outgoing: Sequence[int]) -> None:
        """Rows by receiver go out, rows by sender come in, `to` [rows, ...]."""
        ...

    def give_up(self) -> None:
        """Let whoever waits for the others hear that it is in vain; from any thread."""
        ...


@dataclass(frozen=True)
class Groups:
    """tp: those who share a batch. ep: those who share the experts. None: this rank alone.

    before, after: the ranks that hold the pipeline's neighbouring stages of the same batch; None at its ends.
    """

    tp: Group | None
    ep: Group | None
    before: int | None
    after: int | None

    def give_up(self) -> None:
        """The others will not come."""
        for group in (self.tp, self.ep):
            if group is not None:
                group.give_up()


class Distributed:
    """A group over torch.distributed."""

    def __init__(self, size: int, group: dist.ProcessGroup) -> None:
        self.size, self._group = size, group

    def gather(self, own: Tensor) -> Tensor:
        out = own.new_empty(self.size * own.shape[0], *own.shape[1:])
        _all_gather(out, own.contiguous(), group=self._group)
        return out.view(self.size, *own.shape)

    def exchange(self, to: Tensor, rows: Tensor, incoming: Sequence[int], outgoing: Sequence[int]) -> None:
        into = to if to.is_contiguous() else torch.empty_like(to, memory_format=torch.contiguous_format)
        dist.all_to_all_single(into, rows.contiguous(), list(incoming), list(outgoing), group=self._group)
        if into is not to:
            to.copy_(into)

    def give_up(self) -> None:
        """Nothing to do: a connection that closes is noticed, and so is the timeout."""


def rooms_on(layout: Layout, here: int) -> dict[str, range]:
    """Groups whose ranks are all among the first `here`, by name: they can share memory."""
    found = {
        f"{kind}:{ranks.start}": ranks
        for kind, ranks_of in (("tp", tp_ranks), ("ep", ep_ranks))
        for ranks in (ranks_of(layout, rank) for rank in range(layout.world_size))
    }
    return {name: ranks for name, ranks in found.items() if len(ranks) > 1 and ranks.stop <= here}


@contextmanager
def joined(shard: Shard, meeting: Meeting, rooms: Mapping[str, int] | None = None) -> Iterator[Groups]:
    """The groups of one rank, for as long as the context lasts; every rank of the layout enters it at the same time.

    Args:   rooms: memory that the ranks of a group share, as descriptors by the names of `rooms_on`.
    Raises: RuntimeError: not all came within the timeout.
    """
    layout, rank, rooms = shard.layout, shard.rank, rooms or {}
    tp, ep = tp_ranks(layout, rank), ep_ranks(layout, rank)
    before, after = rank - layout.dp * layout.tp, rank + layout.dp * layout.tp
    around = before if before >= 0 else None, after if after < layout.world_size else None
    tp_room, ep_room = (
        _room(rooms.get(f"{kind}:{ranks.start}"), ranks, rank, meeting) for kind, ranks in (("tp", tp), ("ep", ep))
    )
    if layout.pp == 1 and (tp_room or len(tp) == 1) and (ep_room or len(ep) == 1):
        yield Groups(tp_room, ep_room, *around)
        return
    with _distributed(shard, meeting) as (tp_group, ep_group):
        yield Groups(tp_room or tp_group, ep_room or ep_group, *around)


def _room(descriptor: int | None, ranks: range, rank: int, meeting: Meeting) -> Room | None:
    if descriptor is None:
        return None
    return Room(descriptor, len(ranks), rank - ranks.start, meeting.timeout_s, cores=meeting.cores)


@contextmanager
def _distributed(shard: Shard, meeting: Meeting) -> Iterator[tuple[Group | None, Group | None]]:
    """The tp and ep groups of a rank over torch.distributed."""
    layout, rank, timeout = shard.layout, shard.rank, timedelta(seconds=meeting.timeout_s)
    store = dist.TCPStore(  # type: ignore[attr-defined]
        meeting.host, meeting.port, layout.world_size, is_master=rank == 0, timeout=timeout
    )
    dist.init_process_group("gloo", store=store, rank=rank, world_size=layout.world_size, timeout=timeout)
    try:
        tp = _own([tp_ranks(layout, first) for first in range(0, layout.world_size, layout.tp)], rank, timeout)
        ep = _own([ep_ranks(layout, first) for first in range(0, layout.world_size, layout.ep)], rank, timeout)
        yield tp, ep
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
    """The network interface that has an address; None if that cannot be found out."""
    if ":" in address:
        return _interface_of_6(address)
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


def _interface_of_6(address: str) -> str | None:
    """The same of an IPv6 address, as Linux lists them."""
    wanted = socket.inet_pton(socket.AF_INET6, address.partition("%")[0]).hex()
    with suppress(OSError):
        for line in Path("/proc/net/if_inet6").read_text().splitlines():
            fields = line.split()
            if fields[0] == wanted:
                return fields[-1]
    return None


def free_port(host: str = "127.0.0.1") -> int:
    """A port nobody listens on now."""
    with socket.socket(family_of(host)) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def _own(members: list[range], rank: int, timeout: timedelta) -> Distributed | None:
    """The group that `rank` is in, of groups that all ranks make in the same order; None if it is alone in it."""
    found = None
    for ranks in members:
        if len(ranks) == 1:
            continue
        group = dist.new_group(list(ranks), timeout=timeout)
        if rank in ranks:
            found = Distributed(len(ranks), group)
    return found
