"""Several replicas are one engine to whoever asks: nothing is lost when one dies, and nothing mixed up."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import openai
import pytest

from fathom.batching.request import Output, Request, SamplingParams
from fathom.errors import ConfigError, EngineError, WorkerError
from fathom.layout.deploy import Pool
from fathom.serve.client import EngineClient, RestartPolicy, Watcher
from fathom.serve.fleet import Fleet
from fathom.serve.launch import ServeConfig
from fathom.serve.ledger import Inbox
from fathom.serve.messages import Hello
from fathom.serve.transport import Spawned
from fathom.tokenizer import Tokenizer
from tests.serve.conftest import SCRIPTED, running
from tests.serve.test_client import alive

PATIENT = RestartPolicy(restarts=50, first_pause_s=0.01)


@asynccontextmanager
async def fleet(
    model: Path, count: int, policy: RestartPolicy = PATIENT,
    fingerprint: Callable[[int], str] = lambda _: "scripted", policies: Sequence[RestartPolicy] = (),
    gone: Path | None = None,
) -> AsyncIterator[Fleet]:  # fmt: skip
    def hire(pool: Pool, number: int, watcher: Watcher) -> EngineClient:
        mark = f"import os; os.environ['FINGERPRINT'] = {fingerprint(number)!r}; "
        if gone and number:  # workers of the others do not start while this file is there
            mark += f"os.path.exists({str(gone)!r}) and os._exit(1); "
        command = (*SCRIPTED[:2], mark + SCRIPTED[2])
        hello = Hello(str(model), beat_s=0.05, silent_beats=20)
        own = policies[number] if policies else policy
        return EngineClient(hello, policy=own, via=Spawned(command), name=f"main-{number}", watcher=watcher)

    ours = Fleet([Pool(replicas=count)], hire)
    ours.start()
    try:
        async with asyncio.timeout(60):
            while any(replica.client.state == "starting" for replica in ours.replicas):
                await asyncio.sleep(0.01)
        yield ours
    finally:
        await ours.stop()


def slow(model: Path, name: str, count: int = 40) -> Request:
    asked = tuple(Tokenizer.load(model).encode(f"slow {name}"))
    return Request(name, asked, SamplingParams(max_tokens=count, temperature=0.8, seed=int(name, 36)))


async def replies(inbox: Inbox, names: set[str], step: Callable[[int], None] | None = None) -> dict[str, list[int]]:
    """Tokens of each; `step` is called at each arrival with how many there have been."""
    found: dict[str, list[int]] = {name: [] for name in names}
    left, arrivals = set(names), 0
    async with asyncio.timeout(60):
        while left:
            arrival = await inbox.queue.get()
            assert isinstance(arrival.event, Output), arrival.event
            assert arrival.request_id in left, "something came after the end"
            found[arrival.request_id] += arrival.event.token_ids
            if arrival.event.finish_reason:
                left.remove(arrival.request_id)
            arrivals += 1
            if step is not None:
                step(arrivals)
    return found


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_what_a_lost_replica_did_goes_on_at_another(scripted_model: Path, how: signal.Signals) -> None:
    async def main() -> None:
        async with fleet(scripted_model, 3) as ours:
            requests = [slow(scripted_model, name) for name in "abcdefgh"]
            inbox = Inbox()
            for request in requests:
                ours.add([request], inbox)
            undisturbed = await replies(inbox, set("abcdefgh"))
            assert len({tuple(tokens) for tokens in undisturbed.values()}) == 8
            busy = {replica.name: replica.client.stats.steps for replica in ours.replicas}
            assert len(busy) == 3
            victim = ours.replicas[1].client

            def disturb(arrivals: int) -> None:
                if arrivals == 30:
                    assert victim.in_flight, "it has nothing to lose: this proves nothing"
                    os.kill(victim.pid, how)

            for request in requests:
                ours.add([request], inbox)
            assert await replies(inbox, set("abcdefgh"), disturb) == undisturbed
            assert ours.moved > 0 and ours.poisoned == 0 and ours.in_flight == 0
            assert ours.restarts == 1 and inbox.queue.empty()

    asyncio.run(main())


def test_all_replicas_lost_at_once_is_a_pause_too(scripted_model: Path) -> None:
    async def main() -> None:
        async with fleet(scripted_model, 2) as ours:
            inbox = Inbox()
            for name in "abcd":
                ours.add([slow(scripted_model, name)], inbox)
            undisturbed = await replies(inbox, set("abcd"))

            def disturb(arrivals: int) -> None:
                if arrivals == 10:
                    for replica in ours.replicas:
                        os.kill(replica.client.pid, signal.SIGKILL)

            for name in "abcd":
                ours.add([slow(scripted_model, name)], inbox)
            assert await replies(inbox, set("abcd"), disturb) == undisturbed
            assert ours.restarts == 2 and ours.state == "ready"

    asyncio.run(main())


def test_suspects_of_a_replica_that_stays_away_are_all_tried_by_the_other(scripted_model: Path, tmp_path: Path) -> None:
    away, gone = RestartPolicy(restarts=50, first_pause_s=8.0, longest_pause_s=8.0), tmp_path / "gone"

    async def main() -> None:
        async with fleet(scripted_model, 2, policies=(PATIENT, away), gone=gone) as ours:
            inbox = Inbox()
            for name in "abcdefgh":
                ours.add([slow(scripted_model, name, 60)], inbox)
            first, second = (replica.client for replica in ours.replicas)
            to_kill = [second.pid, first.pid]

            def disturb(arrivals: int) -> None:
                if arrivals == 10 or (len(to_kill) == 1 and second.in_flight == 8):
                    gone.touch()
                    os.kill(to_kill.pop(), signal.SIGKILL)  # who came from the first sees a second death then

            await replies(inbox, set("abcdefgh"), disturb)
            assert [replica.client.state for replica in ours.replicas] == ["ready", "restarting"]
            assert ours.poisoned == 0 and ours.resumed >= 8

    asyncio.run(main())


def test_a_replica_that_is_lost_for_good_leaves_its_work_to_the_others(scripted_model: Path) -> None:
    async def main() -> None:
        async with fleet(scripted_model, 2, RestartPolicy(restarts=0)) as ours:
            inbox = Inbox()
            for name in "abcd":
                ours.add([slow(scripted_model, name)], inbox)
            assert {replica.client.in_flight for replica in ours.replicas} == {2}

            def disturb(arrivals: int) -> None:
                if arrivals == 10:
                    os.kill(ours.replicas[0].client.pid, signal.SIGKILL)

            await replies(inbox, set("abcd"), disturb)
            assert [replica.client.state for replica in ours.replicas] == ["failed", "ready"]
            assert ours.state == "ready" and ours.failure is None
            os.kill(ours.replicas[1].client.pid, signal.SIGKILL)
            async with asyncio.timeout(10):
                while ours.state != "failed":
                    await asyncio.sleep(0.01)
            with pytest.raises(WorkerError, match="exit code -9"):
                ours.add([slow(scripted_model, "e")], inbox)

    asyncio.run(main())


def test_a_poison_kills_two_replicas_and_is_tried_on_the_second(scripted_model: Path) -> None:
    async def main() -> None:
        async with fleet(scripted_model, 3) as ours:
            inbox, poisoned = Inbox(), Inbox()
            for name in "abcdef":
                ours.add([slow(scripted_model, name, 60)], inbox)
            crash = tuple(Tokenizer.load(scripted_model).encode("crash"))
            ours.add([Request("poison", crash)], poisoned)
            await replies(inbox, set("abcdef"))
            async with asyncio.timeout(10):
                event = (await poisoned.queue.get()).event
            assert isinstance(event, EngineError) and event.code == "poison_request"
            assert ours.poisoned == 1 and ours.restarts <= 5
            assert sorted(replica.client.restarts for replica in ours.replicas) == [0, 1, 4]

    asyncio.run(main())


def test_a_replica_with_other_weights_is_not_let_in(scripted_model: Path) -> None:
    async def main() -> None:
        async with fleet(scripted_model, 2, fingerprint=lambda number: f"fp-{number}") as ours:
            states = sorted(replica.client.state for replica in ours.replicas)
            assert states == ["failed", "ready"] and ours.state == "ready"
            (failed,) = [replica.client.failure for replica in ours.replicas if replica.client.failure]
            assert isinstance(failed, ConfigError) or "all must hold the same weights" in str(failed)

    asyncio.run(main())


def test_replicas_are_added_drained_and_renewed_while_replies_run(scripted_model: Path) -> None:
    async def main() -> None:
        async with fleet(scripted_model, 1) as ours:
            with pytest.raises(ConfigError, match="no other replica is ready"):
                ours.renew("main-0")
            ours.scale("main", 2)
            async with asyncio.timeout(10):
                while not all(replica.free for replica in ours.replicas):
                    await asyncio.sleep(0.01)
            inbox = Inbox()
            for name in "abcd":
                ours.add([slow(scripted_model, name)], inbox)
            old = ours.find("main-0").client
            pid = old.pid
            ours.renew("main-0")
            ours.add([slow(scripted_model, "e")], inbox)
            assert "e" in ours.find("main-1").client.ledger.pending  # the draining one takes no more
            await replies(inbox, set("abcde"))
            async with asyncio.timeout(10):
                while alive(pid) or sum(replica.free for replica in ours.replicas) < 2:
                    await asyncio.sleep(0.01)
            assert ours.find("main-0").client is not old and ours.restarts == 0
            ours.scale("main", 1)
            async with asyncio.timeout(10):
                while len(ours.replicas) > 1:
                    await asyncio.sleep(0.01)
            assert ours.state == "ready" and ours.facts is not None and ours.facts.max_sequences == 4
            for pool, count, match in (
                ("none", 1, "no pool 'none'"),
                ("main", 0, "at least 1"),
                ("main", 300, "most 256"),
            ):
                with pytest.raises(ConfigError, match=match):
                    ours.scale(pool, count)
            with pytest.raises(ConfigError, match="no replica 'x'; there are main-0"):
                ours.find("x")

    asyncio.run(main())


def test_operators_see_scale_and_renew_the_fleet(scripted_model: Path) -> None:
    config = ServeConfig(model=str(scripted_model), pools=(Pool(replicas=2),), drain_s=0.2, api_keys=("key",))
    with running(config) as server:
        http = server.http
        assert http.get("/fleet").status_code == 401 and http.post("/fleet/scale", json={}).status_code == 401
        http.headers["authorization"] = "Bearer key"
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="key", max_retries=0, timeout=20)
        for _ in range(2):
            client.chat.completions.create(
                model="scripted", messages=[{"role": "user", "content": "hi"}], user="somebody", max_tokens=5
            )
        overview = http.get("/fleet").json()
        assert [replica["name"] for replica in overview["replicas"]] == ["main-0", "main-1"]
        assert overview["router"]["requests"] == 2 and overview["router"]["pinned"] == 1
        assert 'fathom_replica_ready{replica="main-1"} ' in http.get("/metrics").text
        reply = http.post("/fleet/scale", json={"replicas": 1})
        assert reply.status_code == 202 and {r["state"] for r in reply.json()["replicas"]} >= {"draining"}
        assert "no replica 'x'" in http.post("/fleet/renew", json={"replica": "x"}).json()["error"]["message"]
        assert http.post("/fleet/scale", json={"replicas": 0}).status_code == 400
