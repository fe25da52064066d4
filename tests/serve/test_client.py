"""A worker that dies, or is silent, is started again, and what it was doing goes on; whoever kills it is found."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from pathlib import Path

import openai
import pytest

from fathom.batching.request import Output, Request, SamplingParams
from fathom.errors import CheckpointError, FathomError, InputError, WorkerError
from fathom.serve.client import EngineClient, RestartPolicy
from fathom.serve.launch import ServeConfig
from fathom.serve.ledger import Inbox
from fathom.serve.messages import Hello
from fathom.serve.transport import Spawned
from fathom.tokenizer import Tokenizer
from tests.serve.conftest import SCRIPTED, Running, running

QUICK = RestartPolicy(restarts=2, first_pause_s=0.01)
PATIENT = RestartPolicy(restarts=50, first_pause_s=0.01)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def ready(client: EngineClient) -> None:
    async with asyncio.timeout(10):
        while client.state != "ready":
            await asyncio.sleep(0.01)


async def collect(client: EngineClient, request: Request) -> list[Output | FathomError]:
    inbox, events = Inbox(), []
    client.add([request], inbox)
    async with asyncio.timeout(10):
        while not events or not (isinstance(events[-1], FathomError) or events[-1].finish_reason):
            events.append((await inbox.queue.get()).event)
    return events


def test_requests_come_back_and_stop_ends_the_worker(scripted_model: Path) -> None:
    async def main() -> None:
        client = EngineClient(Hello(str(scripted_model)), policy=QUICK, via=Spawned(SCRIPTED))
        with pytest.raises(WorkerError, match="starting"):
            client.add([Request("early", (1,))], Inbox())
        client.start()
        await ready(client)
        events = await collect(client, Request("a", (3, 4), SamplingParams(temperature=0.0)))
        assert events[-1].finish_reason == "stop" and client.in_flight == 0
        refused = await collect(client, Request("b", (1,) * 600))
        assert isinstance(refused[-1], InputError) and client.in_flight == 0
        pid = client.pid
        await client.stop()
        assert client.state == "stopped" and not alive(pid)

    asyncio.run(main())


def test_a_killed_worker_is_replaced_and_its_replies_go_on(scripted_model: Path) -> None:
    tokenizer = Tokenizer.load(scripted_model)
    asked = tuple(tokenizer.encode("slow"))
    word = tokenizer.encode("word " * 60)[:40]

    async def main() -> None:
        client = EngineClient(Hello(str(scripted_model)), policy=PATIENT, via=Spawned(SCRIPTED))
        client.start()
        await ready(client)
        inbox = Inbox()
        params = SamplingParams(max_tokens=40, temperature=0.0, logprobs=1)
        client.add([Request(name, asked, params) for name in "abcdef"], inbox)
        found: dict[str, list[Output]] = {name: [] for name in "abcdef"}
        kills = 0
        async with asyncio.timeout(60):
            while any(not parts or parts[-1].finish_reason is None for parts in found.values()):
                arrival = await inbox.queue.get()
                assert isinstance(arrival.event, Output)
                found[arrival.request_id].append(arrival.event)
                if len(found["a"]) == 5 and not kills:  # four run, two wait
                    os.kill(client.pid, signal.SIGKILL)
                    kills += 1
                    client.add([Request("late", asked, params)], inbox)
                    found["late"] = []
        for parts in found.values():
            assert [token for part in parts for token in part.token_ids] == word
            assert [one.token_id for part in parts for one in part.logprobs] == word
            assert [part.read_tokens for part in parts] == sorted(part.read_tokens for part in parts)
            assert {part.request_id for part in parts} <= found.keys()
        assert client.restarts == 1 and client.in_flight == 0
        assert client.ledger.resumed >= 6 and client.ledger.poisoned == 0
        await client.stop()

    asyncio.run(main())


def test_a_worker_that_dies_too_often_is_given_up_and_says_so(scripted_model: Path) -> None:
    endless = tuple(Tokenizer.load(scripted_model).encode("slow"))

    async def main() -> None:
        client = EngineClient(Hello(str(scripted_model)), policy=QUICK, via=Spawned(SCRIPTED))
        client.start()
        await ready(client)
        inbox = Inbox()
        for at in range(QUICK.restarts + 1):
            client.add([Request(f"r{at}", endless)], inbox)
            pid = client.pid
            os.kill(pid, signal.SIGKILL)
            async with asyncio.timeout(10):
                while client.state == "ready" or (client.state != "failed" and client.pid in (None, pid)):
                    await asyncio.sleep(0.005)
            if at < QUICK.restarts:
                await ready(client)
                client.abort(f"r{at}")
        assert client.state == "failed" and client.restarts == QUICK.restarts
        while isinstance(event := (await inbox.queue.get()).event, Output):
            assert event.finish_reason is None
        assert isinstance(event, WorkerError)
        with pytest.raises(WorkerError, match="exit code -9"):
            client.add([Request("late", (1,))], Inbox())
        await client.stop()

    asyncio.run(main())


def test_a_worker_killed_before_it_ever_worked_is_started_again(scripted_model: Path) -> None:
    async def main() -> None:
        client = EngineClient(Hello(str(scripted_model)), policy=QUICK, via=Spawned(SCRIPTED))
        client.start()
        async with asyncio.timeout(10):
            while client.pid is None:
                await asyncio.sleep(0.001)
        assert client.state == "starting"
        os.kill(client.pid, signal.SIGKILL)
        await ready(client)
        await client.stop()

    asyncio.run(main())


def test_a_stopped_worker_is_noticed_and_replaced(scripted_model: Path) -> None:
    """SIGSTOP: the process is there, its socket is open, and nothing comes."""
    tokenizer = Tokenizer.load(scripted_model)
    hello = Hello(str(scripted_model), beat_s=0.05, silent_beats=6)

    async def main() -> None:
        client = EngineClient(hello, policy=QUICK, via=Spawned(SCRIPTED))
        client.start()
        await ready(client)
        inbox = Inbox()
        client.add([Request("a", tuple(tokenizer.encode("slow")), SamplingParams(max_tokens=30))], inbox)
        first = await inbox.queue.get()
        pid = client.pid
        os.kill(pid, signal.SIGSTOP)
        tokens = list(first.event.token_ids)
        async with asyncio.timeout(10):
            while not (event := (await inbox.queue.get()).event).finish_reason:
                tokens += event.token_ids
        assert client.restarts == 1 and not alive(pid)
        undisturbed = await collect(
            client, Request("b", tuple(tokenizer.encode("slow")), SamplingParams(max_tokens=30))
        )
        assert (*tokens, *event.token_ids) == tuple(t for part in undisturbed for t in part.token_ids)
        await client.stop()

    asyncio.run(main())


def test_a_step_that_hangs_is_noticed_though_pings_are_answered(scripted_model: Path) -> None:
    hang = "import time; sleep = time.sleep; time.sleep = lambda s: sleep(99 if hang else s); "
    hang += "hang = os.path.exists(os.environ.get('HANG', '')); "
    asked = tuple(Tokenizer.load(scripted_model).encode("slow"))

    async def main(flag: Path) -> None:
        command = (*SCRIPTED[:2], f"import os; os.environ['HANG'] = {str(flag)!r}; " + hang + SCRIPTED[2])
        hello = Hello(str(scripted_model), beat_s=0.05, silent_beats=40, longest_step_s=0.4)
        client = EngineClient(hello, policy=QUICK, via=Spawned(command))
        client.start()
        await ready(client)
        flag.unlink()  # the next worker does not hang
        events = await collect(client, Request("a", asked, SamplingParams(max_tokens=3)))
        assert client.restarts == 1 and events[-1].finish_reason == "length"
        await client.stop()

    flag = scripted_model.parent / "hang"
    flag.write_text("")
    asyncio.run(main(flag))


def test_a_busy_worker_is_not_a_silent_one(scripted_model: Path) -> None:
    """A step, or a load, that takes far longer than the silence that is allowed."""
    slow = (*SCRIPTED[:2], "import time; sleep = time.sleep; time.sleep = lambda s: sleep(s * 30); " + SCRIPTED[2])
    asked = tuple(Tokenizer.load(scripted_model).encode("slow"))

    async def main() -> None:
        hello = Hello(str(scripted_model), beat_s=0.02, silent_beats=10)  # 0.2 s; its steps take 0.6 s
        client = EngineClient(hello, policy=QUICK, via=Spawned(slow))
        client.start()
        await ready(client)
        await collect(client, Request("a", asked, SamplingParams(max_tokens=2)))
        assert client.restarts == 0
        await client.stop()

    asyncio.run(main())


def test_a_model_that_cannot_be_loaded_is_not_tried_again(scripted_model: Path, tmp_path: Path) -> None:
    async def main() -> None:
        client = EngineClient(Hello(str(tmp_path / "broken")), policy=QUICK, via=Spawned(SCRIPTED))
        client.start()
        async with asyncio.timeout(10):
            await client.settled.wait()
        assert client.state == "failed" and client.restarts == 0
        assert isinstance(client.failure, InputError) and "truncated" in str(client.failure)
        assert CheckpointError.exit_code == client.failure.exit_code
        await client.stop()

    asyncio.run(main())


def crashed(server: Running) -> int:
    return server.server.client.restarts


def test_a_poison_request_is_found_and_the_others_notice_a_pause(scripted_model: Path) -> None:
    with running(ServeConfig(model=str(scripted_model), drain_s=0.2)) as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=20)
        texts: list[str] = []

        def stream() -> None:
            parts = client.chat.completions.create(
                model="scripted", messages=[{"role": "user", "content": "slow"}], stream=True, max_tokens=80
            )
            text = ""
            for part in parts:
                text += part.choices[0].delta.content or ""
                begun.set()
            texts.append(text)

        begun = threading.Event()
        readers = [threading.Thread(target=stream) for _ in range(3)]
        for reader in readers:
            reader.start()
        assert begun.wait(10)
        with pytest.raises(openai.InternalServerError) as caught:
            client.chat.completions.create(model="scripted", messages=[{"role": "user", "content": "crash"}])
        assert (caught.value.status_code, caught.value.code) == (500, "poison_request")
        for reader in readers:
            reader.join(20)
        whole = client.chat.completions.create(
            model="scripted", messages=[{"role": "user", "content": "slow"}], max_tokens=80
        )
        assert texts == [whole.choices[0].message.content] * 3
        engine = server.server.client.replicas[0].client
        assert engine.ledger.poisoned == 1 and engine.restarts == 5
        assert sum(not crash.explained for crash in engine._crashes) == 0  # the budget is as good as new
        metrics = server.http.get("/metrics").text
        assert "fathom_engine_restarts_total 5" in metrics and "fathom_requests_poisoned_total 1" in metrics


def test_a_front_that_is_killed_takes_its_worker_along(scripted_model: Path) -> None:
    """The worker sees the end of the socket: here the front's side is simply dropped."""

    async def main() -> int:
        client = EngineClient(Hello(str(scripted_model)), via=Spawned(SCRIPTED))
        client.start()
        await ready(client)
        assert client.pid is not None and client._link is not None
        client._keeper.cancel()  # as when the process is gone: nobody says goodbye
        client._link.writer.transport.abort()
        return client.pid

    pid = asyncio.run(main())
    until = time.monotonic() + 5
    while alive(pid) and time.monotonic() < until:
        time.sleep(0.02)
    assert not alive(pid)


def test_who_looks_hears_when_there_is_nobody_to_show_anything(scripted_model: Path) -> None:
    async def run() -> None:
        client = EngineClient(Hello(str(scripted_model)), policy=PATIENT, via=Spawned(SCRIPTED))
        with pytest.raises(WorkerError, match="the engine is starting"):
            await client.look("experts")
        client.start()
        await ready(client)
        assert b"load" in await client.look("experts")
        assert client.pid is not None
        os.kill(client.pid, signal.SIGSTOP)  # it takes the question and dies over it
        looking = asyncio.create_task(client.look("timeline"))
        await asyncio.sleep(0.05)
        os.kill(client.pid, signal.SIGKILL)
        async with asyncio.timeout(10):
            with pytest.raises(WorkerError, match="ended before it could answer"):
                await looking
        await ready(client)
        await client.rebalance()
        await client.stop()

    asyncio.run(run())


def test_a_look_does_not_wait_for_ever(scripted_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fathom.serve.client.LOOK_S", 0.1)

    async def run() -> None:
        client = EngineClient(Hello(str(scripted_model)), policy=PATIENT, via=Spawned(SCRIPTED))
        client.start()
        await ready(client)
        assert client.pid is not None
        os.kill(client.pid, signal.SIGSTOP)
        with pytest.raises(WorkerError, match=r"shows nothing within 0.1 s"):
            await client.look("experts")
        os.kill(client.pid, signal.SIGCONT)
        monkeypatch.setattr("fathom.serve.client.LOOK_S", 10)
        assert b"load" in await client.look("experts")  # the late answer to the first is nobody's
        await client.stop()

    asyncio.run(run())


def test_requests_do_not_wait_for_ever_for_a_worker_that_does_not_come_back(scripted_model: Path) -> None:
    """It may be starting all the time: where ranks of another host are missing, a leader waits for them."""

    async def main() -> None:
        policy = RestartPolicy(restarts=50, first_pause_s=0.01, outage_s=1.0, goodbye_s=0.1)
        client = EngineClient(Hello(str(scripted_model)), policy=policy, via=Spawned(SCRIPTED))
        client.start()
        await ready(client)
        os.kill(client.pid, signal.SIGKILL)
        await asyncio.sleep(0.05)
        await ready(client)  # it came back: the outage is over
        await asyncio.sleep(1.2)
        assert client.state == "ready" and client.restarts == 1
        inbox = Inbox()
        slow = tuple(Tokenizer.load(scripted_model).encode("slow"))
        client.add([Request("a", slow, SamplingParams(max_tokens=400, temperature=0.0))], inbox)
        client.via = Spawned((sys.executable, "-c", "import time; time.sleep(60)"))
        began_s = time.monotonic()
        os.kill(client.pid, signal.SIGKILL)
        async with asyncio.timeout(10):
            while not isinstance(event := (await inbox.queue.get()).event, FathomError):
                pass
        assert isinstance(event, WorkerError) and 0.9 < time.monotonic() - began_s < 3.0
        assert client.state == "failed" and "not back within 1 s" in str(client.failure)
        with pytest.raises(WorkerError, match="not back within 1 s"):
            client.add([Request("b", (1,))], inbox)
        await client.stop()

    asyncio.run(main())
