"""The front's end of a worker: reaches it, hands it requests, sorts its answers, and does without it for a while.

When a worker dies, or is silent for longer than a live one can be (see messages.py), it is reached again, a few times
with growing pauses, and every running request goes on where its reader saw it last (see ledger.py): a client notices a
pause. A worker counts as ready once it has generated a token. A request ends in tokens, in a refusal or, if no worker
comes back, in a WorkerError; always.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import msgspec

from fathom.batching.request import Output, Request, SamplingParams
from fathom.config.faults import faults_of
from fathom.errors import ConfigError, EngineError, FathomError, InputError, RequestError, WorkerError
from fathom.serve import messages
from fathom.serve.ledger import Crash, Inbox, Ledger, Pending
from fathom.serve.transport import Link, Spawned, Transport

log = logging.getLogger(__name__)

LOADING_PATIENCE = 12
"""While a worker loads, it may be silent so many times longer: a library that is read from a slow disk stops it all."""

LOOK_S = 20.0
"""For a worker to answer between two steps."""

PROBE = Request("health", (0,), SamplingParams(max_tokens=1, temperature=0.0, ignore_eos=True))

State = Literal["starting", "ready", "restarting", "failed", "stopped"]


@dataclass(frozen=True)
class RestartPolicy:
    """How often a dead worker is started again.

    Fields: restarts: allowed within `window_s`. probe_s: for one token. outage_s: requests wait at most so long for a
            worker that was lost; then it has failed, and they end.
    """

    restarts: int = 5
    window_s: float = 60.0
    first_pause_s: float = 0.2
    longest_pause_s: float = 10.0
    goodbye_s: float = 3.0
    probe_s: float = 120.0
    outage_s: float = 600.0


class Watcher(Protocol):
    """Who looks after several clients."""

    def admit(self, client: EngineClient, facts: messages.Ready) -> None:
        """A worker has loaded. Raises: InputError: it does not belong to the others; it is not used."""

    def changed(self, client: EngineClient) -> None:
        """`client.state` is another one now; what a dead worker had is held in `client.ledger`."""

    def ended(self, pending: Pending) -> None:
        """A request came to its end by itself."""

    def read(self, pendings: Sequence[Pending]) -> None:
        """These have left a worker that only prefills, to go on elsewhere."""


class EngineClient:
    """One engine worker, kept alive. Args: name: what messages and metrics call it."""

    def __init__(
        self, hello: messages.Hello, *, policy: RestartPolicy | None = None, via: Transport | None = None,
        name: str = "engine", watcher: Watcher | None = None,
    ) -> None:  # fmt: skip
        self.hello, self.name, self.policy = hello, name, policy or RestartPolicy()
        self.via: Transport = via or Spawned()
        self.state: State = "starting"
        self.facts: messages.Ready | None = None
        self.stats = messages.Stats()
        self.restarts = 0
        self._killed = False  # the latest worker, by a signal
        self._tried: Pending | None = None
        self.misses = 0  # workers in a row that did not get as far as a first token
        self.failure: FathomError | None = None
        self.settled = asyncio.Event()  # ready for the first time, or failed for good
        self.ledger = Ledger(name, None if watcher is None else watcher.ended)
        self._watcher = watcher
        self._link: Link | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._crashes: deque[Crash] = deque()
        self._phase: Literal["loading", "probing", "live"] = "loading"
        self._unanswered = 0  # Pings since the last word
        self._looks: dict[int, asyncio.Future[messages.Seen]] = {}
        self._numbers = itertools.count(1)
        self._outage: asyncio.Timeout | None = None
        self._back_by: float | None = None  # the end of an outage (the loop's time); None: there is none
        self._life = 0  # of the worker, for faults

    @property
    def in_flight(self) -> int:
        """Requests taken and not yet finished."""
        return len(self.ledger.pending)

    @property
    def resumed(self) -> int:
        """Times that a request was handed over again."""
        return self.ledger.resumed

    @property
    def poisoned(self) -> int:
        """Requests that were found to kill workers."""
        return self.ledger.poisoned

    @property
    def pid(self) -> int | None:
        """The worker's process, if it is of this machine and there is one."""
        return None if self._link is None or self._link.process is None else self._link.process.pid

    def start(self) -> None:
        """Start the worker and go on; `settled` says when the outcome is known."""
        self._keeper = asyncio.create_task(self._live(), name=f"{self.name} keeper")

    def drain(self, error: FathomError) -> None:
        """Take no more requests and end the running ones with `error`."""
        self.state = "stopped"
        self.fail_all(error)

    async def stop(self) -> None:
        """End the worker; whatever is running gets a WorkerError."""
        self.drain(WorkerError("the server is shutting down"))
        if self.pid is not None:  # a worker elsewhere stays, for whoever comes next
            self._send(messages.Shutdown())
        if self._keeper is not None:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper

    def add(self, requests: Sequence[Request], inbox: Inbox, session: str = "") -> None:
        """Give requests to the worker, all at once; their events arrive in `inbox`.

        Between two workers they wait for the next. `session` is for those who have several (see fleet.py).

        Raises: WorkerError: there is no worker that could take it, nor will there be soon.
        """
        if self.state not in ("ready", "restarting"):
            raise self.failure or WorkerError(f"the engine is {self.state}")
        self.ledger.add(requests, inbox)
        self._give_orders()

    def adopt(self, pendings: Iterable[Pending]) -> None:
        """Go on with requests that another worker had."""
        self.ledger.adopt(pendings)
        self._give_orders()

    def abort(self, request_id: str) -> None:
        """Stop a request, if it still runs; none of its events arrive from now on."""
        if name := self.ledger.remove(request_id):
            self._send(messages.Abort(name))
        self._go_on()

    def fail_all(self, error: FathomError) -> None:
        """End every running request with `error`."""
        for name in self.ledger.end(error):
            self._send(messages.Abort(name))

    async def look(self, what: Literal["experts", "timeline"], **more: Any) -> bytes:
        """What the worker shows of itself, as JSON (see messages.Look). Raises: as `_answer_to`."""
        return await self._answer_to(messages.Look(next(self._numbers), what, **more))

    async def rebalance(self) -> None:
        """Move experts as soon as possible. Raises: as `_answer_to`; ConfigError too if they stay where they are."""
        await self._answer_to(messages.Rebalance(next(self._numbers)))

    async def _answer_to(self, asked: messages.Look | messages.Rebalance) -> bytes:
        """Raises: ConfigError: the worker refuses. WorkerError: there is none that could answer, or not in time."""
        if self._link is None or self._phase == "loading":
            raise WorkerError(f"the engine is {self.state}")
        heard = self._looks[asked.number] = asyncio.get_running_loop().create_future()
        self._send(asked)
        try:
            async with asyncio.timeout(LOOK_S):
                seen = await heard
        except TimeoutError:
            raise WorkerError(f"{self.name} shows nothing within {LOOK_S:g} s; is it in a long step?") from None
        finally:
            del self._looks[asked.number]
        if seen.error:
            raise ConfigError(seen.error)
        return seen.payload

    # -- the worker's life -----------------------------------------------------------------------------------------

    async def _live(self) -> None:
        """Keep a worker as long as there is a use for it, then give it up."""
        try:
            await self._keep()
        finally:
            await self.via.release()

    async def _keep(self) -> None:
        """Run workers one after another until stopped, or until they die too often."""
        while True:
            error = await self._run_in_time()
            self.misses = 0 if self._phase == "live" else self.misses + 1
            self._crashes.append(Crash(time.monotonic()))
            self.ledger.crashed(self._crashes[-1])
            if not self._may_restart(error):
                self.failure = error
                log.error("%s: %s", self.name, error)
                self._become("failed")
                self.fail_all(WorkerError("the engine stopped while it was working on this request"))
                self.settled.set()
                return
            if self.facts is not None:
                self._back_by = self._back_by or asyncio.get_running_loop().time() + self.policy.outage_s
                self.restarts += 1
                self._become("restarting")
            recent = sum(not crash.explained for crash in self._crashes)
            pause_s = min(self.policy.first_pause_s * 2 ** max(0, recent - 1), self.policy.longest_pause_s)
            log.warning("%s: %s; trying again in %.1f s", self.name, error, pause_s)
            await asyncio.sleep(pause_s)

    def _become(self, state: State) -> None:
        if self.state != "stopped":
            self.state = state
        if self._watcher is not None:
            self._watcher.changed(self)

    def _may_restart(self, error: FathomError) -> bool:
        """Crashes that a poison request explains do not count: the worker is not at fault."""
        while self._crashes and self._crashes[-1].at_s - self._crashes[0].at_s > self.policy.window_s:
            self._crashes.popleft()
        if isinstance(error, InputError) or (self.facts is None and not self.via.awaited and not self._killed):
            return False  # it never worked: starting it again would fail the same way
        if self._back_by is not None and asyncio.get_running_loop().time() >= self._back_by:
            return False
        return sum(not crash.explained for crash in self._crashes) <= self.policy.restarts

    async def _run_in_time(self) -> FathomError:
        """One worker from start to end; it is ended if an outage becomes too long before it is ready."""
        try:
            async with asyncio.timeout_at(self._back_by) as self._outage:
                return await self._run_worker()
        except TimeoutError:
            return WorkerError(f"the engine was lost, and is not back within {self.policy.outage_s:g} s")

    async def _run_worker(self) -> FathomError:
        """One worker from start to end; returns why it ended."""
        self._phase, self._unanswered = "loading", 0
        try:
            self._link = link = await self.via.open()
        except FathomError as error:
            return error
        failed: FathomError | None = None
        patience_s = self.policy.goodbye_s
        try:
            link.send(msgspec.structs.replace(self.hello, faults=faults_of(self.hello.faults, self.name, self._life)))
            self._life += 1
            failed = await self._converse(link)
            patience_s = 0.0 if failed else patience_s  # silent, or no sense in what it says: nothing to wait for
        finally:
            ended = await link.end(patience_s)
            self._killed = failed is None and link.process is not None and (link.process.returncode or 0) < 0
            self._link = None
            for heard in [heard for heard in self._looks.values() if not heard.done()]:
                heard.set_exception(WorkerError("the worker ended before it could answer"))
        if failed is None and link.process is None and self._phase == "loading":
            ended += " before its model was loaded; see its log, and whether both sides have the same secret"
        return failed or WorkerError(ended)

    async def _converse(self, link: Link) -> FathomError | None:
        """Listen to the worker until it says no more; None: its side of the link ended."""
        tasks = [asyncio.create_task(part) for part in (self._listen(link), self._beat(link))]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return next(iter(done)).result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _listen(self, link: Link) -> FathomError | None:
        """Sort what the worker says until it says no more."""
        try:
            while True:
                message = await link.read()
                self._unanswered = 0
                failed = self._receive(message)
                if failed is not None:
                    return failed
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        except (OSError, ValueError) as error:  # a host that is gone; a frame that is none
            return WorkerError(f"{link.name} is lost ({error})")

    async def _beat(self, link: Link) -> FathomError:
        """Ask each second whether the worker is there, until it is silent, or without a first token, for too long.

        It counts Pings, not seconds: when this process itself was stopped for a while, nobody else is to blame.
        """
        beat_s, probing = self.hello.beat_s, 0
        while True:
            await asyncio.sleep(beat_s)
            most = self.hello.silent_beats * (LOADING_PATIENCE if self._phase == "loading" else 1)
            if self._unanswered >= most:
                return WorkerError(f"{link.name} has been silent for {self._unanswered * beat_s:g} s")
            probing += self._phase == "probing"
            if probing * beat_s > self.policy.probe_s:
                return WorkerError(f"{link.name} gave no token within {self.policy.probe_s:g} s")
            self._unanswered += 1
            link.send(messages.Ping())

    def _receive(self, message: messages.ToFront) -> FathomError | None:
        """Do what a message asks for; returns why the worker cannot go on, if that is what it says."""
        match message:
            case messages.Tokens(outputs, step_s):
                self._take(outputs, step_s)
            case messages.Refused():
                return self._refused(message)
            case messages.Stats():
                self.stats = message
                self._give_orders()  # a step that failed has been reported to its end
            case messages.Seen(number):
                if number in self._looks and not self._looks[number].done():
                    self._looks[number].set_result(message)
            case messages.Pong(step_s):
                if step_s > self.hello.longest_step_s:
                    return WorkerError(f"the worker has been in one step for {step_s:.0f} s")
            case messages.Ready():
                return self._loaded(message)
            case messages.Failed(text, exit_code):
                return InputError(text) if exit_code == 2 else WorkerError(text)
        return None

    def _take(self, outputs: Sequence[Output], step_s: float) -> None:
        for output in outputs:
            if self._phase == "probing" and output.request_id == PROBE.id:
                if output.finish_reason is not None:
                    self._phase, self._back_by, self.misses = "live", None, 0
                    if self._outage is not None:
                        self._outage.reschedule(None)
                    self._become("ready")
                    self.settled.set()
                    self._give_orders()
            else:
                self.ledger.take(output, step_s)
        if (read := self.ledger.read()) and self._watcher is not None:
            self._watcher.read(read)
        self._go_on()

    def _refused(self, message: messages.Refused) -> FathomError | None:
        text = message.message
        if message.request_id == PROBE.id:
            return WorkerError(f"the engine cannot generate a token: {text}")
        if message.fault == "engine":
            self.ledger.failed_step(message.request_id, Crash(time.monotonic()), EngineError(text))
            return None
        self.ledger.refuse(message.request_id, RequestError(text, param=message.param, code=message.code))
        self._go_on()
        return None

    def _loaded(self, facts: messages.Ready) -> FathomError | None:
        """A worker has its model: let it show that it can generate, unless it is not what it should be."""
        if self.facts is not None and facts.fingerprint != self.facts.fingerprint:
            begun = [pending for pending in self.ledger.pending.values() if pending.emitted]
            self.ledger.end(WorkerError("the model changed while the engine was restarted"), begun)
        try:
            if self._watcher is not None:
                self._watcher.admit(self, facts)
        except InputError as error:
            return error
        self.facts, self._phase = facts, "probing"
        self._send(messages.Add((PROBE,)))
        return None

    def _go_on(self) -> None:
        """When a suspect has been tried: the next one's turn, which may wait at a replica that is down."""
        if self.ledger.trial is self._tried:
            return
        self._give_orders()
        if self._watcher is not None and self.state == "ready" and not self.ledger.quarantined:
            self._watcher.changed(self)

    def _give_orders(self) -> None:
        if self.state == "ready":
            for message in self.ledger.orders():
                self._send(message)
        self._tried = self.ledger.trial

    def _send(self, message: messages.Message) -> None:
        if self._link is not None:
            self._link.send(message)
