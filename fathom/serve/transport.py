"""How a worker is reached: `Spawned`, a process of our own on a socket pair, or `Remote`, one that listens elsewhere.

Both give a Link, a stream of frames in each direction. What is said over it, and what is done when it ends, is the
client's business and the same for both.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from fathom.config import child_environment
from fathom.errors import WorkerError
from fathom.serve import messages
from fathom.serve.secret import proof

log = logging.getLogger(__name__)

WORKER = (sys.executable, "-m", "fathom.serve.worker")
CONNECT_S = 10.0


@dataclass
class Link:
    """A worker that has been reached. Fields: name: who it is, for messages. process: if it is ours."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    name: str
    process: asyncio.subprocess.Process | None = None

    def send(self, message: messages.Message) -> None:
        """Write a frame, unless the link is ending."""
        if not self.writer.is_closing():
            self.writer.write(messages.pack(message))

    async def read(self) -> messages.ToFront:
        """The next frame. Raises: IncompleteReadError, ConnectionError: there is none. ValueError: it is no frame."""
        size = messages.frame_bytes(await self.reader.readexactly(messages.LENGTH_BYTES))
        return messages.unpack_to_front(await self.reader.readexactly(size))

    async def end(self, patience_s: float) -> str:
        """Let go of the worker; one of ours has so long to leave before it is killed. Returns: how it ended."""
        if self.process is None:
            self.writer.transport.abort()  # not close: it would wait for a peer that may be gone to read what is left
            return f"the connection to {self.name} ended"
        self.writer.close()
        return f"{self.name} ended with exit code {await _ended(self.process, patience_s)}"


class Transport(Protocol):
    """A way to a worker. Fields: awaited: a worker that cannot be reached yet may come later by itself."""

    awaited: bool

    async def open(self) -> Link:
        """Reach it. Raises: WorkerError: it cannot be, now."""
        ...

    async def release(self) -> None:
        """There will be no more need of it."""
        ...


class Spawned:
    """A process of this machine, which ends when we do: its socket is a pair made here, there is no file to guard."""

    awaited = False

    def __init__(self, command: Sequence[str] = WORKER) -> None:
        self.command = tuple(command)

    async def open(self) -> Link:
        """Start it."""
        ours, theirs = socket.socketpair()
        with theirs:
            # Its own session: Ctrl-C in the terminal reaches the front alone, which then ends the worker in order.
            # Its standard output goes to our standard error, so that ours stays clean for --json.
            process = await asyncio.create_subprocess_exec(
                *self.command,
                str(theirs.fileno()),
                pass_fds=(theirs.fileno(),),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=2,
                env=child_environment(),
                start_new_session=True,
            )
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        return Link(reader, writer, "the worker process", process)

    async def release(self) -> None:
        """Nothing to do: it ended with its link."""


class Remote:
    """A worker that listens on another machine: `python -m fathom.serve.worker --listen HOST:PORT --secret FILE`."""

    awaited = True

    def __init__(self, host: str, port: int, secret: bytes) -> None:
        self.host, self.port = host, port
        self._secret = secret

    @property
    def name(self) -> str:
        return f"the worker at {self.host}:{self.port}"

    async def open(self) -> Link:
        """Connect, and prove that we may."""
        try:
            async with asyncio.timeout(CONNECT_S):
                reader, writer = await asyncio.open_connection(self.host, self.port)
                link = Link(reader, writer, self.name)
                try:
                    await self._introduce(link)
                except BaseException:
                    writer.transport.abort()
                    raise
        except TimeoutError as error:
            raise WorkerError(f"{self.name} did not answer within {CONNECT_S:g} s") from error
        except (OSError, asyncio.IncompleteReadError, ValueError) as error:
            raise WorkerError(f"{self.name} cannot be reached ({error})") from error
        return link

    async def release(self) -> None:
        """Nothing to do: it stays, for whoever comes next."""

    async def _introduce(self, link: Link) -> None:
        # Small frames at once: tokens must not wait for the answer to the ones before them.
        link.writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        challenge = await link.read()
        if not isinstance(challenge, messages.Challenge):
            raise ValueError(f"its first frame is {type(challenge).__name__}, it must be Challenge")
        link.send(messages.Answer(proof(self._secret, challenge.nonce)))


async def _ended(process: asyncio.subprocess.Process, patience_s: float) -> int:
    """Exit code of a worker that has been told to leave; killed if it does not."""
    waiting = asyncio.ensure_future(process.wait())
    try:
        return await asyncio.wait_for(asyncio.shield(waiting), patience_s)
    except TimeoutError:
        log.warning("engine: the worker did not leave within %.1f s; killing it", patience_s)
    except asyncio.CancelledError:
        pass
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    return await waiting
