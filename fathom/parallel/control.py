"""What the leader of a group tells its ranks, and what they report: frames of bytes over TCP.

Tensors travel by torch.distributed, in the middle of a forward and with a timeout. Orders travel here, where the next
one may take hours to come and the end of a process is seen at once: its connection closes.

A frame is four bytes of length (big endian) and that many bytes. First the leader sends a challenge, and the rank its
number with a proof that it knows the token of this group; the token itself never travels.
"""

from __future__ import annotations

import hmac
import secrets
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from time import monotonic, sleep

from fathom.errors import WorkerError

MAX_FRAME_BYTES = 1 << 30
GREETING_BYTES = 4096
RETRY_S = 0.1


class Link:
    """One end of a connection. Sending is safe from several threads; receiving is for one."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket, self._lock = connection, threading.Lock()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, frame: bytes) -> None:
        """Raises: OSError: the other end is gone."""
        with self._lock:
            self._socket.sendall(struct.pack(">I", len(frame)) + frame)

    def receive(self, most: int = MAX_FRAME_BYTES) -> bytes | None:
        """The next frame; None once the other end is gone.

        Raises: ValueError: what comes is no frame, or larger than `most`.
        """
        header = self._read(4)
        if header is None:
            return None
        (size,) = struct.unpack(">I", header)
        if size > most:
            raise ValueError(f"a frame of {size} bytes; at most {most} are taken")
        return self._read(size)

    def close(self) -> None:
        with suppress(OSError):  # wakes whoever is receiving, which closing alone does not
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    @property
    def address(self) -> str:
        """This end's."""
        return str(self._socket.getsockname()[0])

    def _read(self, size: int) -> bytes | None:
        parts, left = [], size
        while left:
            try:
                part = self._socket.recv(min(left, 1 << 20))
            except OSError:
                return None
            if not part:
                return None
            parts.append(part)
            left -= len(part)
        return b"".join(parts)


class Desk:
    """Where ranks report to: a listening socket, and who is to come.

    Args: token: what they must know. port: 0 takes any.
    """

    def __init__(self, host: str, token: str, port: int = 0) -> None:
        self._token = token.encode()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listening = socket.create_server((host, port), family=family, backlog=128)
        self.port: int = self._listening.getsockname()[1]

    def assemble(self, size: int, timeout_s: float, check: Callable[[], None] = lambda: None) -> dict[int, Link]:
        """The links of ranks 1 to size - 1, once all have come.

        Args:   check: called now and then; raises if somebody cannot come any more.
        Raises: WorkerError: not all did within the timeout; it says who is missing.
        """
        links: dict[int, Link] = {}
        try:
            self._wait_for(links, size, timeout_s, check)
        except BaseException:
            for link in links.values():
                link.close()
            raise
        return links

    def close(self) -> None:
        self._listening.close()

    def _wait_for(self, links: dict[int, Link], size: int, timeout_s: float, check: Callable[[], None]) -> None:
        """Fill `links` as ranks come."""
        until = monotonic() + timeout_s
        self._listening.settimeout(0.2)
        while len(links) < size - 1:
            check()
            if monotonic() > until:
                missing = ", ".join(str(rank) for rank in range(1, size) if rank not in links)
                raise WorkerError(f"rank {missing} did not come within {timeout_s:g} s; start it, or look at its log")
            try:
                connection, _ = self._listening.accept()
            except TimeoutError:
                continue
            rank = self._greet(connection, until - monotonic())
            if rank is None or not 0 < rank < size or rank in links:
                connection.close()
                continue
            links[rank] = Link(connection)

    def _greet(self, connection: socket.socket, patience_s: float) -> int | None:
        """The rank that a connection is of; None if it does not know the token."""
        connection.settimeout(min(max(patience_s, 0.1), 5.0))
        link, challenge = Link(connection), secrets.token_bytes(32)
        try:
            link.send(challenge)
            greeting = link.receive(GREETING_BYTES) or b""
        except (ValueError, OSError):
            return None
        connection.settimeout(None)
        given, _, rank = greeting.partition(b" ")
        known = hmac.compare_digest(given, _proof(self._token, challenge, rank))
        return int(rank) if known and rank.isdigit() else None


def _proof(token: bytes, challenge: bytes, rank: bytes) -> bytes:
    """What only a rank that knows the token can answer, without blanks."""
    return hmac.new(token, b"fathom rank " + challenge + rank, "sha256").hexdigest().encode()


def report_to(host: str, port: int, token: str, rank: int, patience_s: float) -> Link:
    """A rank's link to its leader, which may not be there yet.

    Raises: WorkerError: it did not come within `patience_s`.
    """
    until = monotonic() + patience_s
    while True:
        try:
            connection = socket.create_connection((host, port), timeout=5.0)
            link, number = Link(connection), str(rank).encode()
            challenge = link.receive(GREETING_BYTES)
            if challenge is not None:
                link.send(_proof(token.encode(), challenge, number) + b" " + number)
                connection.settimeout(None)
                return link
            raise ConnectionError("it hung up")
        except OSError as error:
            if monotonic() > until:
                raise WorkerError(
                    f"rank {rank} finds no leader at {host} port {port} ({error}); is it started, and reachable?"
                ) from error
        sleep(RETRY_S)
