"""The front's end of the socket: starts the engine worker, hands it requests, sorts its answers, starts it again.

The socket is a pair made here and inherited by the worker, so there is no file to guard or to leave behind. When
either side goes, the other sees the end of the stream: the worker leaves, the front fails what was running and starts
a new worker, a few times with growing pauses. A request ends in tokens, in a refusal or in a WorkerError, always.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from fathom.batching.request import Output, Request
from fathom.errors import EngineError, FathomError, InputError, RequestError, WorkerError
from fathom.serve import messages

log = logging.getLogger(__name__)

WORKER = (sys.executable, "-m", "fathom.serve.worker")

State = Literal["starting", "ready", "restarting", "failed", "stopped"]
Event = Output | FathomError


@dataclass(frozen=True)
class RestartPolicy:
    """How often a dead worker is started again. Fields: restarts: allowed within `window_s`."""

    restarts: int = 3
    window_s: float = 60.0
    first_pause_s: float = 0.2
    longest_pause_s: float = 10.0
    goodbye_s: float = 3.0


@dataclass(frozen=True)
class Arrival:
    """An event for one request, and how long the step behind it took."""

    request_id: str
    event: Event
    step_s: float = 0.0


@dataclass
class Inbox:
    """Where the events of one exchange with a client arrive, whatever request they belong to."""

    queue: asyncio.Queue[Arrival] = field(default_factory=asyncio.Queue)


class EngineClient:
    """One engine worker, kept alive."""

    def __init__(
        self, hello: messages.Hello, *, policy: RestartPolicy | None = None, command: Sequence[str] = WORKER
    ) -> None:
        self.hello = hello
        self.policy = policy or RestartPolicy()
        self.command = tuple(command)
        self.state: State = "starting"
        self.facts: messages.Ready | None = None
        self.stats = messages.Stats()
        self.restarts = 0
        self.failure: FathomError | None = None
        self.settled = asyncio.Event()  # ready for the first time, or failed for good
        self.pid: int | None = None
        self._inboxes: dict[str, Inbox] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._crashes: deque[float] = deque()

    @property
    def in_flight(self) -> int:
        """Requests given to the worker and not yet finished."""
        return len(self._inboxes)

    def start(self) -> None:
        """Start the worker and go on; `settled` says when the outcome is known."""
        self._keeper = asyncio.create_task(self._keep(), name="engine worker")

    def drain(self, error: FathomError) -> None:
        """Take no more requests and end the running ones with `error`."""
        self.state = "stopped"
        self.fail_all(error)

    async def stop(self) -> None:
        """End the worker; whatever is running gets a WorkerError."""
        self.drain(WorkerError("the server is shutting down"))
        self._send(messages.Shutdown())
        if self._keeper is not None:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper

    def add(self, requests: Sequence[Request], inbox: Inbox) -> None:
        """Give requests to the worker, all at once; their events arrive in `inbox`.

        Raises: WorkerError: there is no worker that could take it now.
        """
        if self.state != "ready":
            raise self.failure or WorkerError(f"the engine is {self.state}")
        self._inboxes |= dict.fromkeys((request.id for request in requests), inbox)
        self._send(messages.Add(tuple(requests)))

    def abort(self, request_id: str) -> None:
        """Stop a request, if it still runs; none of its events arrive from now on."""
        if self._inboxes.pop(request_id, None) is not None:
            self._send(messages.Abort(request_id))

    def fail_all(self, error: FathomError) -> None:
        """End every running request with `error`."""
        inboxes, self._inboxes = self._inboxes, {}
        for request_id, inbox in inboxes.items():
            inbox.queue.put_nowait(Arrival(request_id, error))
            self._send(messages.Abort(request_id))

    # -- the worker's life -----------------------------------------------------------------------------------------

    async def _keep(self) -> None:
        """Run workers one after another until stopped, or until they die too often."""
        while True:
            error = await self._run_worker()
            self.fail_all(WorkerError("the engine stopped while it was working on this request"))
            if not self._may_restart(error):
                self.state, self.failure = "failed", error
                log.error("engine: %s", error)
                self.settled.set()
                return
            self.state = "restarting"
            self.restarts += 1
            pause_s = min(self.policy.first_pause_s * 2 ** (len(self._crashes) - 1), self.policy.longest_pause_s)
            log.warning("engine: %s; starting it again in %.1f s", error, pause_s)
            await asyncio.sleep(pause_s)

    def _may_restart(self, error: FathomError) -> bool:
        now = time.monotonic()
        self._crashes.append(now)
        while self._crashes and now - self._crashes[0] > self.policy.window_s:
            self._crashes.popleft()
        if isinstance(error, InputError) or self.facts is None:
            return False  # it never worked: starting it again would fail the same way
        return len(self._crashes) <= self.policy.restarts

    async def _run_worker(self) -> FathomError:
        """One worker from start to end; returns why it ended."""
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
                start_new_session=True,
            )
        self.pid = process.pid
        reader, self._writer = await asyncio.open_unix_connection(sock=ours)
        failed: FathomError | None = None
        try:
            self._send(self.hello)
            failed = await self._listen(reader)
        finally:
            self._writer.close()
            self._writer = None
            code = await _ended(process, self.policy.goodbye_s)
        return failed or WorkerError(f"the worker process ended with exit code {code}")

    async def _listen(self, reader: asyncio.StreamReader) -> FathomError | None:
        """Sort what the worker says until it says no more."""
        try:
            while True:
                size = messages.frame_bytes(await reader.readexactly(messages.LENGTH_BYTES))
                failed = self._receive(messages.unpack_to_front(await reader.readexactly(size)))
                if failed is not None:
                    return failed
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    def _receive(self, message: messages.ToFront) -> FathomError | None:
        match message:
            case messages.Tokens(outputs, step_s):
                for output in outputs:
                    self._deliver(output.request_id, output, step_s, last=output.finish_reason is not None)
            case messages.Refused(request_id, text, fault, param, code):
                refusal = EngineError(text) if fault == "engine" else RequestError(text, param=param, code=code)
                self._deliver(request_id, refusal, 0.0, last=True)
            case messages.Stats():
                self.stats = message
            case messages.Ready():
                self.facts, self.state = message, "ready"
                self.settled.set()
            case messages.Failed(text, exit_code):
                return InputError(text) if exit_code == 2 else WorkerError(text)
        return None

    def _deliver(self, request_id: str, event: Event, step_s: float, *, last: bool) -> None:
        inbox = self._inboxes.pop(request_id, None) if last else self._inboxes.get(request_id)
        if inbox is not None:  # else: aborted a moment ago
            inbox.queue.put_nowait(Arrival(request_id, event, step_s))

    def _send(self, message: messages.Message) -> None:
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(messages.pack(message))


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
