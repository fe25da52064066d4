"""Two engines in one process, one that lends and one that fetches, and loops as their workers have them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from fathom.batching.leases import Patience
from fathom.batching.request import Output, Request
from fathom.engine import Engine, EngineConfig
from fathom.serve.exchange import PageExchange
from tests.engine.tiny import tiny

QUICK = Patience(offered_s=1.0, pulling_s=1.0, sent_s=0.5, whole_s=2.0, connect_s=0.5, silence_s=0.4, pull_s=1.0)


class Side:
    """An engine with its exchange, stepped by hand."""

    def __init__(self, *, lends: bool = False, through=None, patience: Patience = QUICK, model=None, **limits) -> None:
        limits = {"max_sequences": 4, "page_tokens": 4, "num_pages": 64, "spec": "off"} | limits
        self.engine = Engine(model or tiny(), config=EngineConfig(**limits))
        self.woken = threading.Event()
        address = ("127.0.0.1", 0) if lends else None
        self.exchange = PageExchange(self.engine.pages, self.woken.set, address, patience, through)

    def run(self, *requests: Request) -> dict[str, list[Output]]:
        """Do as a worker does until these have ended."""
        outputs: dict[str, list[Output]] = {request.id: [] for request in requests}
        self.take(*requests)
        self.until(lambda: all(each and each[-1].finish_reason for each in outputs.values()), outputs)
        return outputs

    def take(self, *requests: Request) -> None:
        if not self.exchange.begin(requests):
            for request in requests:
                self.engine.add(request)

    def until(self, done: Callable[[], bool], outputs: dict[str, list[Output]] | None = None, most_s=30.0) -> None:
        end_s = time.monotonic() + most_s
        while not done():
            assert time.monotonic() < end_s, "it takes too long"
            for batch in self.exchange.work():
                for request in batch:
                    self.engine.add(request)
            if not self.engine.has_work:
                self.woken.wait(0.02)
                self.woken.clear()
                continue
            for output in self.exchange.lend(self.engine.step()):
                if outputs is not None:
                    outputs[output.request_id].append(output)

    @property
    def leaked(self) -> int:
        """Pages that somebody holds although nothing runs."""
        return self.engine.scheduler.pool.used

    def close(self) -> None:
        self.exchange.close()


def tokens(outputs: list[Output]) -> list[int]:
    return [token for output in outputs for token in output.token_ids]
