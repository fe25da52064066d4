"""Prefill and decode on two workers: one reads prompts and samples each first token, the other goes on from there.

    prefill   the request with max_tokens 1: reads the prompt, samples, keeps the prompt's pages under a lease
    decode    the request with that token as emitted already, and the lease: fetches the pages, computes the few
              tokens of the last, partly filled one, and samples on

It takes requests as EngineClient does, and can stand in its place. The text is that of one engine, whatever fails: the
noise is keyed by seed and position, latents are exact, and pages that do not come are computed by the decode worker.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from msgspec.structs import replace

from fathom.batching.request import Output, Request
from fathom.errors import EngineError, FathomError, RequestError, WorkerError
from fathom.serve.ledger import Arrival, Event, Inbox

log = logging.getLogger(__name__)


class Client(Protocol):
    """A worker, or several behind one front, as EngineClient is."""

    def add(self, requests: Sequence[Request], inbox: Inbox, session: str = "") -> None: ...

    def abort(self, request_id: str) -> None: ...


@dataclass
class Standing:
    """A request on its way. first: what the prefill worker answered. at: who has it now."""

    request: Request
    session: str = ""
    at: Client | None = None
    first: Output | None = None


class Disaggregated:
    """Two pools as one.

    Args:   patience_s: for a first token; after that the decode worker reads the prompt itself.
    Fields: counts: requests by what became of them: "handed over", "ended at once", "fell back".
    """

    def __init__(self, prefill: Client, decode: Client, *, patience_s: float = 120.0) -> None:
        self.prefill, self.decode = prefill, decode
        self.patience_s = patience_s
        self.counts: Counter[str] = Counter()
        self._standing: dict[str, Standing] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def in_flight(self) -> int:
        """Requests given to it and not yet finished."""
        return len(self._standing)

    def add(self, requests: Sequence[Request], inbox: Inbox, session: str = "") -> None:
        """Take requests, all at once; their events arrive in `inbox`. Siblings stay together on both workers."""
        standing = [Standing(request, session) for request in requests]
        self._standing |= {each.request.id: each for each in standing}
        task = asyncio.create_task(self._run(standing, inbox))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def abort(self, request_id: str) -> None:
        """Stop a request, if it still runs; none of its events arrive from now on."""
        standing = self._standing.pop(request_id, None)
        if standing is not None and standing.at is not None:
            standing.at.abort(request_id)

    async def _run(self, standing: Sequence[Standing], inbox: Inbox) -> None:
        await self._prefill(standing, inbox)
        left = [each for each in standing if each.request.id in self._standing]
        if not left:
            return
        try:
            await self._relay(self.decode, [_continued(each) for each in left], inbox)
        except FathomError as error:
            for each in left:
                self._deliver(inbox, each.request.id, error, 0.0, last=True)

    async def _prefill(self, standing: Sequence[Standing], inbox: Inbox) -> None:
        """First tokens, as far as the prefill worker gives them."""
        reading, seen = [], set()
        for each in standing:
            prompt = (each.request.prompt_token_ids, each.request.cache_salt)
            ends = each.request.params.max_tokens <= len(each.request.emitted_token_ids) + 1
            reading.append(_first_only(each.request, lends=not ends and prompt not in seen))
            if not ends:
                seen.add(prompt)
        try:
            async with asyncio.timeout(self.patience_s):
                await self._relay(self.prefill, reading, inbox)
        except (FathomError, TimeoutError) as error:
            why = str(error) or f"no first token within {self.patience_s:g} s"
            for each in standing:
                if each.request.id in self._standing and each.first is None:
                    self.counts["fell back"] += 1
                    log.warning("request %s: prefill failed, decode reads the prompt: %s", each.request.id, why)
                    self.prefill.abort(each.request.id)

    async def _relay(self, client: Client, requests: Sequence[Request], inbox: Inbox) -> None:
        """Run requests on one worker and pass on what it says, until it has nothing more to say about them.

        Raises: FathomError: the worker cannot go on with one of them (a refusal is passed on instead).
        """
        arriving = Inbox()
        open_ids = {request.id for request in requests}
        for request in requests:
            self._standing[request.id].at = client
        client.add(requests, arriving, self._standing[requests[0].id].session)
        while open_ids := {each for each in open_ids if each in self._standing}:
            arrival = await self._next(arriving)
            if arrival is None or arrival.request_id not in open_ids:
                continue
            event = arrival.event
            if isinstance(event, RequestError):
                self._deliver(inbox, arrival.request_id, event, arrival.step_s, last=True)
            elif isinstance(event, EngineError | WorkerError):
                raise event
            elif isinstance(event, Output) and self._pass_on(client, event, arrival.step_s, inbox):
                open_ids.discard(arrival.request_id)

    async def _next(self, arriving: Inbox) -> Arrival | None:
        """What comes next; None now and then, to see who was aborted."""
        try:
            async with asyncio.timeout(1.0):
                return await arriving.queue.get()
        except TimeoutError:
            return None

    def _pass_on(self, client: Client, output: Output, step_s: float, inbox: Inbox) -> bool:
        """Give an output to whoever waits for it, as one engine would have; whether this worker is done with it."""
        standing = self._standing[output.request_id]
        done = output.finish_reason is not None
        if client is self.prefill and done:
            standing.first = output
            emitted = len(standing.request.emitted_token_ids) + len(output.token_ids)
            goes_on = output.finish_reason == "length" and emitted < standing.request.params.max_tokens
            self.counts["handed over" if goes_on else "ended at once"] += 1
            output = replace(output, finish_reason=None if goes_on else output.finish_reason, prefix=None)
        elif client is self.decode and standing.first is not None:
            first = standing.first  # what was read, and found, is what the prefill worker says
            output = replace(
                output, read_tokens=first.read_tokens, cached_tokens=first.cached_tokens, disk_tokens=first.disk_tokens
            )
        self._deliver(inbox, output.request_id, output, step_s, last=output.finish_reason is not None)
        return done

    def _deliver(self, inbox: Inbox, request_id: str, event: Event, step_s: float, *, last: bool) -> None:
        standing = self._standing.pop(request_id, None) if last else self._standing.get(request_id)
        if standing is not None:
            inbox.queue.put_nowait(Arrival(request_id, event, step_s))


def _first_only(request: Request, *, lends: bool) -> Request:
    """The part of a request that the prefill worker does: one more token than there are."""
    params = replace(request.params, max_tokens=len(request.emitted_token_ids) + 1)
    return replace(request, params=params, lends_prefix=lends)


def _continued(standing: Standing) -> Request:
    """The rest of it, for the decode worker."""
    first = standing.first
    if first is None:
        return standing.request
    emitted = (*standing.request.emitted_token_ids, *first.token_ids)
    return replace(standing.request, emitted_token_ids=emitted, prefix_from=first.prefix)
