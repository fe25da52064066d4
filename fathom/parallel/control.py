"""What the leader of a group tells its ranks, and what they report: frames of bytes over TCP.

Tensors travel by torch.distributed, in the middle of a forward and with a timeout. Orders travel here, where the next
one may take hours to come and the end of a process is seen at once: its connection closes.

A frame is four bytes of length (big endian) and that many bytes. First the leader sends a challenge, then the rank its
number with a proof that it knows the token of this group, and the leader whether it takes it; the token itself never
travels.
"""

from __future__ import annotations

import hmac
import logging
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
GREETING_S = 5.0  # for each frame of it
SAY_S = 10.0  # without a leader, before it is worth a line
SILENT_S = 20  # until a connection is given up whose other end does not even acknowledge: a host, or a link, is gone
WELCOME, UNKNOWN, TAKEN = b"welcome", b"unknown", b"taken"

log = logging.getLogger(__name__)


class Link:
    """One end of a connection. Sending is safe from several threads; receiving is for one."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket, self._lock = connection, threading.Lock()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _notice_silence(connection)

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

    Args:   token: what they must know. port: 0 takes any.
    Raises: WorkerError: it cannot be listened there.
    """

    def __init__(self, host: str, token: str, port: int = 0) -> None:
        self._token = token.encode()
        try:
            self._listening = socket.create_server((host, port), family=family_of(host), backlog=128)
        except OSError as error:
            raise WorkerError(
                f"the leader cannot listen at {host} port {port} ({error}); it must be a free port of this host."
            ) from error
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
                connection, peer = self._listening.accept()
            except TimeoutError:
                continue
            link, free = Link(connection), {rank for rank in range(1, size) if rank not in links}
            rank = self._greet(connection, link, free, until - monotonic(), peer[0])
            if rank is None:
                link.close()
            else:
                links[rank] = link

    def _greet(self, connection: socket.socket, link: Link, free: set[int], patience_s: float, peer: str) -> int | None:
        """The rank that a connection is of; None if it does not know the token, or is none of those that are free."""
        connection.settimeout(min(max(patience_s, 0.1), GREETING_S))
        challenge = secrets.token_bytes(32)
        try:
            link.send(challenge)
            given, _, number = (link.receive(GREETING_BYTES) or b"").partition(b" ")
            known = hmac.compare_digest(given, _proof(self._token, challenge, number)) and number.isdigit()
            rank = int(number) if known else -1
            link.send(WELCOME if rank in free else TAKEN if known else UNKNOWN)
        except (ValueError, OSError):
            return None
        connection.settimeout(None)
        if not known:
            log.warning("somebody at %s does not know the group's secret; is the file the same on all hosts?", peer)
        return rank if rank in free else None


def _proof(token: bytes, challenge: bytes, rank: bytes) -> bytes:
    """What only a rank that knows the token can answer, without blanks."""
    return hmac.new(token, b"fathom rank " + challenge + rank, "sha256").hexdigest().encode()


def report_to(host: str, port: int, token: str, rank: int, patience_s: float) -> Link:
    """A rank's link to its leader, which may not be there yet.

    Raises: WorkerError: it did not come within `patience_s`, or has another token.
    """
    began_s, said = monotonic(), False
    while True:
        try:
            return _introduced(host, port, token, rank)
        except (OSError, ValueError) as error:
            waited_s = monotonic() - began_s
            if waited_s > patience_s:
                raise WorkerError(
                    f"rank {rank} finds no leader at {host} port {port} ({error}); is it started, and reachable?"
                ) from error
            if waited_s > SAY_S and not said:
                said = True
                log.warning("no leader at %s port %d yet (%s); looking for %g s more", host, port, error, patience_s)
        sleep(RETRY_S)


def _introduced(host: str, port: int, token: str, rank: int) -> Link:
    """A link to a leader that is there. Raises: OSError, ValueError: it is not. WorkerError: it has another token."""
    connection = socket.create_connection((host, port), timeout=GREETING_S)
    link, number = Link(connection), str(rank).encode()
    try:
        answer = None
        if (challenge := link.receive(GREETING_BYTES)) is not None:
            link.send(_proof(token.encode(), challenge, number) + b" " + number)
            answer = link.receive(GREETING_BYTES)
        if answer == UNKNOWN:
            raise WorkerError(f"the leader at {host} port {port} has another secret; give all hosts the same file.")
        if answer != WELCOME:
            raise ConnectionError(f"it has another rank {rank}" if answer == TAKEN else "it hung up")
    except BaseException:
        link.close()
        raise
    connection.settimeout(None)
    return link


def family_of(host: str) -> socket.AddressFamily:
    """IPv4 or IPv6, as a name or an address has it. Raises: OSError: there is no such host."""
    return socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][0]


def _notice_silence(connection: socket.socket) -> None:
    """Let a connection end when its other end has not acknowledged anything for SILENT_S (tcp(7); Linux)."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    options = {"TCP_KEEPIDLE": SILENT_S // 2, "TCP_KEEPINTVL": 2, "TCP_USER_TIMEOUT": SILENT_S * 1000}
    for name, value in options.items():
        if (option := getattr(socket, name, None)) is not None:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)
