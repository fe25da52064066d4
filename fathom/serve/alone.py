"""Pages without an engine: what `fathom plan web` listens with."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import uvicorn

from fathom.serve import app
from fathom.serve.guard import Access
from fathom.serve.launch import BACKLOG, Quiet, address, bind
from fathom.serve.pages import Page


class Alone:
    """A server of pages, from `bind` to the end of `serve`. Raises: ConfigError: the address cannot be had."""

    def __init__(self, pages: Sequence[Page], host: str, port: int, access: Access) -> None:
        self._socket = bind(host, port)
        self.port: int = self._socket.getsockname()[1]
        self.url = address(host, self.port)
        self._uvicorn = Quiet(
            uvicorn.Config(
                app.build_alone(pages, access), log_level="warning", access_log=False, server_header=False,
                proxy_headers=False, timeout_graceful_shutdown=2, backlog=BACKLOG,
            )
        )  # fmt: skip

    async def serve(self, on_ready: Callable[[], None] = lambda: None) -> None:
        """Serve until a signal, or `stop`."""
        serving = asyncio.create_task(self._uvicorn.serve(sockets=[self._socket]))
        while not self._uvicorn.started and not serving.done():
            await asyncio.sleep(0.01)
        if self._uvicorn.started:
            on_ready()
        try:
            await serving
        finally:
            self._socket.close()

    def stop(self) -> None:
        """Begin to leave, as a signal does."""
        self._uvicorn.should_exit = True
