"""What is under way on one worker, kept so that its death costs nobody a token. No clock, no socket: only the books.

Each running request is kept with the tokens its reader has been given. After a crash it is handed to the next worker
with those, and goes on after them. Each time it is handed over it goes under a fresh name, so that what a worker still
says about an earlier life of it is not taken for its present one.

A request that was at work in two crashes is a suspect. Suspects are tried one at a time, alone, while all others wait:
who gets past the place where the worker died goes free; who crashes alone three times in a row is the poison and ends
with an error. Once is not enough: workers also die for reasons of their own, and then somebody innocent is with them.
Twice is not either: with a worker that was killed within 0.6 s of each recovery, 2 of 34 kills convicted somebody.

A worker that only prefills is left by each request after one token, and is asked to lend its pages: it goes on at
another worker as after a crash, but with the address of what was computed already.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import msgspec

from fathom.batching.request import Output, PrefixSource, Request
from fathom.errors import EngineError, FathomError
from fathom.serve import messages

SUSPECT_AFTER = 2  # crashes
GUILTY_AFTER = 3  # crashes alone, in a row
MAX_SETBACKS = 8  # failed steps, before a request ends with what failed
TRIAL_OUTPUTS = 2
"""Outputs with tokens that acquit a suspect. The step that crashed was the one after the last output; where tokens are
sent in bundles (gathering.py) the second output holds a whole bundle, so it lies behind that step too."""

Event = Output | FathomError


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


@dataclass(eq=False)
class Crash:
    """The death of a worker. Fields: explained: a poison request was found behind it; it says nothing about others."""

    at_s: float
    explained: bool = False


@dataclass(eq=False)
class Pending:
    """A request that has not ended.

    Fields: group: siblings have the same one, and travel together. emitted: tokens that its reader has. crashes: of
            workers that had it. failed_on: replicas that died or went silent with it. sent_as: its name on the worker
            now, "" while it is held here. outputs: those with tokens since it was sent. setbacks: failed steps. alone:
            crashes of workers that had nothing else, since it last got past one. prefix: where pages of its prompt can
            be had, until the worker that it went to with this has given a token. read: it has left a worker that
            prefills, and was not sent since.
    """

    request: Request
    inbox: Inbox
    group: object
    emitted: list[int] = field(default_factory=list)
    read_tokens: int = 0
    cached_tokens: int = 0
    disk_tokens: int = 0
    crashes: list[Crash] = field(default_factory=list)
    failed_on: set[str] = field(default_factory=set)
    sends: int = 0
    sent_as: str = ""
    outputs: int = 0
    setbacks: int = 0
    alone: int = 0
    prefix: PrefixSource | None = None
    read: bool = False

    @property
    def suspect(self) -> bool:
        return sum(not crash.explained for crash in self.crashes) >= SUSPECT_AFTER

    def send(self) -> Request:
        """The request as a worker gets it now."""
        self.sent_as = f"{self.request.id}/{self.sends}" if self.sends else self.request.id
        self.sends += 1
        self.outputs = 0
        return msgspec.structs.replace(
            self.request, id=self.sent_as, emitted_token_ids=tuple(self.emitted),
            prefix_from=self.prefix or self.request.prefix_from,
        )  # fmt: skip

    def take(self, output: Output) -> Output:
        """An output as its reader gets it: with its own name, and counts that go on where the last worker left off."""
        if not self.emitted:
            self.cached_tokens, self.disk_tokens = output.cached_tokens, output.disk_tokens
        if output.read_tokens > self.read_tokens:
            self.read_tokens = output.read_tokens
        if output.token_ids:
            self.emitted += output.token_ids
            self.outputs += 1
            self.prefix = None
        if self.sends == 1 and output.cached_tokens == self.cached_tokens:
            return output  # its first life: all is as it should be
        return msgspec.structs.replace(
            output, request_id=self.request.id, read_tokens=self.read_tokens, cached_tokens=self.cached_tokens,
            disk_tokens=self.disk_tokens,
        )  # fmt: skip

    def give(self, event: Event, step_s: float = 0.0) -> None:
        """Let its reader know."""
        self.inbox.queue.put_nowait(Arrival(self.request.id, event, step_s))


class Ledger:
    """The books of one worker.

    Args:   name: of the replica that the worker is. ended: told of each request that came to its end by itself.
    Fields: poisoned: requests found guilty so far. resumed: requests handed over again so far, because a worker was
            lost. prefills: whether the worker gives each request one token only.
    """

    def __init__(self, name: str = "", ended: Callable[[Pending], None] | None = None) -> None:
        self.name = name
        self._ended = ended
        self.pending: dict[str, Pending] = {}
        self.trial: Pending | None = None
        self.poisoned = 0
        self.resumed = 0
        self.prefills = False
        self._sent: dict[str, Pending] = {}
        self._read: list[Pending] = []

    def add(self, requests: Iterable[Request], inbox: Inbox) -> None:
        """New requests, siblings of each other."""
        group = object()
        self.adopt([Pending(request, inbox, group, list(request.emitted_token_ids)) for request in requests])

    def adopt(self, pendings: Iterable[Pending]) -> None:
        """Requests that another worker had, or none yet."""
        self.pending |= {pending.request.id: pending for pending in pendings}

    def release(self, pendings: Iterable[Pending]) -> None:
        """Another worker takes these over."""
        for pending in pendings:
            self.remove(pending.request.id)

    def read(self) -> list[Pending]:
        """Those that have their first token from a worker that prefills, and leave it."""
        found, self._read = self._read, []
        self.release(found)
        return found

    def remove(self, request_id: str) -> str:
        """It has ended, or nobody wants it any more. Returns: its name on the worker, "" if it is not there."""
        pending = self.pending.pop(request_id, None)
        if pending is None:
            return ""
        if pending is self.trial:
            self.trial = None
        return self._withdraw(pending)

    @property
    def quarantined(self) -> bool:
        """Whether requests must wait, because a suspect is on trial or will be."""
        return self.trial is not None or any(pending.suspect for pending in self.pending.values())

    def held(self) -> list[Pending]:
        """Requests that the worker does not have."""
        return [pending for pending in self.pending.values() if not pending.sent_as]

    def orders(self) -> list[messages.Message]:
        """What a worker that is ready must be told now."""
        aborts: list[messages.Message] = []
        if self.trial is None:
            self.trial = next((pending for pending in self.pending.values() if pending.suspect), None)
            if self.trial is not None:
                aborts = [messages.Abort(self._withdraw(pending)) for pending in list(self._sent.values())]
        if self.trial is not None:
            groups = [] if self.trial.sent_as else [[self.trial]]
        else:
            groups = list(grouped(self.held()))
        return [*aborts, *[messages.Add(self._send(group)) for group in groups]]

    def take(self, output: Output, step_s: float) -> None:
        """Pass an output on to whom it is for, and note what it means."""
        pending = self._sent.get(output.request_id)
        if pending is None:
            return  # aborted, or handed over, a moment ago
        if self.prefills and _goes_on(pending, output):
            pending.give(pending.take(msgspec.structs.replace(output, finish_reason=None, prefix=None)), step_s)
            pending.prefix, pending.read = output.prefix, True
            if pending is self.trial:
                pending.crashes.clear()
                pending.alone = 0
            self._read.append(pending)
            return
        pending.give(pending.take(output), step_s)
        if output.finish_reason is not None:
            self.remove(pending.request.id)
            if self._ended is not None:
                self._ended(pending)
        elif pending is self.trial and pending.outputs >= TRIAL_OUTPUTS:
            pending.crashes.clear()
            pending.alone = 0
            self.trial = None

    def refuse(self, sent_as: str, error: FathomError) -> None:
        """The worker did not take it, or gave it up."""
        if (pending := self._sent.get(sent_as)) is not None:
            self.remove(pending.request.id)
            pending.give(error)

    def failed_step(self, sent_as: str, crash: Crash, error: EngineError) -> None:
        """A step with this request failed, but the worker lives: for the request it is as a crash, and is tried again.

        Who failed alone ends, and who failed too often: some steps may fail in company only, for ever.
        """
        pending = self._sent.get(sent_as)
        if pending is None:
            return
        pending.setbacks += 1
        if pending is self.trial or pending.setbacks > MAX_SETBACKS:
            self.refuse(sent_as, error)
            return
        self._withdraw(pending)
        pending.crashes.append(crash)

    def crashed(self, crash: Crash) -> None:
        """The worker died with all it had. A suspect that it had alone, for the second time, is found guilty."""
        victims, self._sent = list(self._sent.values()), {}
        for pending in victims:
            pending.sent_as = ""
            pending.crashes.append(crash)
            pending.failed_on.add(self.name)
        guilty = self.trial if self.trial in victims else None
        if guilty is None:
            return
        guilty.alone += 1
        if guilty.alone < GUILTY_AFTER:
            return
        for one in guilty.crashes:
            one.explained = True
        self.poisoned += 1
        self.remove(guilty.request.id)
        times = len(guilty.crashes)
        text = f"the engine died {times} times while it worked on this request, the last {guilty.alone} on it alone"
        guilty.give(EngineError(text, code="poison_request"))

    def end(self, error: FathomError, only: Iterable[Pending] | None = None) -> list[str]:
        """End everything, or only these, with `error`. Returns: the names of those that are on the worker."""
        ended = list(self.pending.values() if only is None else only)
        names = [name for pending in ended if (name := self.remove(pending.request.id))]
        for pending in ended:
            pending.give(error)
        return names

    def _send(self, group: Iterable[Pending]) -> tuple[Request, ...]:
        sent = []
        for pending in group:
            self.resumed += pending.sends > 0 and not pending.read
            pending.read = False
            sent.append(pending.send())
            self._sent[sent[-1].id] = pending
        return _prefilling(sent) if self.prefills else tuple(sent)

    def _withdraw(self, pending: Pending) -> str:
        name, pending.sent_as = pending.sent_as, ""
        self._sent.pop(name, None)
        return name


def grouped(pendings: Sequence[Pending]) -> Iterable[list[Pending]]:
    """Siblings together, in order."""
    groups: dict[int, list[Pending]] = {}
    for pending in pendings:
        groups.setdefault(id(pending.group), []).append(pending)
    return groups.values()


def _goes_on(pending: Pending, output: Output) -> bool:
    """Whether this end is only the end of what a worker that prefills was asked for."""
    emitted = len(pending.emitted) + len(output.token_ids)
    return output.finish_reason == "length" and emitted < pending.request.params.max_tokens


def _prefilling(requests: Iterable[Request]) -> tuple[Request, ...]:
    """One more token of each; those that go on elsewhere lend their pages, siblings only once."""
    found, lent = [], set()
    for request in requests:
        tokens, prompt = len(request.emitted_token_ids) + 1, (request.prompt_token_ids, request.cache_salt)
        ends = request.params.max_tokens <= tokens
        params = request.params if ends else msgspec.structs.replace(request.params, max_tokens=tokens)
        lends = not ends and prompt not in lent
        found.append(msgspec.structs.replace(request, params=params, lends_prefix=lends))
        lent |= {prompt} if lends else set()
    return tuple(found)
