"""From settings to a running server and back: bind first, load after, leave nothing behind.

The port is taken before anything slow happens, so that "in use" is said at once. SIGTERM or Ctrl-C stops accepting,
lets running replies finish for `drain_s`, ends the rest with an error event, then ends the worker. A second signal
does not wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import uvicorn

from fathom.config.faults import Fault
from fathom.errors import ConfigError, FathomError, WorkerError
from fathom.layout.deploy import Pool
from fathom.serve import app, autoscale, messages
from fathom.serve.deployment import build_fleet
from fathom.serve.fleet import Fleet
from fathom.serve.front import Front, Limits
from fathom.serve.guard import Access
from fathom.serve.pages import Page
from fathom.serve.ray import RayCluster
from fathom.serve.router import RouterConfig
from fathom.serve.served import ServedModel
from fathom.serve.transport import WORKER
from fathom.think.account import Prices

BACKLOG = 2048

ENGINE = (
    "threads", "max_sequences", "max_batch_tokens", "num_pages", "page_tokens", "max_stretch", "bits", "numerics",
    "load", "spec", "spill_path", "spill_bytes", "cache_dir", "beat_s", "silent_beats", "longest_step_s", "ranks",
    "faults",
)  # fmt: skip
"""Fields of a ServeConfig that are the engines' business; they have the same names in Hello."""


@dataclass(frozen=True)
class ServeConfig:
    """What `fathom serve` is asked for.

    Fields: model: a directory or a name. port: 0 takes any free one. threads: of all replicas on this machine together.
            pools: replicas to start here. workers: replicas elsewhere, as HOST:PORT; secret: what they ask for.
            ray: the Ray cluster on which `pools` are started instead: its address, auto, or local for one of our own.
    """

    model: str
    host: str = "127.0.0.1"
    port: int = 8000
    served_name: str | None = None
    api_keys: tuple[str, ...] = ()
    allow_hosts: tuple[str, ...] = ()
    threads: int | None = None
    max_sequences: int | None = None
    max_batch_tokens: int | None = None
    num_pages: int | None = None
    page_tokens: int | None = None
    max_stretch: float | None = None
    bits: str | None = None
    numerics: str | None = None
    load: str | None = None
    spec: str | None = None
    spill_path: str | None = None
    spill_bytes: int | None = None
    cache_dir: str | None = None
    pools: tuple[Pool, ...] = (Pool(),)
    router: RouterConfig = field(default_factory=RouterConfig)
    workers: tuple[str, ...] = ()
    secret: bytes = b""
    ray: str = ""
    ranks: messages.Ranks | None = None
    beat_s: float = 1.0
    silent_beats: int = 10
    longest_step_s: float = 300.0
    faults: tuple[Fault, ...] = ()
    drain_s: float = 5.0
    prices: Prices = field(default_factory=Prices)
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True)
class Started:
    """A server that is ready: where it is, what it serves, how long it took."""

    url: str
    model: str
    seconds: float
    facts: messages.Ready


class Server:
    """One front with its workers, from `bind` to the end of `run`.

    Raises: InputError: the model, the host or the port cannot be used; before anything is loaded.
    """

    def __init__(
        self, config: ServeConfig, *, command: tuple[str, ...] | None = None, pages: Sequence[Page] = ()
    ) -> None:
        self._started_s = time.monotonic()
        self.config = config
        access = Access.for_host(config.host, config.api_keys, config.allow_hosts)
        served = ServedModel(config.model, config.served_name)
        hello = messages.Hello(str(served.directory.resolve()), **{name: getattr(config, name) for name in ENGINE})
        self._socket = bind(config.host, config.port)
        self._cluster = RayCluster.connect(config.ray, command or ()) if config.ray else None
        self.client = build_fleet(
            hello,
            config.pools,
            router=config.router,
            workers=config.workers,
            secret=config.secret,
            command=command or WORKER,
            cluster=self._cluster,
        )
        self.front = Front(served, self.client, config.limits, config.prices)
        self.port: int = self._socket.getsockname()[1]
        self._uvicorn = _Uvicorn(
            uvicorn.Config(
                app.build(self.front, access, pages),
                log_level="warning",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                h11_max_incomplete_event_size=64 * 1024,
                timeout_keep_alive=30,
                timeout_graceful_shutdown=int(config.drain_s) + 2,
                backlog=BACKLOG,
            ),
            self.client,
            config.drain_s,
        )

    @property
    def url(self) -> str:
        """Where a browser on this machine finds the page."""
        return address(self.config.host, self.port)

    @property
    def has_keys(self) -> bool:
        """Whether clients must send a key."""
        return bool(self.config.api_keys)

    def run(self, on_ready: Callable[[Started], None]) -> None:
        """Serve until a signal; `on_ready` is called once the model is loaded.

        Raises: FathomError: the engine could not be started.
        """
        asyncio.run(self.serve(on_ready))

    async def serve(self, on_ready: Callable[[Started], None]) -> None:
        """As `run`, inside a running loop."""
        chores = [asyncio.create_task(self._announce(on_ready)), asyncio.create_task(autoscale.follow(self.client))]
        try:
            await self._uvicorn.serve(sockets=[self._socket])
        finally:
            for chore in chores:
                chore.cancel()
            self._socket.close()
            if self._cluster is not None:
                await asyncio.to_thread(self._cluster.close)
        failure = self.client.failure
        if failure is not None and self.client.facts is None:
            raise failure

    def stop(self) -> None:
        """Begin to leave, as a signal does."""
        self._uvicorn.should_exit = True

    async def _announce(self, on_ready: Callable[[Started], None]) -> None:
        await self.client.settled.wait()
        facts = self.client.facts
        if facts is None:
            self.stop()  # it never worked: say so and leave, rather than answer 503 for ever
            return
        seconds = time.monotonic() - self._started_s
        on_ready(Started(self.url, self.front.served.name, seconds, facts))


class Quiet(uvicorn.Server):
    """uvicorn that ends with exit code 0 on SIGINT and SIGTERM."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle SIGINT and SIGTERM while serving. Unlike uvicorn's own, they are not raised again afterwards."""
        try:
            kept = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not the main thread: whoever runs us there ends us with `stop`
            yield
            return
        try:
            yield
        finally:
            for number, handler in kept.items():
                signal.signal(number, handler)


class _Uvicorn(Quiet):
    """The same with our ending: drain, then error events."""

    def __init__(self, config: uvicorn.Config, client: Fleet, drain_s: float) -> None:
        super().__init__(config)
        self._client, self._drain_s = client, drain_s

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let running replies finish for a while, then end them with an error event."""
        error: FathomError = WorkerError("the server is shutting down")
        timer = asyncio.get_running_loop().call_later(self._drain_s, self._client.drain, error)
        try:
            await super().shutdown(sockets)
        finally:
            timer.cancel()


def address(host: str, port: int) -> str:
    """The URL by which a browser on this machine reaches what listens there."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises: ConfigError: the address cannot be had, and what to do."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, OverflowError) as error:
        raise ConfigError(f"host is {host!r}, port is {port}: no such address ({error}).") from error
    family, kind, protocol, _, address = found[0]
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(
                f"port {port} on {host} is in use by another program; use --port {port + 1}, or --port 0 for any."
            ) from error
        raise ConfigError(f"cannot listen on {host} port {port} ({error.strerror}); choose another.") from error
    return listening
