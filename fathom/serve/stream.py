"""Engine outputs in, text deltas out: one Choice per sequence, one Exchange per HTTP request.

A Choice is plain, synchronous state: feed it the engine's outputs in any chunking and the texts it gives add up to the
same reply. An Exchange joins the `n` choices of one request, keeps its clock, and guarantees one thing: when it is
closed, for whatever reason, nothing of it runs on in the engine.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Literal, Protocol

from fathom.batching.request import Output, Request, TokenLogprob, leaves_thinking_open
from fathom.errors import EngineError, InputError, RequestError, WorkerError
from fathom.serve.client import EngineClient
from fathom.serve.errors import ApiError
from fathom.serve.fleet import Fleet
from fathom.serve.ledger import Arrival, Inbox
from fathom.serve.metrics import Metrics
from fathom.serve.parsers import SegmentParser, StopFilter
from fathom.tokenizer import Tokenizer

log = logging.getLogger(__name__)

Phase = Literal["queued", "reading", "thinking", "answering", "done"]


@dataclass
class Delta:
    """What one engine output added to one choice."""

    index: int
    reasoning: str = ""
    content: str = ""
    reasoning_logprobs: list[TokenLogprob] = field(default_factory=list)
    content_logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: str | None = None

    @property
    def visible(self) -> bool:
        """Whether a client would notice it."""
        return bool(self.reasoning or self.content or self.finish_reason)


@dataclass
class Clock:
    """When things happened to an exchange or a choice [s, monotonic]; None: not yet."""

    arrived: float = field(default_factory=time.monotonic)
    begun: float | None = None
    first_token: float | None = None
    last_token: float | None = None

    def until(self, moment: float | None) -> float:
        """Seconds from arrival to a moment, or to now if it has not come."""
        return (time.monotonic() if moment is None else moment) - self.arrived

    def note(self, now: float, step_s: float, *, token: bool) -> None:
        """An output came, of a step that took so long."""
        if self.begun is None:
            self.begun = max(self.arrived, now - step_s)
        if token:
            self.first_token = self.first_token or now
            self.last_token = now


class Choice:
    """One sequence on its way from token ids to text. `split`: part thinking from answer (chat)."""

    def __init__(
        self, index: int, request: Request, tokenizer: Tokenizer, *, stops: Sequence[str] = (), split: bool = True
    ) -> None:
        self.index, self.request = index, request
        thinking = leaves_thinking_open(request.prompt_token_ids, tokenizer.think_id, tokenizer.end_think_id)
        self._parser = SegmentParser(tokenizer, thinking=thinking, split=split)
        self._stop = StopFilter(stops)
        self.reasoning, self.content = "", ""
        self.reasoning_logprobs: list[TokenLogprob] = []
        self.content_logprobs: list[TokenLogprob] = []
        self.token_ids: list[int] = []
        self.read_tokens = 0
        self.cached_tokens = 0
        self.disk_tokens = 0
        self.accepted_drafts = 0
        self.rejected_drafts = 0
        self.finish_reason: str | None = None
        self.clock = Clock()

    @property
    def reasoning_tokens(self) -> int:
        return self._parser.reasoning_tokens

    @property
    def phase(self) -> Phase:
        if self.finish_reason is not None:
            return "done"
        if not self.token_ids:
            return "reading" if self.read_tokens else "queued"
        return "thinking" if self._parser.thinking else "answering"

    @property
    def budget_hit(self) -> bool:
        """Whether its thought was as long as its budget, and was closed."""
        thinking = self.request.params.thinking
        spent = thinking is not None and 0 < thinking.budget_tokens <= self.reasoning_tokens
        return spent and not self._parser.thinking

    @property
    def stopped_by_text(self) -> bool:
        """A stop string ended it: the engine does not know yet and must be told."""
        return self._stop.stopped

    def feed(self, output: Output) -> Delta:
        """Take in one engine output. Stop strings are looked for in the answer, not in the thinking.

        Tokens after the one that completes a stop string are as if they had never been: without guesses ahead, the
        engine would not have made them.
        """
        self.read_tokens, self.cached_tokens = output.read_tokens, output.cached_tokens
        self.disk_tokens = output.disk_tokens
        self.accepted_drafts += output.accepted_drafts
        self.rejected_drafts += output.rejected_drafts
        delta = Delta(self.index)
        for at, token_id in enumerate(output.token_ids):
            self._push(token_id, output.logprobs[at] if output.logprobs else None, delta)
            if self._stop.stopped:
                break
        if output.finish_reason is not None:
            rest = self._parser.flush()
            delta.reasoning += rest.reasoning
            delta.content += self._stop.push(rest.content) + self._stop.flush()
        delta.finish_reason = self.finish_reason = "stop" if self._stop.stopped else output.finish_reason
        self.reasoning += delta.reasoning
        self.content += delta.content
        self.reasoning_logprobs += delta.reasoning_logprobs
        self.content_logprobs += delta.content_logprobs
        return delta

    def _push(self, token_id: int, logprob: TokenLogprob | None, delta: Delta) -> None:
        """Add one token to what came of an output."""
        self.token_ids.append(token_id)
        piece = self._parser.push((token_id,))
        delta.reasoning += piece.reasoning
        delta.content += self._stop.push(piece.content)
        if logprob is not None:
            delta.reasoning_logprobs += [logprob] * len(piece.reasoning_at)
            delta.content_logprobs += [logprob] * len(piece.content_at)


@dataclass(frozen=True)
class Waits:
    """How long an exchange lets things take. Fields: tick_s: pause after which `deltas` gives a None."""

    tick_s: float = 10.0
    queue_s: float = 600.0


class Told(Protocol):
    """What a reply tells of: its choices and its times."""

    choices: list[Choice]
    clock: Clock


class Exchange:
    """The choices of one HTTP request, running in the engine. Args: session: see Front.open."""

    def __init__(
        self,
        client: EngineClient | Fleet,
        choices: Sequence[Choice],
        metrics: Metrics,
        waits: Waits,
        session: str = "",
        clock: Clock | None = None,
    ) -> None:
        self.choices = list(choices)
        self.clock = clock or Clock()
        self._client, self._metrics, self._waits, self._session = client, metrics, waits, session
        self._inbox = Inbox()
        self._open = {choice.request.id: choice for choice in choices}

    @property
    def done(self) -> bool:
        return not self._open

    @property
    def shown(self) -> list[Choice]:
        """Those that the client gets: all."""
        return self.choices

    def start(self) -> None:
        """Hand every choice to the engine.

        Raises: ApiError: 503, it takes none now.
        """
        try:
            requests = [choice.request for choice in self.choices]
            for _, siblings in groupby(requests, lambda request: request.prompt_token_ids):
                self._client.add(list(siblings), self._inbox, self._session)
        except (EngineError, WorkerError, InputError) as error:
            self.close("unavailable")
            raise unavailable(self._client, error) from error

    async def deltas(self) -> AsyncIterator[Delta | None]:
        """Every change, as it comes; None when `tick_s` passed without one.

        Raises: ApiError: the engine refused a request, died, or kept it waiting too long.
        """
        while self._open:
            try:
                # not wait_for: before Python 3.12 it loses a cancellation that meets a result, and runs on for nobody
                async with asyncio.timeout(self._waits.tick_s):
                    arrival = await self._inbox.queue.get()
            except TimeoutError:
                self._check_patience()
                yield None
                continue
            delta = self._take(arrival)
            if delta is not None:
                yield delta

    async def finish(self) -> None:
        """Run to the end without looking at the pieces."""
        async for _ in self.deltas():
            pass

    def give_up(self, indices: Iterable[int]) -> int:
        """Stop these choices, as far as they run: nobody needs them any more. Returns: how many they were."""
        unwanted = set(indices)
        found = [choice for choice in self._open.values() if choice.index in unwanted]
        for choice in found:
            self._client.abort(choice.request.id)
            del self._open[choice.request.id]
            choice.finish_reason = "abort"
            self._count(choice)
        return len(found)

    def close(self, reason: str = "disconnect") -> None:
        """Leave nothing running; `reason` is for the metrics and only counts if something did run."""
        if self._open:
            self._metrics.aborted.add(1, reason=reason)
        for request_id in self._open:
            self._client.abort(request_id)
        self._open = {}

    def _take(self, arrival: Arrival) -> Delta | None:
        choice = self._open.get(arrival.request_id)
        if choice is None:
            return None
        event = arrival.event
        if not isinstance(event, Output):
            self.close("error")
        if isinstance(event, RequestError):
            raise ApiError(400, str(event), param=event.param, code=event.code)
        if isinstance(event, EngineError):
            raise ApiError(500, str(event), code=event.code)
        if not isinstance(event, Output):
            raise unavailable(self._client, event)
        now = time.monotonic()
        for clock in (self.clock, choice.clock):
            clock.note(now, arrival.step_s, token=bool(event.token_ids))
        delta = choice.feed(event)
        if choice.finish_reason is not None:
            del self._open[arrival.request_id]
            if choice.stopped_by_text:
                self._client.abort(arrival.request_id)
            self._count(choice)
        return delta

    def _check_patience(self) -> None:
        if self.clock.begun is None and self.clock.until(None) > self._waits.queue_s:
            self.close("queue_timeout")
            raise ApiError(
                503,
                f"the request waited {self._waits.queue_s:g} s for its turn; the server is overloaded, try later.",
                code="queue_timeout",
                retry_after_ms=10_000,
            )

    def _count(self, choice: Choice) -> None:
        """Note a finished choice, and with the last one the times of the exchange."""
        metrics, clock = self._metrics, self.clock
        metrics.finished.add(1, reason=choice.finish_reason or "abort")
        metrics.prompt_tokens.add(len(choice.request.prompt_token_ids))
        metrics.cached_tokens.add(choice.cached_tokens - choice.disk_tokens, tier="memory")
        metrics.cached_tokens.add(choice.disk_tokens, tier="disk")
        metrics.output_tokens.add(len(choice.token_ids))
        metrics.reasoning_tokens.add(choice.reasoning_tokens)
        metrics.budgets_hit.add(choice.budget_hit)
        if self._open or clock.first_token is None or clock.last_token is None:
            return
        metrics.queued_s.observe(clock.until(clock.begun))
        metrics.first_token_s.observe(clock.until(clock.first_token))
        metrics.request_s.observe(clock.until(clock.last_token))
        if len(choice.token_ids) > 1:
            metrics.per_token_s.observe((clock.last_token - clock.first_token) / (len(choice.token_ids) - 1))


def unavailable(client: EngineClient | Fleet, error: Exception) -> ApiError:
    """The 503 that tells a client why there is no engine now, and whether to come back."""
    if client.state == "failed":
        return ApiError(503, "the engine failed and is not coming back; see the server's log", code="engine_failed")
    if client.state == "stopped":
        return ApiError(503, "the server is shutting down", code="draining", retry_after_ms=5000)
    if client.state == "starting":
        return ApiError(503, "the model is still being loaded", code="not_ready", retry_after_ms=1000)
    log.warning("request failed: %s", error)
    return ApiError(
        503, "the engine is being restarted; send the request again", code="engine_restarting", retry_after_ms=2000
    )
