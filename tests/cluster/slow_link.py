"""A link between two network namespaces that delays every packet and loses some: netem for kernels that have none.

    python slow_link.py NAMESPACE NAMESPACE DEVICE DEVICE DELAY_S LOSS SEED

It makes a TUN device in each and carries packets from one to the other. Which are lost depends on the seed and their
order. It says `ready` once both devices are there.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import struct
import sys
from collections import deque
from pathlib import Path
from random import Random
from time import monotonic

CLONE_NEWNET = 0x40000000  # setns(2)
TUNSETIFF = 0x400454CA  # linux/if_tun.h
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
PACKET_BYTES = 65536


def tun(namespace: str, device: str) -> int:
    """A new device there; its packets are read and written here."""
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    enter(Path("/run/netns") / namespace)
    opened = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(opened, TUNSETIFF, struct.pack("16sH22x", device.encode(), IFF_TUN | IFF_NO_PI))
    enter(Path(f"/proc/self/fd/{home}"))
    os.close(home)
    return opened


def enter(namespace: Path) -> None:
    """Be in this network from now on."""
    handle = os.open(namespace, os.O_RDONLY)
    if ctypes.CDLL(None, use_errno=True).setns(handle, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), f"{namespace} cannot be entered")
    os.close(handle)


def carry(ends: tuple[int, int], delay_s: float, loss: float, rng: Random) -> None:
    """Pass packets on until killed."""
    across = {ends[0]: ends[1], ends[1]: ends[0]}
    waiting: deque[tuple[float, int, bytes]] = deque()  # in order, since all wait equally long
    while True:
        patience_s = max(0.0, waiting[0][0] - monotonic()) if waiting else None
        for end in select.select(ends, [], [], patience_s)[0]:
            packet = os.read(end, PACKET_BYTES)
            if rng.random() >= loss:
                waiting.append((monotonic() + delay_s, across[end], packet))
        while waiting and waiting[0][0] <= monotonic():
            _, end, packet = waiting.popleft()
            os.write(end, packet)


def main() -> None:
    first, second, device, other, delay_s, loss, seed = sys.argv[1:]
    ends = tun(first, device), tun(second, other)
    print("ready", flush=True)
    try:
        carry(ends, float(delay_s), float(loss), Random(int(seed)))
    except OSError:
        return  # the namespaces are gone


if __name__ == "__main__":
    main()
