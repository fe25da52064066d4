"""The real engine, killed at random moments under load: every reply is the undisturbed one, and nothing is left."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import httpx
import msgspec
import pytest

from fathom.batching.request import Output, Request, SamplingParams, ThinkingParams, TokenLogprob
from fathom.layout.deploy import Pool
from fathom.serve.client import RestartPolicy
from fathom.serve.deployment import build_fleet
from fathom.serve.fleet import Fleet
from fathom.serve.launch import ServeConfig
from fathom.serve.ledger import Inbox
from fathom.serve.messages import Hello
from fathom.serve.transport import WORKER
from fathom.tokenizer import Tokenizer
from tests.serve.conftest import SCRIPTED, Running, running
from tests.serve.test_launch import children

pytestmark = pytest.mark.skipif(not Path("/proc").exists(), reason="looks for what is left in /proc")
Reply = tuple[list[int], list[TokenLogprob], str]


def drawn(rng: Random, count: int) -> list[Request]:
    """Requests of every kind; some share their prompts' beginnings."""
    stem = tuple(rng.choices(range(3, 200), k=40))
    return [
        Request(
            f"r{i}",
            (*stem[: rng.choice([1, 16, 40])], *rng.choices(range(3, 200), k=rng.randint(1, 20))),
            SamplingParams(
                max_tokens=rng.randint(40, 120),
                temperature=rng.choice([0.0, 0.7, 1.2]),
                seed=rng.getrandbits(32),
                frequency_penalty=rng.choice([0.0, 0.5]),
                logprobs=rng.choice([None, 2]),
                thinking=rng.choice([None, ThinkingParams(end_think_id=7, budget_tokens=15)]),
                ignore_eos=True,
            ),
            streamed=rng.random() < 0.8,
        )
        for i in range(count)
    ]


async def replies(
    fleet: Fleet, requests: list[Request], kills: dict[int, signal.Signals], rng: Random
) -> dict[str, Reply]:
    """All of them together; at the arrivals that `kills` names, a worker gets a signal."""
    inbox, arrivals = Inbox(), 0
    found: dict[str, Reply] = {}
    tokens: dict[str, list[int]] = {request.id: [] for request in requests}
    logprobs: dict[str, list[TokenLogprob]] = {request.id: [] for request in requests}
    for request in requests:
        fleet.add([request], inbox)
    async with asyncio.timeout(60):
        while len(found) < len(requests):
            arrival = await inbox.queue.get()
            event = arrival.event
            assert isinstance(event, Output), event
            assert arrival.request_id not in found
            tokens[arrival.request_id] += event.token_ids
            logprobs[arrival.request_id] += event.logprobs
            if event.finish_reason:
                found[arrival.request_id] = (
                    tokens[arrival.request_id],
                    logprobs[arrival.request_id],
                    event.finish_reason,
                )
            arrivals += 1
            due = [at for at in kills if at <= arrivals]
            busy = [replica.client.pid for replica in fleet.replicas if replica.free and replica.client.in_flight]
            if due and busy:
                with contextlib.suppress(ProcessLookupError):  # killed before, and not yet missed
                    os.kill(rng.choice(busy), kills[due[0]])
                    del kills[due[0]]
    assert inbox.queue.empty() and fleet.in_flight == 0 and not kills
    return found


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow)])
def test_random_kills_change_no_reply_and_leave_nothing(tiny_model: Path, seed: int) -> None:
    rng = Random(seed)
    requests = drawn(rng, 16)
    before = open_files(), children(os.getpid())

    async def main() -> None:
        hello = Hello(str(tiny_model), threads=2, num_pages=64, max_sequences=6, beat_s=0.2, silent_beats=10)
        fleet = build_fleet(hello, (Pool(replicas=2),))
        for replica in fleet.replicas:
            replica.client.policy = RestartPolicy(restarts=50, first_pause_s=0.01)
        fleet.start()
        async with asyncio.timeout(60):
            while not all(replica.free for replica in fleet.replicas):
                await asyncio.sleep(0.02)
        undisturbed = await replies(fleet, requests, {}, rng)
        again = [msgspec.structs.replace(request, id=f"{request.id} again") for request in requests]
        kills = {rng.randrange(10, 500): signal.SIGKILL, rng.randrange(10, 500): signal.SIGKILL}
        kills[rng.randrange(10, 300)] = signal.SIGSTOP
        found = await replies(fleet, again, kills, rng)
        assert found == {f"{name} again": reply for name, reply in undisturbed.items()}
        assert fleet.restarts + sum(r.client.state == "restarting" for r in fleet.replicas) >= 2
        assert fleet.moved + fleet.resumed > 0 and fleet.poisoned == 0
        await fleet.stop()

    asyncio.run(main())
    assert (open_files(), children(os.getpid())) == before


def test_clients_read_the_same_text_when_the_one_worker_is_killed(tiny_model: Path) -> None:
    """Over HTTP, streamed, sixteen at once: each text is the undisturbed one, in one piece."""
    config = ServeConfig(model=str(tiny_model), threads=2, drain_s=0.2)

    def read(server: Running, number: int, events: list[int]) -> str:
        body = {"prompt": [5 + number, 9, 30], "max_tokens": 220, "temperature": 0.9, "seed": number, "stream": True}
        text = ""
        with httpx.stream(
            "POST", f"{server.url}/v1/completions", json=body | {"ignore_eos": True}, timeout=60
        ) as response:
            for line in response.iter_lines():
                if line.startswith("data: {"):
                    event = json.loads(line.removeprefix("data: "))
                    assert "error" not in event, event
                    text += "".join(choice["text"] for choice in event["choices"])
                    events.append(number)
        assert line == "" or line == "data: [DONE]"
        return text

    with running(config, WORKER) as server, ThreadPoolExecutor(16) as pool:
        undisturbed = list(pool.map(lambda number: read(server, number, []), range(16)))
        events: list[int] = []
        disturbed = [pool.submit(read, server, number, events) for number in range(16)]
        while len(events) < 100:
            time.sleep(0.002)
        os.kill(server.server.client.replicas[0].client.pid, signal.SIGKILL)
        assert [future.result() for future in disturbed] == undisturbed
        assert server.server.client.restarts == 1 and server.server.client.resumed > 0


@pytest.mark.slow
def test_many_signals_in_half_a_minute_lose_nothing(scripted_model: Path) -> None:
    """Replicas are killed or stopped while they work, load and load again; clients come, read, and sometimes leave."""
    rng = Random(5)
    asked = tuple(Tokenizer.load(scripted_model).encode("slow"))
    truth: dict[int, list[int]] = {}
    ended: Counter[str] = Counter()

    async def client(fleet: Fleet, number: int, until_s: float) -> None:
        while time.monotonic() < until_s:
            seed = rng.randrange(6)
            params = SamplingParams(max_tokens=20 + seed * 10, temperature=0.7, seed=seed)
            request, inbox, tokens = Request(f"{number}-{ended.total()}", asked, params), Inbox(), []
            fleet.add([request], inbox, session=str(number))
            leaves = rng.random() < 0.1
            while True:
                event = (await asyncio.wait_for(inbox.queue.get(), 30)).event
                assert isinstance(event, Output), event
                tokens += event.token_ids
                if event.finish_reason:
                    assert truth.setdefault(seed, tokens) == tokens and len(tokens) == params.max_tokens
                    ended["whole"] += 1
                    break
                if leaves and len(tokens) > 5:
                    fleet.abort(request.id)
                    ended["left"] += 1
                    break

    async def signals(fleet: Fleet, until_s: float) -> None:
        while time.monotonic() < until_s:
            await asyncio.sleep(rng.uniform(0.05, 0.4))
            clients = [replica.client for replica in fleet.replicas if not replica.client.ledger.quarantined]
            if pids := [client.pid for client in clients if client.pid]:
                os.kill(rng.choice(pids), rng.choice([signal.SIGKILL] * 4 + [signal.SIGSTOP]))
                ended["signals"] += 1

    async def main() -> None:
        hello = Hello(str(scripted_model), beat_s=0.05, silent_beats=20)
        fleet = build_fleet(hello, (Pool(replicas=3),), command=SCRIPTED)
        for replica in fleet.replicas:
            replica.client.policy = RestartPolicy(restarts=1000, first_pause_s=0.01, longest_pause_s=0.05)
        fleet.start()
        await fleet.settled.wait()
        until_s = time.monotonic() + 30
        await asyncio.gather(signals(fleet, until_s - 3), *[client(fleet, number, until_s) for number in range(12)])
        assert fleet.in_flight == 0 and fleet.poisoned == 0
        await fleet.stop()

    before = open_files(), children(os.getpid())
    asyncio.run(main())
    assert (open_files(), children(os.getpid())) == before
    assert ended["signals"] >= 60 and ended["whole"] >= 30, ended
