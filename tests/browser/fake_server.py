"""A server that answers as fathom does but from a script, so that the page can be tried without a model.

Each question picks a script by a word in it; a script is a list of steps: a chunk to send, a pause, or an accident.
Everything the page asked for and every client that left early is on record.
"""

from __future__ import annotations

import json
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

WEB = Path(__file__).parents[2] / "fathom" / "serve" / "web"

POLICY = (
    "default-src 'self'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
TYPES = {".html": "text/html", ".css": "text/css", ".svg": "image/svg+xml", ".json": "application/json"}

SUGGESTIONS = [
    {"family": "arithmetic", "prompt": "What is 384 + 2957?"},
    {"family": "chain", "prompt": "Start with 7. Add 5, multiply by 3, subtract 4. Work modulo 10."},
    {"family": "sorting", "prompt": "Sort these numbers: 42, 7, 19, 88, 3."},
    {"family": "countdown", "prompt": "Use 3, 7 and 25 to make 46."},
]

SUM_STEPS = """384 + 2957, digit by digit from the right.
4 + 7 = 11: write 1, carry 1.
8 + 5 + 1 = 14: write 4, carry 1.
3 + 9 + 1 = 13: write 3, carry 1.
0 + 2 + 1 = 3: write 3.
Read from the left: 3341."""

HOSTILE = """<img src=x onerror="alert('image')"> <script>window.ran = 'script'</script>
</think><script>window.ran = 2</script>
[plain](javascript:alert('link')) [entity](java&#x73;cript:alert(1)) [data](data:text/html,<script>alert(2)</script>)
<svg onload="alert('svg')"><style>* { display: none }</style><p style="position:fixed" onclick="alert(3)">styled</p>
<iframe src="https://example.invalid/"></iframe> ![tracker](https://example.invalid/pixel.png)
<math><mi xlink:href="javascript:alert(4)">x</mi></math> <form action="https://example.invalid/"><input name=q></form>

[good](https://example.invalid/page) **still here**
"""

RICH = """## Sorted

The numbers in order are **3, 7, 19, 42, 88**.

| step | list |
| --- | --- |
| start | `42 7 19 88 3` |
| end | `3 7 19 42 88` |

```python
sorted([42, 7, 19, 88, 3])
```
"""


@dataclass(frozen=True)
class Pause:
    """Nothing comes for so long [s]."""

    seconds: float


@dataclass(frozen=True)
class Drop:
    """The connection breaks."""


@dataclass(frozen=True)
class Refuse:
    """An error in place of a stream."""

    status: int
    message: str
    code: str
    retry_after_ms: int | None = None


Step = dict[str, Any] | Pause | Drop | Refuse


def words(text: str) -> list[str]:
    """Text in token-sized pieces that add up to it."""
    return [piece for line in text.splitlines(keepends=True) for piece in line.replace(" ", "\0 ").split("\0")]


def reply(reasoning: str, content: str, *, pace_s: float = 0.0, finish: str = "stop") -> Iterator[Step]:
    """A whole reply in the shape and order the server uses: progress, thinking, answer, usage."""
    prompt, thought, answer = 37, words(reasoning), words(content)
    place = {"prompt_tokens": prompt, "cached_tokens": 32, "queued_s": 0.004, "context": 2048}
    counts = {"reasoning_tokens": 0, "answer_tokens": 0}

    def progress(phase: str, done: int = prompt) -> dict[str, Any]:
        used = prompt + sum(counts.values())
        return {"phase": phase, "prompt_done": done, "context_used": used, **place, **counts}

    yield {"delta": {"role": "assistant", "content": ""}, "fathom": progress("queued", 0)}
    yield Pause(pace_s)
    yield {"fathom": progress("reading")}
    for piece in thought:
        yield Pause(pace_s)
        counts["reasoning_tokens"] += 1
        yield {"delta": {"reasoning_content": piece, "reasoning": piece}, "fathom": progress("thinking")}
    for piece in answer:
        yield Pause(pace_s)
        counts["answer_tokens"] += 1
        yield {"delta": {"content": piece}, "fathom": progress("answering")}
    yield {"delta": {}, "finish": finish, "fathom": progress("done")}
    total = len(thought) + len(answer)
    yield {
        "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": total,
            "total_tokens": prompt + total,
            "prompt_tokens_details": {"cached_tokens": 32},
            "completion_tokens_details": {"reasoning_tokens": len(thought)},
        },
        "timings": {"predicted_n": total, "predicted_per_second": 61.3, "time_to_first_token_ms": 84.2, "cache_n": 32},
    }


def script(question: str, thinking: bool) -> Iterator[Step]:
    """What happens when this is asked."""
    steps = SUM_STEPS if thinking else ""
    if "slow" in question:
        yield from reply(SUM_STEPS * 20, "3341", pace_s=0.05)
    elif "ramble" in question:
        yield from reply("", "and on and on " * 400, pace_s=0.02)
    elif "hostile" in question:
        yield from reply(HOSTILE, HOSTILE)
    elif "cut off" in question:
        yield from reply(steps, "3341 is", finish="length")
    elif "break" in question:
        yield from list(reply(steps, "Half of the answer, and then"))[:-2]
        message = "the engine is being restarted; send the request again"
        yield {"error": {"message": message, "type": "server_error", "code": "engine_restarting"}}
    elif "vanish" in question:
        yield from list(reply(steps, "Half of the answer, and then"))[:-2]
        yield Drop()
    elif "too long" in question:
        message = "This model's maximum context length is 2048 tokens. However, your prompt has 3000 tokens."
        yield Refuse(400, message, "context_length_exceeded")
    elif "Sort" in question:
        yield from reply("Smallest first: 3, then 7, 19, 42, 88.", RICH)
    else:
        yield from reply(steps, "384 + 2957 = **3341**", pace_s=0.02)


@dataclass
class Record:
    """What happened at the server."""

    paths: list[str] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    gone: threading.Event = field(default_factory=threading.Event)


class FakeServer(ThreadingHTTPServer):
    """`url` is where it listens. `loading`: /ready and every question answer 503 while it is set.

    `engines`: what /experts shows. price_per_hour: what /ready says.
    """

    daemon_threads = True

    def __init__(self, port: int = 0, script: Callable[[str, bool], Iterator[Step]] = script) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.script = script
        self.record = Record()
        self.loading = False
        self.engines: dict[str, Any] = {}
        self.price_per_hour: float | None = None
        self.url = f"http://127.0.0.1:{self.server_port}/"


class Handler(BaseHTTPRequestHandler):
    server: FakeServer

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.server.record.paths.append(path)
        model = {"id": "fathom-nano", "parameters": 11_234_560, "context_length": 2048, "reasoning": True}
        if path == "/ready" and self.server.loading:
            self._error(Refuse(503, "the model is still being loaded", "not_ready", 1000))
        elif path in ("/ready", "/suggestions", "/v1/models"):
            ready = {"status": "ready", "price_per_hour": self.server.price_per_hour}
            replies = {"/ready": ready, "/suggestions": SUGGESTIONS, "/v1/models": {"data": [model]}}
            self._send(200, json.dumps(replies[path]).encode(), "application/json")
        elif path == "/experts":
            self._send(200, json.dumps({"engines": self.server.engines}).encode(), "application/json")
        else:
            pages = {"/": "index.html", "/experts.html": "experts.html"}
            self._file(WEB / pages.get(path, path.removeprefix("/static/")))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.record.bodies.append(body)
        if self.server.loading:
            self._error(Refuse(503, "the model is still being loaded", "not_ready", 1000))
            return
        if self.path == "/experts/rebalance":
            self._send(202, b'{"asked":1}', "application/json")
            return
        try:
            self._stream(body)
        except (BrokenPipeError, ConnectionResetError):
            self.server.record.gone.set()

    def _stream(self, body: dict[str, Any]) -> None:
        self.close_connection = True
        question, thinking = body["messages"][-1]["content"], body["thinking"]["type"] == "enabled"
        begun = False
        for step in self.server.script(question, thinking):
            if isinstance(step, Refuse):
                self._error(step)
                return
            if not begun:
                begun = True
                self._head(200, "text/event-stream")
                self.wfile.write(b": keep-alive\n\n")
            if isinstance(step, Pause):
                self._pause(step.seconds)
            elif isinstance(step, Drop):
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            else:
                self._event(step)
                if "error" in step:
                    return
        self.wfile.write(b"data: [DONE]\n\n")

    def _event(self, step: dict[str, Any]) -> None:
        chunk: dict[str, Any] = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "choices": [], "usage": None}
        if "delta" in step:
            chunk["choices"] = [{"index": 0, "delta": step["delta"], "finish_reason": step.get("finish")}]
        chunk |= {name: value for name, value in step.items() if name not in ("delta", "finish")}
        data = f"data: {json.dumps(step if 'error' in step else chunk)}\n\n".encode()
        for half in (data[: len(data) // 2], data[len(data) // 2 :]):
            self.wfile.write(half)

    def _pause(self, seconds: float) -> None:
        """Wait, but notice a client that leaves."""
        readable, _, _ = select.select([self.connection], [], [], seconds)
        if readable and self.connection.recv(1, socket.MSG_PEEK) == b"":
            raise BrokenPipeError
        if readable:
            time.sleep(seconds)

    def _file(self, path: Path) -> None:
        if not path.resolve().is_relative_to(WEB) or not path.is_file():
            self._error(Refuse(404, f"Unknown request URL: {self.path}", "unknown_url"))
            return
        self._send(200, path.read_bytes(), TYPES.get(path.suffix, "text/javascript") + "; charset=utf-8")

    def _error(self, refusal: Refuse) -> None:
        error = {"message": refusal.message, "type": "server_error", "code": refusal.code}
        extra = {} if refusal.retry_after_ms is None else {"retry-after-ms": str(refusal.retry_after_ms)}
        self._send(refusal.status, json.dumps({"error": error}).encode(), "application/json", extra)

    def _send(self, status: int, body: bytes, kind: str, extra: dict[str, str] | None = None) -> None:
        self._head(status, kind, {"content-length": str(len(body)), **(extra or {})})
        self.wfile.write(body)

    def _head(self, status: int, kind: str, extra: dict[str, str] | None = None) -> None:
        self.send_response(status)
        headers = {"content-type": kind, "content-security-policy": POLICY, "x-content-type-options": "nosniff"}
        for name, value in (headers | (extra or {})).items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Tests read the record, not a log."""


if __name__ == "__main__":
    server = FakeServer(8765)
    print(server.url, flush=True)
    server.serve_forever()
