"""What the routes share: the model as clients see it, the engine behind it, the limits, the counters."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from fathom.batching.request import Request, SamplingParams, sibling_seed
from fathom.errors import WorkerError
from fathom.serve.client import EngineClient
from fathom.serve.errors import ApiError
from fathom.serve.fleet import Fleet
from fathom.serve.metrics import Metrics
from fathom.serve.served import ServedModel
from fathom.serve.stream import Choice, Clock, Exchange, Waits, unavailable
from fathom.think.account import Prices


@dataclass(frozen=True)
class Limits:
    """Fields: max_queued: sequences beyond the batch that may wait; more get 429. progress_s: between signs of life."""

    max_queued: int = 256
    queue_timeout_s: float = 600.0
    keep_alive_s: float = 10.0
    progress_s: float = 0.25


class Front:
    """What the routes share."""

    def __init__(
        self, served: ServedModel, client: EngineClient | Fleet, limits: Limits, prices: Prices | None = None
    ) -> None:
        self.served, self.client, self.limits = served, client, limits
        self.prices = prices or Prices()
        self.metrics = Metrics()

    @property
    def context(self) -> int:
        """The longest prompt with its reply [tokens]. Raises: ApiError: 503 until the model is loaded."""
        if self.client.facts is None or self.client.state not in ("ready", "restarting"):
            raise unavailable(self.client, WorkerError(f"the engine is {self.client.state}"))
        return self.client.facts.context

    @property
    def fingerprint(self) -> str:
        return self.client.facts.fingerprint if self.client.facts is not None else ""

    def open(
        self, choices: Sequence[Choice], *, progress: bool, session: str = "", clock: Clock | None = None
    ) -> Exchange:
        """Start an exchange.

        Args: session: exchanges with the same one are best served by the same replica. clock: of a request that has
              several exchanges.

        Raises: ApiError: 429 when too many wait, 503 when there is no engine.
        """
        facts = self.client.facts
        room = self.limits.max_queued + (facts.max_sequences if facts is not None else 0)
        if self.client.in_flight + len(choices) > room:
            raise ApiError(
                429,
                f"{self.client.in_flight} requests are running or waiting, of {room} that are taken; try again later.",
                code="queue_full",
                retry_after_ms=1000,
            )
        tick_s = self.limits.progress_s if progress else self.limits.keep_alive_s
        exchange = Exchange(
            self.client, choices, self.metrics, Waits(tick_s, self.limits.queue_timeout_s), session, clock
        )
        exchange.start()
        return exchange

    def siblings(
        self, prompt: Sequence[int], params: SamplingParams, count: int, *, streamed: bool = True
    ) -> list[Request]:
        """`count` requests for one prompt, each with its own noise; they share the prompt's pages."""
        base, tokens = uuid.uuid4().hex, tuple(prompt)
        return [
            Request(
                f"{base}-{i}",
                tokens,
                msgspec.structs.replace(params, seed=sibling_seed(params.seed, i)),
                streamed=streamed,
            )
            for i in range(count)
        ]


def engines(front: Front) -> dict[str, EngineClient]:
    """Each engine behind the front, by the name that operators know it by."""
    client = front.client
    if isinstance(client, Fleet):
        return {replica.name: replica.client for replica in client.replicas}
    return {client.name: client}
