"""The engine's own process: reads requests from the socket, steps the engine, writes tokens back.

Started by the front as `python -m fathom.serve.worker FD`, where FD is its end of a socket pair. A thread reads the
socket, so that the end of the front ends this process too, at once, even in the middle of loading a model or of a step.

Or started by somebody else with `--listen HOST:PORT --secret FILE`, for a front on another machine. Then the model
stays when a front goes, its requests do not: the front that comes next brings those that are to go on.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import msgspec

from fathom import __version__
from fathom.batching.request import Output, Request
from fathom.errors import EngineError, FathomError, RequestError, WorkerError
from fathom.layout import Layout
from fathom.serve import messages
from fathom.serve.connection import Connection, Door, Gone, Wake
from fathom.serve.exchange import PageExchange, Store, read_address
from fathom.serve.gathering import Gathering
from fathom.serve.reporting import Shown, seen, stats
from fathom.serve.secret import read_secret, read_token
from fathom.serve.supervised import obey

log = logging.getLogger(__name__)

STATS_EVERY_S = 0.25
LEAVE_S = 2.5  # a front that says Shutdown waits a little longer (RestartPolicy.goodbye_s)
SAVING_S = 2.0  # before leaving; less than RestartPolicy.goodbye_s, after which the front ends this process
PROBE_BYTES = 1 << 20  # enough of a file's ends to tell two trainings apart, little enough for 700 GB


class Steps(Protocol):
    """What the loop needs of an engine."""

    @property
    def has_work(self) -> bool: ...

    @property
    def running(self) -> Sequence[str]: ...

    @property
    def live(self) -> Sequence[str]: ...

    def add(self, request: Request) -> None: ...

    def abort(self, request_id: str) -> object: ...

    def step(self) -> Sequence[Output]: ...

    def save_pages(self) -> bool: ...

    def stats(self) -> Any: ...

    @property
    def seeing(self) -> Shown: ...

    @property
    def pages(self) -> Store | None: ...

    def watch(self, on_lost: Callable[[str], None]) -> None: ...

    def close(self) -> None: ...


Load = Callable[[messages.Hello], tuple[Steps, messages.Ready]]


def serve(sock: socket.socket, load: Load) -> int:
    """Serve the front that started this process, and leave when it does; returns the exit code."""
    connection = Connection(sock)
    threading.Thread(target=_read, args=(connection,), name="socket reader", daemon=True).start()
    with contextlib.suppress(Gone):
        try:
            hello = greeted(connection)
            engine, facts = load(hello)
            exchange = _exchange(engine, hello, connection)
        except FathomError as error:
            connection.send(messages.Failed(str(error), error.exit_code))
            return error.exit_code
        with contextlib.closing(engine):
            connection.send(facts)
            return _work_or_fail(connection, engine, exchange)
    return 0


def _exchange(engine: Steps, hello: messages.Hello, connection: Connection) -> PageExchange | None:
    """What this worker has to do with others; None for an engine without pages to give."""
    if engine.pages is None:
        return None
    return PageExchange(engine.pages, partial(connection.inbox.put, Wake()), read_address(hello.transfer))


def _work_or_fail(connection: Connection, engine: Steps, exchange: PageExchange | None) -> int:
    """Work until told to leave, or until the engine cannot go on; returns the exit code. Raises: Gone."""
    engine.watch(lambda report: _lost(connection, report))
    try:
        _work(connection, engine, exchange)
        return 0
    except WorkerError as error:
        log.error("%s", error)
        connection.send(messages.Failed(str(error), error.exit_code))
        return error.exit_code
    finally:
        if exchange is not None:
            exchange.close()


def _lost(connection: Connection, report: str) -> None:
    """Tell the front at once: the main thread may wait for peers, and in vain, for as long as they may be late."""
    failed = messages.Failed(report, WorkerError.exit_code)
    connection.inbox.put(failed)
    with contextlib.suppress(Gone):
        connection.send(failed)


def _read(connection: Connection) -> None:
    connection.read()
    if connection.told_to_leave:
        time.sleep(LEAVE_S)  # the main thread lets go of ranks elsewhere, and keeps pages, before the process ends
    os._exit(0)  # not sys.exit: the main thread may be deep in a forward pass, and nobody is left to read its result


def listen(door: Door, load: Load) -> int:
    """Serve one front after another, all with the model that the first one asked for; returns the exit code."""
    loaded: tuple[messages.Hello, Steps, messages.Ready] | None = None
    while True:
        connection = door.next()
        with contextlib.suppress(Gone):
            hello = greeted(connection)
            if loaded is None:
                try:
                    loaded = (hello, *load(hello))
                except FathomError as error:
                    connection.send(messages.Failed(str(error), error.exit_code))
                    return error.exit_code
            asked, engine, facts = loaded
            if msgspec.structs.replace(hello, faults=asked.faults) != asked:
                text = f"this worker has loaded {asked.model} with other settings than are asked for; start it again."
                connection.send(messages.Failed(text, 2))
                connection.close()
                continue
            connection.send(facts)
            code = _work_or_fail(connection, engine, _exchange(engine, hello, connection))
            engine.close()  # only now: a front that merely left may come back, and finds the model and its ranks
            return code
        if loaded is not None:
            for request_id in loaded[1].live:
                loaded[1].abort(request_id)


def greeted(connection: Connection) -> messages.Hello:
    """The first message. Raises: Gone: the front left, or said something else."""
    hello = connection.next()
    if not isinstance(hello, messages.Hello):
        log.error("the first frame is %s; it must be Hello", type(hello).__name__)
        connection.close()
        raise Gone
    return hello


def _work(connection: Connection, engine: Steps, exchange: PageExchange | None) -> None:
    """Step the engine until told to leave. Raises: Gone: the front left. WorkerError: a rank is lost."""
    reported_s, idle, gathering = 0.0, False, Gathering()
    while True:
        while not connection.inbox.empty() or not engine.has_work:
            if not engine.has_work and not idle and connection.inbox.empty():
                connection.send(stats(engine, exchange))
                idle = True
            message = _next(connection, engine)
            if isinstance(message, messages.Shutdown):
                _save_all(engine)
                return
            if isinstance(message, Wake):
                if engine.has_work:
                    continue  # it gets its turn below: pages that come fast must not keep the next step waiting
                idle = exchange is not None and exchange.waiting > 0  # else the last page has come, or a lease ended
            for answer in _take(engine, message, gathering, exchange):
                connection.send(answer)
        for refused in _take(engine, Wake(), gathering, exchange):
            connection.send(refused)
        idle = False
        started_s = connection.stepping_since = time.monotonic()
        try:
            outputs = list(engine.step())
            outputs = outputs if exchange is None else exchange.lend(outputs)
        except EngineError as error:
            _give_up(connection, engine, error, gathering, exchange)
            continue
        finally:
            connection.stepping_since = None
        now_s = time.monotonic()
        if due := gathering.pass_on(outputs):
            connection.send(messages.Tokens(due, now_s - started_s))
        if now_s - reported_s >= STATS_EVERY_S:
            connection.send(stats(engine, exchange))
            reported_s = now_s


def _next(connection: Connection, engine: Steps) -> messages.ToWorker | Wake:
    """What comes next; until it does, and there is nothing else to do, pages are saved.

    Raises: Gone: the front left. WorkerError: a rank is lost.
    """
    while not engine.has_work and connection.inbox.empty() and engine.save_pages():
        pass
    message = connection.next()
    if isinstance(message, messages.Failed):
        raise WorkerError(message.message)
    return message


def _save_all(engine: Steps) -> None:
    """Before leaving: what the next process would else compute again, as far as the front has patience."""
    until_s = time.perf_counter() + SAVING_S
    while engine.save_pages():
        if time.perf_counter() > until_s:
            log.warning("cache folder: not all pages could be written in %.1f s", SAVING_S)
            return


def _take(
    engine: Steps, message: messages.ToWorker | Wake, gathering: Gathering, exchange: PageExchange | None
) -> Iterator[messages.Message]:
    """Hand a message to the engine, or what the exchange has ready; what it answers, or refuses of it."""
    if isinstance(message, messages.Abort):
        engine.abort(message.request_id)
        gathering.end(message.request_id)
        if exchange is not None:
            exchange.abort(message.request_id)
    elif isinstance(message, messages.Add):
        gathering.begin([request for request in message.requests if not request.streamed])
        if exchange is None or not exchange.begin(message.requests):
            yield from _add(engine, message.requests, gathering, exchange)
    elif isinstance(message, messages.Look | messages.Rebalance):
        yield seen(engine, message)
    elif isinstance(message, Wake) and exchange is not None:
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
    connection: Connection, engine: Steps, error: EngineError, gathering: Gathering, exchange: PageExchange | None
) -> None:
    """A step that failed: which request is at fault is not known, so all that were running in it are given back."""
    log.error("step failed: %s", error)
    for request_id in engine.running:
        engine.abort(request_id)
        gathering.end(request_id)
        if exchange is not None:
            exchange.abort(request_id)
        connection.send(messages.Refused(request_id, str(error), fault="engine"))
    connection.send(stats(engine, exchange))  # that was all of it: the front may decide what to try next


def load_engine(hello: messages.Hello) -> tuple[Steps, messages.Ready]:
    """The real engine with its model, and the facts about them."""
    from fathom.cost import info
    from fathom.engine import Engine, EngineConfig, load_model
    from fathom.engine.crew import Crew
    from fathom.engine.load import eos_token_ids
    from fathom.ops import describe
    from fathom.serve.vocabulary import load_tokenizer

    started_s = time.perf_counter()
    asked = {field.name: getattr(hello, field.name, None) for field in fields(EngineConfig)}
    config = EngineConfig(**{name: value for name, value in asked.items() if value is not None})
    if hello.ranks is not None:
        config = replace(config, eplb=hello.ranks.eplb)
    alone = hello.layout in (None, (1, 1, 1, 1)) and not hello.faults  # faults happen to ranks; one may be a crew
    crew = None if alone else Crew.start(_crew_config(hello, config))
    model = load_model(hello.model, mtp=config.mtp, **config.loading) if crew is None else crew.model
    ends = eos_token_ids(model.config, load_tokenizer(Path(hello.model)).eos_id)
    engine = Engine(model, config=config, eos_token_ids=ends, crew=crew)
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


def _crew_config(hello: messages.Hello, config: Any) -> Any:
    """The crew that a front asks for, for the settings of its engine."""
    from fathom.engine.crewconfig import CrewConfig

    ranks = hello.ranks or messages.Ranks()
    return CrewConfig(
        model=hello.model,
        layout=Layout(*(hello.layout or ())),
        bits=config.bits,
        load=config.load,
        mtp=config.mtp,
        threads=config.threads,
        host=ranks.host,
        port=ranks.port,
        ranks_here=ranks.here,
        token=None if ranks.secret is None else read_token(Path(ranks.secret)),
        redundant=ranks.redundant_experts,
        timeout_s=ranks.timeout_s,
        start_s=ranks.start_s,
        verify=ranks.verify,
        faults=hello.faults,
    )


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


def main(arguments: Sequence[str] | None = None, load: Load = load_engine) -> int:
    """Entry point of the process."""
    logging.basicConfig(level=logging.INFO, format="engine: %(message)s")
    parser = argparse.ArgumentParser(prog="python -m fathom.serve.worker", description="The engine's process.")
    parser.add_argument("descriptor", nargs="?", type=int, help="the socket that the front left open for it")
    parser.add_argument("--listen", metavar="HOST:PORT", help="wait there for a front on another machine instead")
    parser.add_argument("--secret", type=Path, metavar="FILE", help="what such a front must know; a file of mode 600")
    parser.add_argument("--model", help="the model's directory on this machine, whatever the front calls it")
    parser.add_argument("--supervised", action="store_true", help="print the port, and end when standard input does")
    args = parser.parse_args(arguments)
    if (args.descriptor is None) == (args.listen is None) or (args.listen is None) != (args.secret is None):
        parser.error("give either a descriptor, or --listen and --secret")
    try:
        if args.listen is None:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            return serve(socket.socket(fileno=args.descriptor), load)
        door = Door(args.listen, read_secret(args.secret))
        log.info("listening on port %d", door.port)
        if args.supervised:
            obey(door.port)
        return listen(door, load if args.model is None else _of_this_machine(load, args.model))
    except FathomError as error:
        log.error("%s", error)
        return error.exit_code
    except KeyboardInterrupt:
        return 130


def _of_this_machine(load: Load, model: str) -> Load:
    return lambda hello: load(msgspec.structs.replace(hello, model=model))


if __name__ == "__main__":
    sys.exit(main())
