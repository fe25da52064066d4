"""A worker that dies is started again; what it was doing ends with an error a client can act on."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from pathlib import Path

import openai
import pytest

from fathom.batching.request import Output, Request, SamplingParams
from fathom.errors import CheckpointError, FathomError, InputError, WorkerError
from fathom.serve.client import EngineClient, Inbox, RestartPolicy
from fathom.serve.launch import ServeConfig
from fathom.serve.messages import Hello
from fathom.tokenizer import Tokenizer
from tests.serve.conftest import SCRIPTED, Running, running

QUICK = RestartPolicy(restarts=2, first_pause_s=0.01)


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
        client = EngineClient(Hello(str(scripted_model)), policy=QUICK, command=SCRIPTED)
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


def test_a_killed_worker_is_replaced_and_a_bad_day_ends(scripted_model: Path) -> None:
    endless = tuple(Tokenizer.load(scripted_model).encode("slow"))  # a short reply could be done before the kill

    async def main() -> None:
        client = EngineClient(Hello(str(scripted_model)), policy=QUICK, command=SCRIPTED)
        client.start()
        await ready(client)
        for _ in range(QUICK.restarts):
            inbox = Inbox()
            client.add([Request("r", endless)], inbox)
            pid = client.pid
            os.kill(pid, signal.SIGKILL)
            while not isinstance(event := (await inbox.queue.get()).event, WorkerError):
                assert isinstance(event, Output) and event.finish_reason is None
            await ready(client)
            assert client.pid != pid
        os.kill(client.pid, signal.SIGKILL)
        async with asyncio.timeout(10):
            while client.state != "failed":
                await asyncio.sleep(0.01)
        assert client.restarts == QUICK.restarts
        with pytest.raises(WorkerError, match="exit code -9"):
            client.add([Request("late", (1,))], Inbox())
        await client.stop()

    asyncio.run(main())


def test_a_model_that_cannot_be_loaded_is_not_tried_again(scripted_model: Path, tmp_path: Path) -> None:
    async def main() -> None:
        client = EngineClient(Hello(str(tmp_path / "broken")), policy=QUICK, command=SCRIPTED)
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


def test_clients_learn_of_a_crash_and_can_go_on(scripted_model: Path) -> None:
    with running(ServeConfig(model=str(scripted_model), drain_s=0.2)) as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=20)
        bystander: list[BaseException] = []

        def stream() -> None:
            try:
                for _ in client.chat.completions.create(
                    model="scripted", messages=[{"role": "user", "content": "slow"}], stream=True
                ):
                    begun.set()
            except openai.APIError as error:
                bystander.append(error)

        begun = threading.Event()
        reader = threading.Thread(target=stream)
        reader.start()
        assert begun.wait(10)
        with pytest.raises(openai.InternalServerError) as caught:
            client.chat.completions.create(model="scripted", messages=[{"role": "user", "content": "crash"}])
        assert (caught.value.status_code, caught.value.code) == (503, "engine_restarting")
        assert int(caught.value.response.headers["retry-after-ms"]) > 0
        reader.join(10)
        assert isinstance(bystander[0], openai.APIError) and bystander[0].code == "engine_restarting"
        retrying = client.with_options(max_retries=5)
        reply = retrying.chat.completions.create(model="scripted", messages=[{"role": "user", "content": "hi"}])
        assert reply.choices[0].message.content == "You said: hi" and crashed(server) == 1
        assert "fathom_engine_restarts_total 1" in server.http.get("/metrics").text


def test_a_front_that_is_killed_takes_its_worker_along(scripted_model: Path) -> None:
    """The worker sees the end of the socket: here the front's side is simply dropped."""

    async def main() -> int:
        client = EngineClient(Hello(str(scripted_model)), command=SCRIPTED)
        client.start()
        await ready(client)
        assert client.pid is not None and client._writer is not None
        client._keeper.cancel()  # as when the process is gone: nobody says goodbye
        client._writer.transport.abort()
        return client.pid

    pid = asyncio.run(main())
    until = time.monotonic() + 5
    while alive(pid) and time.monotonic() < until:
        time.sleep(0.02)
    assert not alive(pid)
