"""Pools that prefill and pools that decode say what one engine would have said, also when any of them dies."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from msgspec.structs import replace

from fathom.batching.request import Output, Request, SamplingParams, ThinkingParams, sibling_seed
from fathom.config import find_model
from fathom.errors import ConfigError, EngineError
from fathom.layout.deploy import Pool, read_deploy
from fathom.serve.client import EngineClient, RestartPolicy
from fathom.serve.deployment import build_fleet
from fathom.serve.fleet import Fleet
from fathom.serve.launch import ServeConfig
from fathom.serve.ledger import Inbox
from fathom.serve.messages import Hello
from fathom.serve.transport import WORKER
from fathom.tokenizer import Tokenizer
from tests.serve.conftest import ROOT, SCRIPTED, Running, running
from tests.serve.test_launch import children

SPLIT = (Pool("p", role="prefill"), Pool("d", role="decode", replicas=2))
QUICKLY = RestartPolicy(restarts=50, first_pause_s=0.01)

# A worker whose pages leave slowly and whose leases end soon.
SLOWLY = (
    sys.executable,
    "-c",
    f"""
import sys, time
from functools import partial
sys.path.insert(0, {str(ROOT)!r})
from fathom.batching.leases import Patience
from fathom.serve import worker
patience = Patience(offered_s=4.0, pulling_s=4.0, whole_s=6.0)
worker.PageExchange = partial(worker.PageExchange, patience=patience, through=lambda page: time.sleep(0.03) or page)
sys.exit(worker.main())
""",
)


@asynccontextmanager
async def fleet(hello: Hello, pools=SPLIT, command=SCRIPTED, policy=QUICKLY) -> AsyncIterator[Fleet]:
    ours = build_fleet(hello, pools, command=command)
    for replica in ours.replicas:
        replica.client.policy = policy
    ours.start()
    try:
        await settles(lambda: all(replica.free for replica in ours.replicas), 30.0)
        yield ours
    finally:
        await ours.stop()


async def settles(what, most_s=30.0) -> None:
    until_s = time.monotonic() + most_s
    while not what():
        assert time.monotonic() < until_s, "it does not settle"
        await asyncio.sleep(0.02)


Reply = tuple[list[int], list, str]


async def replies(fleet: Fleet, groups: list[list[Request]], disturb=lambda arrivals: None) -> dict[str, Reply]:
    """All of them together; `disturb` is called at each arrival with how many there have been."""
    inbox, arrivals = Inbox(), 0
    found: dict[str, Reply] = {request.id: ([], [], "") for group in groups for request in group}
    for group in groups:
        fleet.add(group, inbox)
    left = set(found)
    async with asyncio.timeout(60):
        while left:
            arrival = await inbox.queue.get()
            assert isinstance(arrival.event, Output), arrival.event
            assert arrival.request_id in left, "something came after the end"
            assert arrival.event.prefix is None, "where pages lie is nobody else's business"
            ids, logprobs, _ = found[arrival.request_id]
            ids += arrival.event.token_ids
            logprobs += arrival.event.logprobs
            if arrival.event.finish_reason:
                found[arrival.request_id] = (ids, logprobs, arrival.event.finish_reason)
                left.discard(arrival.request_id)
            arrivals += 1
            disturb(arrivals)
    assert inbox.queue.empty() and fleet.in_flight == 0
    return found


# ---- with workers whose replies are written down ---------------------------------------------------------------------


def scripted(model: Path, text: str, name: str, count: int = 30) -> Request:
    asked = tuple(Tokenizer.load(model).encode(text))
    return Request(name, asked, SamplingParams(max_tokens=count, temperature=0.8, seed=len(name)))


def client(fleet: Fleet, name: str) -> EngineClient:
    return fleet.find(name).client


def test_replies_begin_at_one_and_go_on_at_others(scripted_model: Path) -> None:
    async def main() -> None:
        async with fleet(Hello(str(scripted_model), beat_s=0.05, silent_beats=40)) as ours:
            asked = [[scripted(scripted_model, "slow", "a" * i, i)] for i in range(1, 9)]
            found = await replies(ours, asked)
            assert [len(found["a" * i][0]) for i in range(1, 9)] == list(range(1, 9))
            assert ours.prefilled == 7 and ours.alone == ours.resumed == ours.moved == 0
            await settles(lambda: all(client(ours, name).stats.steps > 2 for name in ("p-0", "d-0", "d-1")))
            assert ours.facts is not None and ours.facts.max_sequences == 8  # of two that decode
            assert [row["role"] for row in ours.describe()] == ["prefill", "decode", "decode"]

    asyncio.run(main())


def test_without_a_prefiller_the_decoders_read_which_is_said_once(scripted_model: Path, caplog) -> None:
    async def main() -> None:
        hello = Hello(str(scripted_model), beat_s=0.05, silent_beats=40)
        async with fleet(hello, policy=RestartPolicy(restarts=0)) as ours:
            asked = [[scripted(scripted_model, "slow", "a" * i)] for i in range(1, 5)]
            undisturbed = await replies(ours, asked)
            os.kill(client(ours, "p-0").pid, signal.SIGKILL)
            await settles(lambda: client(ours, "p-0").state == "failed")
            assert ours.state == "ready" and ours.failure is None
            assert await replies(ours, asked) == undisturbed
            assert ours.alone == 4 and caplog.text.count("read prompts themselves") == 1
            ours.renew("p-0")  # while it is away, nothing waits for it
            await settles(lambda: ours.find("p-0").free)
            assert await replies(ours, asked) == undisturbed and ours.alone == 4

    asyncio.run(main())


def test_without_a_decoder_nothing_is_taken(scripted_model: Path) -> None:
    async def main() -> None:
        hello = Hello(str(scripted_model), beat_s=0.05, silent_beats=40)
        async with fleet(hello, policy=RestartPolicy(restarts=0)) as ours:
            for name in ("d-0", "d-1"):
                os.kill(client(ours, name).pid, signal.SIGKILL)
            await settles(lambda: ours.state == "failed")
            with pytest.raises(Exception, match="exit code -9"):
                ours.add([scripted(scripted_model, "slow", "a")], Inbox())
            with pytest.raises(ConfigError, match="no other replica"):
                ours.renew("p-0")

    asyncio.run(main())


def test_a_poison_is_found_whoever_it_kills_first(scripted_model: Path) -> None:
    async def main() -> None:
        async with fleet(Hello(str(scripted_model), beat_s=0.05, silent_beats=40)) as ours:
            inbox = Inbox()
            ours.add([scripted(scripted_model, "crash", "poison")], inbox)
            asked = [[scripted(scripted_model, "slow", "a" * i)] for i in range(1, 5)]
            await replies(ours, asked) if ours.in_flight == 0 else await settles(lambda: ours.in_flight == 0, 20.0)
            event = inbox.queue.get_nowait().event
            assert isinstance(event, EngineError) and event.code == "poison_request"
            assert ours.poisoned == 1 and inbox.queue.empty()

    asyncio.run(main())


def test_pools_that_only_prefill_are_refused() -> None:
    with pytest.raises(ConfigError, match="add one that decodes"):
        build_fleet(Hello("m"), (Pool("p", role="prefill"),))


# ---- with real ones --------------------------------------------------------------------------------------------------


def mixed(count: int = 18) -> list[list[Request]]:
    """Long and short prompts, shared prefixes, siblings, seeds, penalties, limits on thinking."""
    groups: list[list[Request]] = []
    for i in range(count):
        prompt = tuple(20 + (i // 3 * 31 + at * at) % 200 for at in range(7 + 23 * (i // 3 % 6)))
        params = SamplingParams(
            max_tokens=(12, 1, 20)[i % 3], temperature=(0.0, 0.8, 1.0)[i % 3], seed=sibling_seed(5, i),
            presence_penalty=0.5 * (i % 2), repetition_penalty=1.1 if i % 5 == 0 else 1.0, ignore_eos=i % 4 > 0,
            logprobs=2 if i % 6 == 0 else None, thinking=ThinkingParams(5, 4) if i % 7 == 0 else None,
        )  # fmt: skip
        request = Request(str(i), prompt, params, streamed=i % 2 == 0)
        other = replace(request, id=f"{i}s", params=replace(params, seed=i, temperature=1.0))
        groups.append([request, other] if i % 4 == 2 else [request])
    return groups


def each_as(groups: list[list[Request]], name: str) -> list[list[Request]]:
    """The same under other names, in a cache of their own."""
    return [[replace(request, id=f"{request.id} {name}", cache_salt=name) for request in group] for group in groups]


def bare(found: dict[str, Reply]) -> dict[str, Reply]:
    return {name.split()[0]: reply for name, reply in found.items()}


def nano(**settings) -> Hello:
    limits = {"threads": 3, "max_sequences": 8, "num_pages": 512, "beat_s": 0.2, "silent_beats": 50}
    return Hello(str(find_model("nano")), **(limits | settings))


def idle(fleet: Fleet) -> bool:
    """Whether no page is held by anybody."""
    stats = [replica.client.stats for replica in fleet.replicas]
    return all(not (each.pages_used or each.running or each.waiting or each.leases.get("live")) for each in stats)


async def told_by_one(groups: list[list[Request]]) -> dict[str, Reply]:
    async with fleet(nano(threads=1), (Pool(),), WORKER) as ours:
        return bare(await replies(ours, each_as(groups, "one")))


def test_three_processes_say_what_one_says_also_when_one_dies_in_a_transfer(caplog) -> None:
    pools = (Pool("p", role="prefill"), Pool("d", role="decode"))

    async def main() -> None:
        expected = await told_by_one(mixed())
        async with fleet(nano(spec="off"), pools, SLOWLY, RestartPolicy(restarts=0)) as ours:
            assert bare(await replies(ours, each_as(mixed(), "b"))) == expected
            prefill, decode = client(ours, "p-0"), client(ours, "d-0")
            assert ours.prefilled > 12 and ours.alone == ours.resumed == 0
            ended = lambda: sum(prefill.stats.leases.get(how, 0) for how in ("released", "aborted"))  # noqa: E731
            await settles(lambda: decode.stats.fetches > 5 and ended() > 5 and idle(ours))
            stats = decode.stats
            assert stats.fetched_pages > 10 and stats.failed_fetches == 0
            assert stats.fetched_bytes % stats.fetched_pages == 0

            # nobody fetches: the lease ends by its deadline, and the pages are free
            long = tuple(20 + at * 7 % 150 for at in range(400))
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(ours, "read", lambda pendings: None)
                prefill.add([Request("x", long, SamplingParams(max_tokens=2))], Inbox())
                await settles(lambda: prefill.stats.leases.get("live") == 1)
                await settles(lambda: idle(ours))
            assert prefill.stats.leases["expired"] == 1

            # the prefill side dies in the middle of a transfer: the request goes on, and no page stays behind
            asked = Request("y", long, SamplingParams(max_tokens=16, temperature=0.9, seed=4), cache_salt="b")
            before, failed = decode.stats.fetched_pages, decode.stats.failed_fetches

            async def kill() -> None:
                await settles(lambda: "y" in decode.ledger.pending)
                await asyncio.sleep(0.2)  # 25 pages take 0.75 s
                os.kill(prefill.pid, signal.SIGKILL)

            killing = asyncio.create_task(kill())
            found = await replies(ours, [[asked]])
            await killing
            await settles(lambda: decode.stats.failed_fetches == failed + 1 and idle_at(decode))
            assert 0 < decode.stats.fetched_pages - before < 25
            # nobody is left to read prompts: the decoder does it all
            await settles(lambda: prefill.state == "failed")
            again = await replies(ours, [[replace(asked, id="z", cache_salt="z")]])
            assert again["z"] == found["y"] and ours.alone == 1

    asyncio.run(main())


def idle_at(client: EngineClient) -> bool:
    return client.stats.pages_used == client.stats.running == client.stats.waiting == 0


@pytest.mark.parametrize("seed", [1, *[pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 7)]])
def test_kills_at_random_moments_lose_nothing(seed: int) -> None:
    rng = random.Random(seed)
    groups = mixed(36)

    async def main() -> None:
        expected = await told_by_one(groups)
        async with fleet(nano(), SPLIT, SLOWLY) as ours:
            kills = sorted(rng.randrange(3, 250) for _ in range(3))
            names = ["p-0", rng.choice(["d-0", "d-1"]), rng.choice(["p-0", "d-0", "d-1"])]
            rng.shuffle(names)

            def disturb(arrivals: int) -> None:
                if kills and arrivals >= kills[0] and (pid := client(ours, names[0]).pid) is not None:
                    os.kill(pid, signal.SIGKILL)
                    del kills[0], names[0]

            assert bare(await replies(ours, each_as(groups, "b"), disturb)) == expected
            assert not kills and ours.poisoned == 0
            await settles(lambda: ours.restarts == 3 and all(replica.free for replica in ours.replicas), 30.0)
            assert bare(await replies(ours, each_as(groups[:6], "c"))).items() <= expected.items()
            await settles(lambda: idle(ours))

    asyncio.run(main())


def test_the_deployment_in_the_recipes_over_http_through_kills() -> None:
    """32 clients at once, twice, once with a worker of each role killed: the texts of a single engine, nothing left."""
    deploy = read_deploy("recipes/deploy/nano-split.toml")
    assert [(pool.role, pool.replicas) for pool in deploy.pool] == [("prefill", 1), ("decode", 2)]
    config = ServeConfig(deploy.model, threads=3, drain_s=0.2, **deploy.engine)
    before = children(os.getpid())
    seen: list[int] = []

    def ask(server: Running, number: int) -> str:
        body = {
            "prompt": "What is 384 + 2957? " * (1 + number % 6), "max_tokens": (1, 24, 40)[number % 3], "seed": number,
            "temperature": (0.0, 0.9)[number % 2], "stream": True, "ignore_eos": True,
        }  # fmt: skip
        text = ""
        with httpx.stream("POST", f"{server.url}/v1/completions", json=body, timeout=60) as response:
            for line in response.iter_lines():
                if line.startswith("data: {"):
                    event = json.loads(line.removeprefix("data: "))
                    assert "error" not in event, event
                    text += "".join(choice["text"] for choice in event["choices"])
                    seen.append(number)
        return text

    with ThreadPoolExecutor(32) as threads:
        with running(config, WORKER) as server:
            expected = list(threads.map(lambda number: ask(server, number), range(32)))
        with running(dataclasses.replace(config, pools=deploy.pool), WORKER) as server:
            ours = server.server.client
            until_s = time.monotonic() + 30
            while not all(replica.free for replica in ours.replicas):
                assert time.monotonic() < until_s
                time.sleep(0.05)
            assert list(threads.map(lambda number: ask(server, number), range(32))) == expected
            for name in ("prefill-0", "decode-1"):
                seen.clear()
                asked = [threads.submit(ask, server, number) for number in range(32)]
                while len(seen) < 10:
                    time.sleep(0.002)
                os.kill(ours.find(name).client.pid, signal.SIGKILL)
                assert [each.result() for each in asked] == expected
            text = server.http.get("/metrics").text
            lines = [line.rpartition(" ") for line in text.splitlines() if line[0] != "#"]
            shown = {name: float(value) for name, _, value in lines}
            assert shown["fathom_requests_prefilled_total"] == ours.prefilled > 21
            assert shown["fathom_requests_read_by_decoders_total"] == ours.alone
            assert 'fathom_leases{state="released"}' in shown and shown["fathom_requests_poisoned_total"] == 0
            assert server.http.get("/fleet").json()["prefilled"] == ours.prefilled
    assert children(os.getpid()) == before
