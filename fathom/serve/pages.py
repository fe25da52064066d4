"""Pages whose facts another room of the package works out: GET /NAME is the page, GET /v1/NAME/WHAT one answer.

The server knows no such room. Whoever starts it hands over a Page with a Source; a question that takes long does not
keep replies waiting, one that nobody waits for any more is dropped, and there is a limit to how many wait at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from starlette.responses import Response

from fathom.serve.errors import ApiError
from fathom.serve.operate import page_files

LOOK_S = 0.2  # how often it is looked whether the client is still there


class Source(Protocol):
    """What answers a page's questions.

    `ask` gives JSON for the parameters of a query string. Raises: InputError: a parameter cannot be used; LookupError:
    there is no such question. When it is cancelled it stops working.
    """

    async def ask(self, what: str, query: Mapping[str, str]) -> bytes: ...

    async def close(self) -> None: ...


@dataclass(frozen=True)
class Page:
    """A page of web/NAME.html. limit_s: an answer may take. most: questions that may wait at a time."""

    name: str
    source: Source
    limit_s: float = 120.0
    most: int = 32


def router_of(page: Page) -> APIRouter:
    """The routes of a page."""
    router, waiting = APIRouter(), [0]

    @router.get(f"/{page.name}", include_in_schema=False)
    async def show(http: HttpRequest) -> Response:
        response = await page_files().get_response(f"{page.name}.html", http.scope)
        response.headers["cache-control"] = "no-cache"
        return response

    @router.get(f"/v1/{page.name}/{{what}}", include_in_schema=False)
    async def answer(what: str, http: HttpRequest) -> Response:
        if waiting[0] >= page.most:
            raise ApiError(429, f"{waiting[0]} questions wait already; try again later.", retry_after_ms=2000)
        waiting[0] += 1
        try:
            return Response(await _answer(page, what, http), media_type="application/json")
        finally:
            waiting[0] -= 1

    return router


async def _answer(page: Page, what: str, http: HttpRequest) -> bytes:
    """What the source says, as long as somebody wants to know."""
    asking = asyncio.create_task(page.source.ask(what, dict(http.query_params)))
    leaving = asyncio.create_task(_left(http))
    try:
        done, _ = await asyncio.wait((asking, leaving), timeout=page.limit_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (asking, leaving):
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await asking  # it has ended what it was doing
    if asking in done:
        try:
            return asking.result()
        except LookupError as error:
            raise ApiError(404, str(error.args[0]), code="unknown_url") from error
    if leaving in done:
        return b""
    raise ApiError(
        503, f"this takes more than {page.limit_s:g} s and was given up; ask for less.", code="took_too_long"
    )


async def _left(http: HttpRequest) -> None:
    while not await http.is_disconnected():
        await asyncio.sleep(LOOK_S)
