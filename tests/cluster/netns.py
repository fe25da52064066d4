"""Two hosts on one machine: network namespaces with addresses of their own, joined by a link that can be cut."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

ADDRESSES = ("10.77.0.1", "10.77.0.2")
ADDRESSES_6 = ("fd77::1", "fd77::2")
DELAY_S, LOSS = 0.02, 0.01  # of a slow link, each way


def ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


class TwoHosts:
    """Namespaces `names`, each with its loopback; they are joined by `wire` or by `slow_wire`, once."""

    def __init__(self, names: tuple[str, str]) -> None:
        self.names = names
        self.shaped_by = ""
        self._forwarder: subprocess.Popen[str] | None = None
        for name in names:
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")

    def wire(self) -> None:
        """A virtual cable."""
        ends = [f"{name}-eth" for name in self.names]
        ip("-n", self.names[0], "link", "add", ends[0], "type", "veth", "peer", ends[1], "netns", self.names[1])
        self._join(ends)

    def slow_wire(self, seed: int = 1) -> None:
        """A link that delays each packet and loses some: by the kernel's netem, or by slow_link.py where it has none.

        The loss of the latter is drawn by `seed`.
        """
        self.wire()
        if all(self._shape(name) for name in self.names):
            self.shaped_by = "netem"
            return
        ip("-n", self.names[0], "link", "delete", f"{self.names[0]}-eth")
        ends = [f"{name}-tun" for name in self.names]
        command = [sys.executable, str(Path(__file__).with_name("slow_link.py")), *self.names, *ends]
        command += [str(DELAY_S), str(LOSS), str(seed)]
        self._forwarder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._forwarder.stdout is not None, "it was asked for"
        assert self._forwarder.stdout.readline() == "ready\n", "slow_link.py did not start"
        self._join(ends)
        self.shaped_by = "slow_link.py"

    def on(self, host: int, *command: str) -> tuple[str, ...]:
        """A command as it is run on host 0 or 1."""
        return ("ip", "netns", "exec", self.names[host], *command)

    def cut(self) -> None:
        """Take the link down: packets vanish, and nobody is told."""
        ip("-n", self.names[0], "link", "set", f"{self.names[0]}-eth", "down")

    def mend(self) -> None:
        ip("-n", self.names[0], "link", "set", f"{self.names[0]}-eth", "up")

    def processes(self, host: int) -> list[int]:
        """Those that run there now."""
        return [int(pid) for pid in ip("netns", "pids", self.names[host]).split()]

    def empties(self, most_s: float) -> bool:
        """Whether the last process of both leaves within so long."""
        until = time.monotonic() + most_s
        while any(self.processes(host) for host in (0, 1)):
            if time.monotonic() > until:
                return False
            time.sleep(0.05)
        return True

    def remove(self) -> None:
        """End what still runs there, and take the namespaces away."""
        if self._forwarder is not None:
            self._forwarder.kill()
            self._forwarder.communicate()
        for host, name in enumerate(self.names):
            with suppress(OSError):
                for pid in self.processes(host):
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                ip("netns", "delete", name)

    def _join(self, ends: list[str]) -> None:
        for name, end, address, address_6 in zip(self.names, ends, ADDRESSES, ADDRESSES_6, strict=True):
            ip("-n", name, "address", "add", f"{address}/24", "dev", end)
            with suppress(OSError):  # a kernel without IPv6
                ip("-n", name, "address", "add", f"{address_6}/64", "dev", end, "nodad")
            ip("-n", name, "link", "set", end, "up")

    def _shape(self, name: str) -> bool:
        shape = ["netem", "delay", f"{DELAY_S * 1000:g}ms", "loss", f"{LOSS * 100:g}%"]
        command = ["tc", "-n", name, "qdisc", "add", "dev", f"{name}-eth", "root", *shape]
        return shutil.which("tc") is not None and subprocess.run(command, capture_output=True).returncode == 0


@contextmanager
def two_hosts() -> Iterator[TwoHosts]:
    """For as long as the context lasts; it skips the test, and says why, where this cannot be had."""
    if not sys.platform.startswith("linux") or shutil.which("ip") is None:
        pytest.skip("two hosts need Linux and its command `ip`")
    if os.geteuid() != 0:
        pytest.skip("two hosts need root, who may make network namespaces")
    tail = secrets.token_hex(3)  # of the names of interfaces too, which have 15 characters
    try:
        hosts = TwoHosts((f"fa{tail}", f"fb{tail}"))
    except OSError as error:
        pytest.skip(f"two hosts need network namespaces: {error}")
    try:
        yield hosts
    finally:
        hosts.remove()
