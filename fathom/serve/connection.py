"""The worker's end of a connection, and the door at which fronts knock.

A thread reads the frames, so that a Ping is answered while the engine is busy and the end of the front is noticed at
once. A worker that listens serves one front at a time, the newest: one that comes back after its network was cut must
not wait until the connection it lost is found to be dead.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import secrets
import socket
import threading
import time

from fathom.errors import ConfigError, InputError
from fathom.serve import messages
from fathom.serve.secret import CHALLENGE_BYTES, is_proof

log = logging.getLogger(__name__)

ANSWER_S = 5.0
MAX_STRANGERS = 16
"""Connections that have not shown yet that they may talk to the worker; more are turned away."""


class Gone(Exception):
    """The front is no longer there."""


class Wake:
    """No frame: a thread of the worker itself says that there is something to do."""


class Connection:
    """Frames in, by a thread of its own; frames out, each of them whole.

    Attributes: inbox: what came in; None: the front is gone. Failed: the engine itself cannot go on. stepping_since:
                when the step began that runs now (time.monotonic); None if none does. told_to_leave: by a Shutdown.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.inbox: queue.SimpleQueue[messages.ToWorker | messages.Failed | Wake | None] = queue.SimpleQueue()
        self.stepping_since: float | None = None
        self.told_to_leave = False
        self._socket = sock
        self._sending = threading.Lock()

    def read(self, *, watch: bool = False) -> None:
        """Move frames from the socket to `inbox` until it ends. Args: watch: a silent front is a gone one."""
        try:
            with self._socket.makefile("rb") as stream:
                while header := stream.read(messages.LENGTH_BYTES):
                    message = messages.unpack_to_worker(stream.read(messages.frame_bytes(header)))
                    if isinstance(message, messages.Ping):
                        since = self.stepping_since
                        self.send(messages.Pong(0.0 if since is None else time.monotonic() - since))
                        continue
                    if watch and isinstance(message, messages.Hello):
                        self._socket.settimeout(message.beat_s * message.silent_beats)
                    self.told_to_leave |= isinstance(message, messages.Shutdown)
                    self.inbox.put(message)
        except (OSError, Gone):
            pass
        except (ValueError, InputError):
            log.exception("the front sent what is no message")
        self.close()
        self.inbox.put(None)

    def next(self) -> messages.ToWorker | messages.Failed | Wake:
        """The next message. Raises: Gone: there will be none."""
        message = self.inbox.get()
        if message is None:
            raise Gone
        return message

    def send(self, message: messages.Message) -> None:
        """Raises: Gone: nobody would read it."""
        frame = messages.pack(message)
        try:
            with self._sending:
                self._socket.sendall(frame)
        except OSError as error:
            self.close()  # half a frame may be out: nothing that could follow would make sense
            raise Gone from error

    def close(self) -> None:
        """Let go of the front; whoever reads or writes wakes up."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            self._socket.close()


class Door:
    """Where a worker listens. Args: address: HOST:PORT. Raises: ConfigError: it cannot listen there."""

    def __init__(self, address: str, secret: bytes) -> None:
        host, _, port = address.rpartition(":")
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self._listening = socket.create_server((host.strip("[]"), int(port)), family=family)
        except (OSError, ValueError, OverflowError) as error:
            raise ConfigError(
                f"cannot listen on {address!r} ({error}); it must be HOST:PORT, free on this machine."
            ) from error
        self.port: int = self._listening.getsockname()[1]
        self._secret = secret
        self._strangers = threading.Semaphore(MAX_STRANGERS)
        self._fronts: queue.SimpleQueue[Connection] = queue.SimpleQueue()
        self._newest: Connection | None = None
        self._swapping = threading.Lock()
        threading.Thread(target=self._accept, name="door", daemon=True).start()

    def next(self) -> Connection:
        """The next front that may talk to us."""
        return self._fronts.get()

    def _accept(self) -> None:
        while True:
            try:
                sock, (host, *_) = self._listening.accept()
            except OSError as error:  # too many open files, say
                log.warning("cannot accept a connection: %s", error)
                threading.Event().wait(0.1)
                continue
            if self._strangers.acquire(blocking=False):
                threading.Thread(target=self._greet, args=(sock, host), name="front reader", daemon=True).start()
            else:
                sock.close()

    def _greet(self, sock: socket.socket, host: str) -> None:
        """Let a front in if it knows the secret, then read what it says."""
        try:
            sock.settimeout(ANSWER_S)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            known = self._knows_the_secret(sock)
        except (OSError, ValueError):
            known = False
        finally:
            self._strangers.release()
        if not known:
            log.warning("%s was turned away: it did not show that it knows the secret", host)
            sock.close()
            return
        connection = Connection(sock)
        with self._swapping:
            before, self._newest = self._newest, connection
            self._fronts.put(connection)
        if before is not None:
            before.close()
        connection.read(watch=True)

    def _knows_the_secret(self, sock: socket.socket) -> bool:
        """Raises: ValueError: what it said is no answer. OSError: it said nothing in time."""
        nonce, until_s = secrets.token_bytes(CHALLENGE_BYTES), time.monotonic() + ANSWER_S
        sock.sendall(messages.pack(messages.Challenge(nonce)))
        header = _exactly(sock, messages.LENGTH_BYTES, until_s)
        body = _exactly(sock, messages.frame_bytes(header, messages.MAX_ANSWER_BYTES), until_s)
        return is_proof(self._secret, nonce, messages.unpack_answer(body).proof)


def _exactly(sock: socket.socket, count: int, until_s: float) -> bytes:
    """So many bytes, and no more: what follows belongs to the next reader."""
    read = b""
    while len(read) < count:
        sock.settimeout(max(0.001, until_s - time.monotonic()))
        more = sock.recv(count - len(read))
        if not more:
            raise ValueError("the stream ended")
        read += more
    return read
