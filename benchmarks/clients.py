"""Many HTTP clients at once against a server of completions, ours or llama.cpp's: generated tokens per second."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass

START_S = 300  # a large model is read from disk and packed first


@dataclass(frozen=True)
class Load:
    """Every client sends one prompt of random token ids at the same moment, and none is like another."""

    clients: int
    prompt_tokens: int
    max_tokens: int


def serving(command: Sequence[str], load: Load, vocabulary: int) -> float:
    """Start a server ("{port}" in the command is filled in), put the load on it, stop it: generated tokens per second.

    A first, smaller load warms it up. The prompts are new each time, so that no cache of prefixes helps.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen([part.format(port=port) for part in command], stdout=log, stderr=log)
        try:
            _wait_until_ready(port, server)
            asyncio.run(_together(port, Load(load.clients, 8, 4), vocabulary))
            began = time.perf_counter()
            tokens = asyncio.run(_together(port, load, vocabulary))
            return tokens / (time.perf_counter() - began)
        except (OSError, ValueError, LookupError) as error:
            log.seek(0)
            sys.exit(f"{command[0]} failed: {error!r}\n{log.read().decode(errors='replace')[-3000:]}")
        finally:
            server.terminate()
            server.wait(60)


async def _together(port: int, load: Load, vocabulary: int) -> int:
    bodies = [
        {
            "prompt": [random.randrange(20, vocabulary) for _ in range(load.prompt_tokens)],
            "max_tokens": load.max_tokens, "temperature": 0, "ignore_eos": True,
        }
        for _ in range(load.clients)
    ]  # fmt: skip
    replies = await asyncio.gather(*(_post(port, body) for body in bodies))
    tokens = [reply["usage"]["completion_tokens"] for reply in replies]
    if tokens != [load.max_tokens] * load.clients:
        raise ValueError(f"the server generated {tokens} tokens, not {load.max_tokens} for each client")
    return sum(tokens)


async def _post(port: int, body: dict[str, object]) -> dict[str, dict[str, int]]:
    """One completion; plain HTTP by hand, since a client library would take processor time from the server."""
    content = json.dumps(body).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Connection: close\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content)
    answer = await reader.read()
    writer.close()
    status, _, rest = answer.partition(b"\r\n")
    if b" 200 " not in status:
        raise ValueError(f"{status!r} {rest[-500:]!r}")
    text = rest.partition(b"\r\n\r\n")[2]
    return json.loads(text[text.index(b"{") : text.rindex(b"}") + 1])  # chunked or not


def _wait_until_ready(port: int, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise ValueError(f"it ended with code {server.returncode}")
        try:
            asyncio.run(_post(port, {"prompt": [20], "max_tokens": 1, "temperature": 0, "ignore_eos": True}))
            return
        except (OSError, ValueError):
            time.sleep(0.2)
    raise ValueError(f"it was not ready after {START_S} s")
