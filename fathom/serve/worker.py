"""The engine's own process: reads requests from the socket, steps the engine, writes tokens back.

Started by the front as `python -m fathom.serve.worker FD`, where FD is its end of a socket pair. A thread reads the
socket, so that the end of the front ends this process too, at once, even in the middle of loading a model or of a step.
"""

from __future__ import annotations

import hashlib
import logging
import os
import queue
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Protocol

import msgspec

from fathom import __version__
from fathom.batching.request import Output, Request
from fathom.batching.scheduler import Scheduler
from fathom.errors import ConfigError, EngineError, FathomError, RequestError
from fathom.serve import messages
from fathom.serve.exchange import PageExchange, Store

log = logging.getLogger(__name__)

STATS_EVERY_S = 0.25
SAVING_S = 2.0  # before leaving; less than RestartPolicy.goodbye_s, after which the front ends this process
GATHERED_TOKENS = 32  # of a request that nobody watches, sent as one
PROBE_BYTES = 1 << 20  # enough of a file's ends to tell two trainings apart, little enough for 700 GB


class Steps(Protocol):
    """What the loop needs of an engine."""

    @property
    def has_work(self) -> bool: ...

    @property
    def scheduler(self) -> Scheduler: ...

    def add(self, request: Request) -> None: ...

    def abort(self, request_id: str) -> object: ...

    def step(self) -> Sequence[Output]: ...

    def save_pages(self) -> bool: ...

    @property
    def pages(self) -> Store | None: ...


Load = Callable[[messages.Hello], tuple[Steps, messages.Ready]]
Waiting = queue.SimpleQueue[messages.ToWorker | None]  # frames of the front; None: the page exchange has work


class Gathering:
    """Outputs of requests whose reader waits for the end, put together after the first token.

    Each frame costs the front time, which it takes from an engine that has all cores.
    """

    def __init__(self) -> None:
        self._parts: dict[str, list[Output] | None] = {}  # not sent yet; None: not even the first token has come

    def begin(self, requests: Sequence[Request]) -> None:
        """Nobody watches these as they grow."""
        self._parts |= dict.fromkeys(request.id for request in requests)

    def end(self, request_id: str) -> None:
        """It was stopped, or refused."""
        self._parts.pop(request_id, None)

    def pass_on(self, outputs: Sequence[Output]) -> list[Output]:
        """What is to be sent after a step that gave these."""
        return [due for output in outputs if (due := self._take(output)) is not None]

    def _take(self, output: Output) -> Output | None:
        if output.request_id not in self._parts:
            return output
        parts = self._parts[output.request_id]
        if output.finish_reason is not None:
            self.end(output.request_id)
        elif parts is None:
            self._parts[output.request_id] = [] if output.token_ids else None
        elif sum(len(part.token_ids) for part in (*parts, output)) < GATHERED_TOKENS:
            parts.append(output)
            return None
        else:
            self._parts[output.request_id] = []
        return joined([*parts, output]) if parts else output


def joined(parts: Sequence[Output]) -> Output:
    """Outputs of one request that follow each other, as one."""
    return msgspec.structs.replace(
        parts[-1],
        token_ids=tuple(chain.from_iterable(part.token_ids for part in parts)),
        logprobs=tuple(chain.from_iterable(part.logprobs for part in parts)),
        accepted_drafts=sum(part.accepted_drafts for part in parts),
        rejected_drafts=sum(part.rejected_drafts for part in parts),
    )


def serve(connection: socket.socket, load: Load) -> int:
    """Greet, load, then work until told to leave; returns the exit code."""
    inbox: Waiting = queue.SimpleQueue()
    threading.Thread(target=_read, args=(connection, inbox), name="socket reader", daemon=True).start()
    hello = inbox.get()
    if not isinstance(hello, messages.Hello):
        raise ValueError(f"the first frame is {type(hello).__name__}; it must be Hello")
    try:
        engine, facts = load(hello)
        exchange = _exchange(engine, hello, inbox)
        connection.sendall(messages.pack(facts))
    except FathomError as error:
        connection.sendall(messages.pack(messages.Failed(str(error), error.exit_code)))
        return error.exit_code
    return _work(connection, inbox, engine, exchange)


def _exchange(engine: Steps, hello: messages.Hello, inbox: Waiting) -> PageExchange | None:
    """What this worker has to do with others; None for an engine without pages."""
    if engine.pages is None:
        return None
    host, _, port = (hello.transfer or "").rpartition(":")
    if hello.transfer is not None and not (host.strip("[]") and port.isdecimal()):
        raise ConfigError(f"transfer is {hello.transfer!r}; it must be HOST:PORT, as other workers reach this one.")
    address = None if hello.transfer is None else (host.strip("[]"), int(port))
    return PageExchange(engine.pages, partial(inbox.put, None), address)


def _work(connection: socket.socket, inbox: Waiting, engine: Steps, exchange: PageExchange | None) -> int:
    reported_s, idle, gathering = 0.0, False, Gathering()
    while True:
        while not inbox.empty() or not engine.has_work:
            if not engine.has_work and not idle and inbox.empty():
                connection.sendall(messages.pack(_stats(engine.scheduler, exchange)))
                idle = True
            message = _next(engine, inbox)
            if isinstance(message, messages.Shutdown):
                _save_all(engine)
                return 0
            if message is None and engine.has_work:
                continue  # it gets its turn below: pages that come fast must not keep the next step waiting
            for refused in _take(engine, message, gathering, exchange):
                connection.sendall(messages.pack(refused))
            if message is None and exchange is not None and not exchange.waiting:
                idle = False  # a lease has ended, or the last page has come: say so
        for refused in _take(engine, None, gathering, exchange):
            connection.sendall(messages.pack(refused))
        idle = False
        started_s = time.perf_counter()
        try:
            outputs = list(engine.step())
            outputs = outputs if exchange is None else exchange.lend(outputs)
        except EngineError as error:
            _give_up(connection, engine, error, gathering, exchange)
            continue
        now_s = time.perf_counter()
        if due := gathering.pass_on(outputs):
            connection.sendall(messages.pack(messages.Tokens(due, now_s - started_s)))
        if now_s - reported_s >= STATS_EVERY_S:
            connection.sendall(messages.pack(_stats(engine.scheduler, exchange)))
            reported_s = now_s


def _next(engine: Steps, inbox: Waiting) -> messages.ToWorker | None:
    """What comes next; until it does, and there is nothing else to do, pages are saved."""
    while not engine.has_work and inbox.empty() and engine.save_pages():
        pass
    return inbox.get()


def _save_all(engine: Steps) -> None:
    """Before leaving: what the next process would else compute again, as far as the front has patience."""
    until_s = time.perf_counter() + SAVING_S
    while engine.save_pages():
        if time.perf_counter() > until_s:
            log.warning("cache folder: not all pages could be written in %.1f s", SAVING_S)
            return


def _take(
    engine: Steps, message: messages.ToWorker | None, gathering: Gathering, exchange: PageExchange | None
) -> Iterator[messages.Refused]:
    """Hand a message to the engine, or what the exchange has ready; what it refuses of it."""
    if isinstance(message, messages.Abort):
        engine.abort(message.request_id)
        gathering.end(message.request_id)
        if exchange is not None:
            exchange.abort(message.request_id)
    elif isinstance(message, messages.Add):
        gathering.begin([request for request in message.requests if not request.streamed])
        if exchange is None or not exchange.begin(message.requests):
            yield from _add(engine, message.requests, gathering, exchange)
    elif message is None and exchange is not None:
        for requests in exchange.work():
            yield from _add(engine, requests, gathering, exchange)


def _add(
    engine: Steps, requests: Sequence[Request], gathering: Gathering, exchange: PageExchange | None
) -> Iterator[messages.Refused]:
    for request in requests:
        try:
            engine.add(request)
        except RequestError as error:
            gathering.end(request.id)
            if exchange is not None:
                exchange.abort(request.id)
            yield messages.Refused(request.id, str(error), param=error.param, code=error.code)


def _give_up(
    connection: socket.socket, engine: Steps, error: EngineError, gathering: Gathering, exchange: PageExchange | None
) -> None:
    """A step that failed: which request is at fault is not known, so all that were running in it end."""
    log.error("step failed: %s", error)
    for sequence in list(engine.scheduler.running):
        engine.abort(sequence.request.id)
        gathering.end(sequence.request.id)
        if exchange is not None:
            exchange.abort(sequence.request.id)
        refused = messages.Refused(sequence.request.id, str(error), fault="engine")
        connection.sendall(messages.pack(refused))


def _stats(scheduler: Scheduler, exchange: PageExchange | None) -> messages.Stats:
    tables, lender = scheduler.tables, None if exchange is None else exchange.lender
    return messages.Stats(
        running=len(scheduler.running),
        waiting=len(scheduler.waiting),
        pages_used=scheduler.config.num_pages - scheduler.pool.available,
        pages_total=scheduler.config.num_pages,
        steps=scheduler.steps,
        preemptions=scheduler.preemptions,
        copied_pages=tables.copied,
        spilled_pages=tables.spill.spilled,
        restored_pages=tables.spill.restored,
        lost_pages=tables.spill.lost,
        slots_used=len(tables.spill),
        drafted_by_depth=scheduler.drafted_by_depth,
        accepted_by_depth=scheduler.accepted_by_depth,
        leases={} if lender is None else lender.counts,
        leased_pages=0 if lender is None else lender.pages,
        fetched_pages=0 if exchange is None else exchange.fetched,
        failed_fetches=0 if exchange is None else exchange.failed,
    )


def _read(connection: socket.socket, inbox: Waiting) -> None:
    """Move frames from the socket to the queue; when the front is gone, so is this process."""
    try:
        with connection.makefile("rb") as stream:
            while header := stream.read(messages.LENGTH_BYTES):
                inbox.put(messages.unpack_to_worker(stream.read(messages.frame_bytes(header))))
    except ConnectionError:
        pass
    except ValueError:
        log.exception("the front sent what is no message; leaving")
    os._exit(0)  # not sys.exit: the main thread may be deep in a forward pass, and nobody is left to read its result


def load_engine(hello: messages.Hello) -> tuple[Steps, messages.Ready]:
    """The real engine with its model, and the facts about them."""
    from fathom.cost import info
    from fathom.engine import Engine, EngineConfig, load_model
    from fathom.engine.load import eos_token_ids
    from fathom.ops import describe
    from fathom.serve.vocabulary import load_tokenizer

    started_s = time.perf_counter()
    asked = {field.name: getattr(hello, field.name, None) for field in fields(EngineConfig)}
    config = EngineConfig(**{name: value for name, value in asked.items() if value is not None})
    model = load_model(hello.model, mtp=config.mtp, **config.loading)
    ends = eos_token_ids(model.config, load_tokenizer(Path(hello.model)).eos_id)
    engine = Engine(model, config=config, eos_token_ids=ends)
    backends = {row["op"]: row["answers"] for row in describe()}
    facts = messages.Ready(
        vocab_size=model.config.vocab_size,
        context=engine.context_tokens,
        fingerprint=fingerprint(Path(hello.model), model.numerics, config.numerics),
        load_s=round(time.perf_counter() - started_s, 3),
        max_sequences=engine.scheduler.config.max_sequences,
        parameters=info(model.config)["parameters_total"],
        backends=backends,
    )
    return engine, facts


def fingerprint(directory: Path, *arithmetic: str) -> str:
    """A short name for weights and arithmetic: from each file's size and both its ends, and the words given."""
    digest = hashlib.sha256(repr((__version__, *arithmetic)).encode())
    for file in sorted([*directory.glob("*.safetensors"), *directory.glob("*.json")]):
        size = file.stat().st_size
        with file.open("rb") as stream:
            digest.update(f"{file.name} {size}".encode() + stream.read(PROBE_BYTES))
            stream.seek(max(0, size - PROBE_BYTES))
            digest.update(stream.read(PROBE_BYTES))
    return f"fp_{digest.hexdigest()[:16]}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.basicConfig(level=logging.INFO, format="engine: %(message)s")
    (descriptor,) = sys.argv[1:] if arguments is None else arguments
    with socket.socket(fileno=int(descriptor)) as connection:
        try:
            return serve(connection, load_engine)
        except BrokenPipeError:
            return 0


if __name__ == "__main__":
    sys.exit(main())
