"""A worker on another machine: reached, lost, reached again; its requests go on, and only those who may talk to it."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fathom.batching.request import Output, Request, SamplingParams
from fathom.errors import WorkerError
from fathom.serve.client import EngineClient, RestartPolicy
from fathom.serve.ledger import Inbox
from fathom.serve.messages import Hello
from fathom.serve.transport import Remote
from fathom.tokenizer import Tokenizer
from tests.serve.conftest import SCRIPTED

SECRET = "correct horse battery staple"
QUICK = RestartPolicy(restarts=100, first_pause_s=0.01, longest_pause_s=0.05)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


@contextmanager
def listening(port: int, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    file = folder / "secret"
    file.write_text(SECRET)
    file.chmod(0o600)
    process = subprocess.Popen([*SCRIPTED, "--listen", f"127.0.0.1:{port}", "--secret", str(file)])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


class Link:
    """A line between two hosts that a test can cut: a proxy whose connections it closes, or leaves without a word."""

    def __init__(self, port: int) -> None:
        self.target, self.port, self.muted = port, 0, False
        self.writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Link:
        self.server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.server.close()
        self.cut()

    def cut(self) -> None:
        for writer in self.writers:
            writer.transport.abort()
        self.writers = []

    def mend(self) -> None:
        self.muted = False
        self.cut()  # what was swallowed is not sent again, as TCP would: begin anew

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.close()
            return
        self.writers += [writer, far_writer]
        await asyncio.gather(self._copy(reader, far_writer), self._copy(far_reader, writer), return_exceptions=True)

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if not self.muted:
                writer.write(data)
        writer.close()


async def reply(client: EngineClient, request: Request, after: int, then: object) -> list[int]:
    """Its tokens; `then` is called once, after so many of them."""
    inbox, tokens = Inbox(), []
    client.add([request], inbox)
    async with asyncio.timeout(60):
        while True:
            event = (await inbox.queue.get()).event
            assert isinstance(event, Output), event
            tokens += event.token_ids
            if event.finish_reason:
                return tokens
            if len(tokens) >= after and callable(then):
                then()
                then = None


@pytest.mark.parametrize("how", ["cut", "mute"])
def test_a_worker_elsewhere_is_reached_again_and_its_requests_go_on(
    scripted_model: Path, tmp_path: Path, how: str
) -> None:
    tokenizer = Tokenizer.load(scripted_model)
    request = Request("a", tuple(tokenizer.encode("slow")), SamplingParams(max_tokens=40, temperature=0.7, seed=3))

    async def main(port: int, process: subprocess.Popen[bytes]) -> None:
        async with Link(port) as link:
            hello = Hello(str(scripted_model), beat_s=0.05, silent_beats=6)
            client = EngineClient(hello, policy=QUICK, via=Remote("127.0.0.1", link.port, SECRET.encode()))
            client.start()  # the worker may still be starting: it is waited for
            async with asyncio.timeout(10):
                await client.settled.wait()
            undisturbed = await reply(client, request, 99, None)

            def disturb() -> None:
                if how == "cut":
                    link.cut()
                else:
                    link.muted = True
                    asyncio.get_running_loop().call_later(0.8, link.mend)

            assert await reply(client, request, 8, disturb) == undisturbed
            assert client.restarts >= 1 and client.pid is None and client.ledger.poisoned == 0
            await client.stop()
            assert process.poll() is None  # it stays for the next front

    port = free_port()
    with listening(port, tmp_path) as process:
        asyncio.run(main(port, process))


def test_a_wrong_secret_reaches_nobody(scripted_model: Path, tmp_path: Path) -> None:
    async def main(port: int) -> None:
        policy = RestartPolicy(restarts=3, first_pause_s=0.3)
        client = EngineClient(Hello(str(scripted_model)), policy=policy, via=Remote("127.0.0.1", port, b"wrong" * 5))
        client.start()
        async with asyncio.timeout(10):
            await client.settled.wait()
        assert client.state == "failed" and client.facts is None
        assert "same secret" in str(client.failure)
        await client.stop()

    port = free_port()
    with listening(port, tmp_path):
        asyncio.run(main(port))


def test_nobody_at_the_address_is_said() -> None:
    async def main() -> None:
        with pytest.raises(WorkerError, match="cannot be reached"):
            await Remote("127.0.0.1", free_port(), b"secret").open()

    asyncio.run(main())
