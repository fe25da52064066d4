"""Server-sent events that end when they should: with the reply, with an error event, or with the client."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Coroutine
from typing import Any, Protocol, TypeVar

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from fathom.serve.errors import ApiError, error_body

log = logging.getLogger(__name__)

KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"

T = TypeVar("T")


def event(data: Any) -> bytes:
    """One event; JSON escapes line ends, so it is always one line."""
    return b"data: " + msgspec.json.encode(data) + b"\n\n"


def error_event(error: ApiError) -> bytes:
    """An error after the first byte: the status is long sent, so the envelope travels as an event, and no [DONE]."""
    return b"data: " + error_body(error.status_code, error.message, error.param, error.code) + b"\n\n"


class Closing(Protocol):
    """What has something running until it is closed."""

    def close(self) -> None: ...


class EventStream(Response):
    """A streamed reply that closes its exchange whichever way it ends."""

    media_type = "text/event-stream"

    def __init__(self, exchange: Closing, events: AsyncIterator[bytes]) -> None:
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._exchange, self._events = exchange, events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await unless_disconnected(self._pump(send), receive)
        finally:
            self._exchange.close()

    async def _pump(self, send: Send) -> None:
        try:
            async for chunk in self._events:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        except ApiError as error:
            await send({"type": "http.response.body", "body": error_event(error), "more_body": True})
        except Exception:
            number = uuid.uuid4().hex[:12]
            log.exception("internal error %s", number)
            internal = ApiError(500, f"internal error {number}; see the server's log", code="internal_error")
            await send({"type": "http.response.body", "body": error_event(internal), "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def unless_disconnected(work: Coroutine[Any, Any, T], receive: Receive) -> T | None:
    """The result of `work`, or None once the client is gone: the work is then cancelled."""

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)
