"""A steady load on a worker or a fleet while its processes are killed: what came back, how late, and what is left."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import psutil

from fathom.batching.request import Output, Request, SamplingParams
from fathom.config import find_model
from fathom.config.faults import Fault
from fathom.engine import Engine, EngineConfig, load_model
from fathom.layout import Layout
from fathom.layout.deploy import Pool
from fathom.serve.client import EngineClient, RestartPolicy
from fathom.serve.deployment import build_fleet
from fathom.serve.fleet import Fleet
from fathom.serve.ledger import Inbox
from fathom.serve.messages import Hello, Ranks

TIMEOUT_S, BEAT_S, SILENT_BEATS = 3.0, 0.3, 10
SLACK_S = 4.0
"""To ask ranks, to end processes, to compute on a machine of two cores that others use too."""
RESTARTS = RestartPolicy(restarts=10_000, first_pause_s=0.05, longest_pause_s=0.1)
LIMITS = {"num_pages": 400, "max_sequences": 12, "max_batch_tokens": 128}
MARK = "FATHOM_TESTS_KILLING"
Reply = tuple[list[int], list[Any], str | None]


def requests(count: int, seed: int = 1, most_tokens: int = 40) -> list[Request]:
    """Of every kind; a third share the beginning of their prompts."""
    rng = Random(seed)
    stem = tuple(rng.choices(range(5, 500), k=40))
    return [
        Request(
            f"r{i}",
            (stem if i % 3 == 0 else ()) + tuple(rng.choices(range(5, 500), k=rng.randint(1, 60))),
            SamplingParams(
                max_tokens=rng.randint(1, most_tokens), temperature=(0.0, 0.7, 1.2)[i % 3], seed=i,
                logprobs=rng.choice([None, 2]), frequency_penalty=rng.choice([0.0, 0.5]), ignore_eos=True,
            ),
            streamed=i % 4 > 0,
        )
        for i in range(count)
    ]  # fmt: skip


@cache
def undisturbed(count: int, seed: int = 1, most_tokens: int = 40) -> dict[str, Reply]:
    """What one process answers."""
    engine = Engine(load_model("nano", threads=1), config=EngineConfig(spec="off", **LIMITS))
    for request in requests(count, seed, most_tokens):
        engine.add(request)
    found: dict[str, Reply] = {}
    while engine.has_work:
        for output in engine.step():
            put_down(found, output.request_id, output)
    return found


def put_down(found: dict[str, Reply], name: str, output: Output) -> None:
    tokens, logprobs, _ = found.get(name, ([], [], None))
    found[name] = [*tokens, *output.token_ids], [*logprobs, *output.logprobs], output.finish_reason


def hello(layout: Layout, faults: Sequence[Fault] = ()) -> Hello:
    """A worker for this layout, which notices silence soon."""
    sizes = (layout.pp, layout.dp, layout.tp, layout.ep)
    return Hello(
        str(find_model("nano")), threads=1, spec="1", layout=sizes if layout.world_size > 1 else None, **LIMITS,
        ranks=Ranks(timeout_s=TIMEOUT_S), beat_s=BEAT_S, silent_beats=SILENT_BEATS, faults=tuple(faults),
    )  # fmt: skip


@dataclass
class Kill:
    """One signal. resumed_s: until the next token of a new worker [s]; None: another kill came between."""

    whom: str
    signal: str
    resumed_s: float | None = None


@dataclass
class Soak:
    """What a load went through. start_s: until the first worker was ready, undisturbed [s]."""

    kills: list[Kill] = field(default_factory=list)
    requests: int = 0
    wrong: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    start_s: float = 0.0
    longest_silence_s: float = 0.0
    resumed: int = 0
    moved: int = 0

    @property
    def limit_s(self) -> float:
        """The longest that nobody may get a token: somebody is silent, all start anew, perhaps twice in a row."""
        return TIMEOUT_S + 2.5 * self.start_s + SLACK_S

    def bad(self) -> list[str]:
        return [*self.wrong, *self.errors, *self.late, *self.left]

    def report(self) -> dict[str, Any]:
        by = Counter(f"{kill.signal} {kill.whom}" for kill in self.kills)
        kills = [(kill.signal, kill.resumed_s) for kill in self.kills if kill.resumed_s is not None]
        return {
            "kills": len(self.kills), "by": dict(sorted(by.items())), "requests": self.requests,
            "handed_over": self.resumed, "moved": self.moved, "start_s": round(self.start_s, 2),
            "limit_s": round(self.limit_s, 2), "longest_silence_s": round(self.longest_silence_s, 2),
            "resumed_s": {
                name: summary([time_s for sent, time_s in kills if sent == name])
                for name in ("SIGKILL", "SIGSTOP")
            },
            **{name: value for name, value in asdict(self).items() if name in ("wrong", "errors", "late", "left")},
        }  # fmt: skip


def summary(times: list[float]) -> dict[str, float]:
    times = sorted(times)
    return {} if not times else {"median": round(times[len(times) // 2], 2), "max": round(times[-1], 2)}


class Load:
    """Keeps `at_once` of the requests running on a target, each again and again under new names, and compares."""

    def __init__(self, target: EngineClient | Fleet, soak: Soak, count: int, at_once: int = 16) -> None:
        self.target, self.soak, self.at_once = target, soak, at_once
        self.requests, self.expected = requests(count), undisturbed(count)
        self.inbox, self.found, self.asked = Inbox(), dict[str, Reply](), 0
        self.running: set[str] = set()
        self.last_s = time.monotonic()
        self.arrivals = 0
        self.ending = False

    async def run(self) -> None:
        """Until `ending` is set and nothing runs any more."""
        while self.running or not self.ending:
            while len(self.running) < self.at_once and not self.ending:
                self._ask()
            async with asyncio.timeout(60):
                arrival = await self.inbox.queue.get()
            now_s = time.monotonic()
            self.soak.longest_silence_s = max(self.soak.longest_silence_s, now_s - self.last_s)
            self.last_s, self.arrivals = now_s, self.arrivals + 1
            self._take(arrival.request_id, arrival.event)

    def _ask(self) -> None:
        request = self.requests[self.asked % len(self.requests)]
        name = f"{request.id}:{self.asked}"
        self.asked += 1
        self.running.add(name)
        self.target.add([msgspec.structs.replace(request, id=name)], self.inbox)

    def _take(self, name: str, event: object) -> None:
        if not isinstance(event, Output):
            self.soak.errors.append(f"{name}: {event}")
            self.running.discard(name)
            return
        put_down(self.found, name, event)
        if event.finish_reason is not None:
            self.running.discard(name)
            self.soak.requests += 1
            if self.found.pop(name) != self.expected[name.partition(":")[0]]:
                self.soak.wrong.append(name)


def victims(target: EngineClient | Fleet) -> dict[int, str]:
    """Processes that may be killed, by what they are."""
    clients = [target] if isinstance(target, EngineClient) else [replica.client for replica in target.replicas]
    found: dict[int, str] = {}
    for client in clients:
        if client.pid is not None and psutil.pid_exists(client.pid):
            found[client.pid] = "leader"
            for child in psutil.Process(client.pid).children(recursive=True):
                found[child.pid] = "rank"
    return found


async def strike(target: EngineClient | Fleet, load: Load, soak: Soak, rng: Random) -> None:
    """Kill or stop somebody at a random moment and wait for the next token; now and then, kill again meanwhile."""
    await asyncio.sleep(rng.uniform(0.0, 1.0))
    restarts, killed_s = target.restarts, time.monotonic()
    kill = send(target, soak, rng, rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGSTOP]))
    if rng.random() < 0.15:
        await asyncio.sleep(rng.uniform(0.1, 2.5))
        send(target, soak, rng, signal.SIGKILL)
    while kill is not None and target.restarts == restarts:
        await asyncio.sleep(0.01)
    while target.state != "ready":
        await asyncio.sleep(0.01)
    arrivals = load.arrivals
    while load.arrivals == arrivals:
        await asyncio.sleep(0.01)
    if kill is not None:
        kill.resumed_s = time.monotonic() - killed_s
        if kill.resumed_s > soak.limit_s:
            soak.late.append(f"{kill.signal} {kill.whom}: {kill.resumed_s:.1f} s")


def send(target: EngineClient | Fleet, soak: Soak, rng: Random, what: signal.Signals) -> Kill | None:
    """A signal to one of the processes there are; None if there are none just now."""
    able = victims(target)
    if not able:
        return None
    pid = rng.choice(sorted(able))
    os.kill(pid, what)
    soak.kills.append(Kill(able[pid], what.name))
    return soak.kills[-1]


async def soaked(layout: Layout, kills: int, seed: int, *, replicas: int = 1, requests_kept: int = 48) -> Soak:
    """So many kills, spread over the life of one worker, or of a fleet's."""
    soak, rng = Soak(), Random(seed)
    with nothing_left(soak):
        target: EngineClient | Fleet
        if replicas == 1:
            target = EngineClient(hello(layout), policy=RESTARTS)
        else:
            target = build_fleet(hello(layout), (Pool(replicas=replicas, layout=layout),))
            for replica in target.replicas:
                replica.client.policy = RESTARTS
        undisturbed(requests_kept)
        began_s = time.monotonic()
        target.start()
        await target.settled.wait()
        soak.start_s = time.monotonic() - began_s
        load = Load(target, soak, requests_kept)
        running = asyncio.create_task(load.run())
        while len(soak.kills) < kills:
            kill = asyncio.create_task(strike(target, load, soak, rng))
            await asyncio.wait([running, kill], return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                running.result()
            await kill
        load.ending = True
        await running
        await idle(target, soak)
        soak.resumed, soak.moved = target.resumed, getattr(target, "moved", 0)
        await target.stop()
    return soak


async def idle(target: EngineClient | Fleet, soak: Soak) -> None:
    """Nothing runs, nothing waits, no page is held."""
    clients = [target] if isinstance(target, EngineClient) else [replica.client for replica in target.replicas]
    for client in clients:
        until_s = time.monotonic() + 20.0
        while client.state != "ready" or client.stats.running or client.stats.waiting or client.stats.pages_used:
            await asyncio.sleep(0.05)
            if time.monotonic() > until_s:
                soak.left.append(f"{client.name}, {client.state}: {client.stats}")
                return


@contextmanager
def nothing_left(soak: Soak) -> Iterator[None]:
    """Note what is there after that was not before: processes, files in shared memory, descriptors."""
    os.environ[MARK] = f"{os.getpid()} {time.monotonic_ns()}"
    before = things()
    try:
        yield
    finally:
        mark = os.environ.pop(MARK)
        until_s = time.monotonic() + 3.0
        while (left := [*marked(mark), *sorted(things() - before)]) and time.monotonic() < until_s:
            time.sleep(0.05)
        soak.left += left


def things() -> set[str]:
    """Sockets and other descriptors of this process by what they are; files that others could see."""
    me = psutil.Process()
    sockets = {f"socket {one.laddr} {one.raddr}" for one in me.net_connections(kind="inet")}
    folders = [Path("/dev/shm"), Path(os.environ.get("TMPDIR", "/tmp"))]
    files = {str(file) for folder in folders if folder.is_dir() for file in folder.iterdir() if "athom" in file.name}
    return sockets | files | {f"{me.num_fds()} descriptors"}


def marked(mark: str) -> list[str]:
    """Processes that were started with our mark; dead ones that nobody has asked for do not count."""
    found = []
    for process in psutil.process_iter():
        try:
            ours = process.pid != os.getpid() and process.environ().get(MARK) == mark
            if ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append(f"process {process.pid}: {' '.join(process.cmdline())}")
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found
