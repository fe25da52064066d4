"""Several samples for one answer (`think` in a chat request): a vote, the best of several, an answer revised.

    vote, best_of   n siblings run at once; whoever cannot change the result any more is given up
    revise          one answer after another, each asked to check the one before, until one repeats it

Votes and scores are those of fathom.think.votes, so that a client and a script get the same answer for the same seed.
Like an Exchange, a Deliberation has choices and a clock, and leaves nothing running once it is closed.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec

from fathom.batching.request import SamplingParams
from fathom.errors import RequestError
from fathom.serve.errors import ApiError
from fathom.serve.front import Front
from fathom.serve.schema import ChatMessage, ChatRequest, Think
from fathom.serve.stream import Choice, Clock, Delta, Exchange
from fathom.think.steering import REVISE, TEMPERATURE, Steering
from fathom.think.votes import Best, Vote, mean_logprob, normalised

log = logging.getLogger(__name__)

DEFAULT_N = {"vote": 5, "best_of": 5, "revise": 3}


def check_think(body: ChatRequest) -> None:
    """Raises: ApiError: fields of `think` that do not go together, or not with the rest of the request."""
    think = body.think
    if think is None:
        return
    if think.strategy is None and (think.n or 1) > 1:
        raise _refused("think.strategy", f"think.n is {think.n}; say what is made of them: vote, best_of or revise.")
    if think.strategy is None:
        return
    if (body.n or 1) > 1:
        raise _refused("n", f"n is {body.n}; with think, one answer comes back: send think.n for its samples.")
    if think.strategy == "revise" and body.messages[-1].prefix:
        raise _refused("think.strategy", "a message that is continued cannot be revised; use vote or best_of.")
    if think.strategy != "revise" and _count(think) > 1 and body.temperature == 0:
        raise _refused("temperature", "temperature is 0: all samples would be the same; send one above 0.")


class Deliberation:
    """The samples of one request.

    Args: exchanges are opened one by one, the first by `start`; see Front.open for session and progress.
    """

    def __init__(self, front: Front, body: ChatRequest, steering: Steering, *, session: str, progress: bool) -> None:
        assert body.think is not None and body.think.strategy is not None, "the route has looked"
        self.strategy, self.n = body.think.strategy, _count(body.think)
        self.choices: list[Choice] = []
        self.clock = Clock()
        self._front, self._body, self._steering = front, body, steering
        self._session, self._progress = session, progress
        self._stops_early = body.think.stop_early is not False
        self._election: Vote | Best = Best(self.n) if self.strategy == "best_of" else Vote(self.n)
        self._winner = 0
        self._exchange: Exchange | None = None

    async def start(self) -> None:
        """Hand the first samples to the engine. Raises: ApiError, RequestError: it cannot be."""
        seed = secrets.randbits(63) if self._body.seed is None else self._body.seed
        self._body = self._body.model_copy(update={"seed": seed})  # one seed for all there will be
        self._open(*await self._prepare(self._body.messages))

    def close(self) -> None:
        """Leave nothing running."""
        if self._exchange is not None:
            self._exchange.close()

    async def deltas(self) -> AsyncIterator[Delta | None]:
        """Every change of every sample; None when nothing came for a while. Raises: as Exchange.deltas."""
        async for delta in self._revise() if self.strategy == "revise" else self._elect():
            yield delta

    async def finish(self) -> None:
        """Run to the end without looking at the pieces."""
        async for _ in self.deltas():
            pass

    @property
    def shown(self) -> list[Choice]:
        """The sample that is the answer."""
        return [self.choices[self._winner]]

    @property
    def over(self) -> int:
        """Samples that came to their end."""
        return sum(choice.finish_reason not in (None, "abort") for choice in self.choices)

    def describe(self) -> dict[str, Any]:
        """Where it stands, or how it ended."""
        table: dict[str, Any] = {"strategy": self.strategy, "n": self.n, "finished": self.over}
        if isinstance(self._election, Vote) and self.strategy == "vote":
            table["votes"] = self._election.counts
        return table | {"winner": self._winner if self.over else None}

    # -- vote and best_of ------------------------------------------------------------------------------------------

    async def _elect(self) -> AsyncIterator[Delta | None]:
        exchange = self._exchange
        assert exchange is not None, "started"
        async for delta in exchange.deltas():
            if delta is not None and delta.finish_reason is not None:
                self._enter(self.choices[delta.index])
                if self._stops_early and self._election.decided:
                    unwanted = set(range(self.n)) - set(self._election.wanted)
                    stopped = exchange.give_up(unwanted)
                    self._front.metrics.samples_aborted.add(stopped, strategy=self.strategy)
            yield delta

    def _enter(self, choice: Choice) -> None:
        ended = choice.finish_reason == "stop"
        if isinstance(self._election, Vote):
            self._election.add(choice.index, normalised(choice.content) if ended else None)
        else:
            score = mean_logprob((*choice.reasoning_logprobs, *choice.content_logprobs))
            self._election.add(choice.index, score if ended else None)
        self._winner = self._election.winner or 0

    # -- revise ----------------------------------------------------------------------------------------------------

    async def _revise(self) -> AsyncIterator[Delta | None]:
        messages = list(self._body.messages)
        while True:
            assert self._exchange is not None, "started"
            async for delta in self._exchange.deltas():
                yield delta
            last, again = self.choices[self._winner], self.choices[-1]
            if again.finish_reason != "stop" or not again.content.strip():
                return
            repeated = again is not last and normalised(again.content) == normalised(last.content)
            self._winner = again.index
            if repeated or len(self.choices) == self.n:
                return
            told = {"assistant": again.content, "user": REVISE}
            messages += [ChatMessage.model_validate({"role": role, "content": text}) for role, text in told.items()]
            try:
                self._open(*await self._prepare(messages))
            except (ApiError, RequestError) as error:
                log.warning("revise: ends after %d answers (%s)", len(self.choices), error)
                return

    # -- samples ---------------------------------------------------------------------------------------------------

    async def _prepare(self, messages: Sequence[ChatMessage]) -> tuple[list[int], SamplingParams]:
        served, steering, body = self._front.served, self._steering, self._body
        prompt = await asyncio.to_thread(
            served.chat_prompt, messages, thinking=steering.thinking, line=steering.line
        )  # fmt: skip
        wanted = (body.top_logprobs or 0) if body.logprobs or self.strategy == "best_of" else None
        params = served.params(
            body, prompt, self._front.context, steering, max_tokens=body.max_completion_tokens, logprobs=wanted
        )
        if self.strategy != "revise" and params.temperature == 0 and self.n > 1:
            params = msgspec.structs.replace(params, temperature=TEMPERATURE)
        return prompt, params

    def _open(self, prompt: list[int], params: SamplingParams) -> None:
        count = 1 if self.strategy == "revise" else self.n
        # watched, so that a sample which is given up has told of every token until then
        requests = self._front.siblings(prompt, params, count, streamed=True)
        begin, tokenizer, stops = len(self.choices), self._front.served.tokenizer, self._body.stop or ()
        choices = [Choice(begin + i, request, tokenizer, stops=stops) for i, request in enumerate(requests)]
        self._exchange = self._front.open(choices, progress=self._progress, session=self._session, clock=self.clock)
        self.choices += choices


def _count(think: Think) -> int:
    return think.n or DEFAULT_N[think.strategy or "vote"]


def _refused(param: str, message: str) -> ApiError:
    return ApiError(400, message, param=param, code="invalid_value")
