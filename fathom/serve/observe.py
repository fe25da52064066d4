"""Routes for those who look inside: the load of experts, what each rank did of late, and a page that shows the first.

Looking waits for the end of a step and keeps none waiting. An engine that cannot answer says why in its place; the
others are shown.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

import msgspec
from fastapi import APIRouter
from fastapi import Request as HttpRequest
from starlette.responses import Response

from fathom.errors import FathomError, InputError
from fathom.serve.client import EngineClient
from fathom.serve.errors import ApiError
from fathom.serve.front import engines
from fathom.serve.operate import page_files
from fathom.serve.schema import RebalanceRequest

RANKS_APART = 1000  # between the process numbers of two engines in a trace

T = TypeVar("T")

router = APIRouter()


@router.get("/experts.html", include_in_schema=False)
async def page(http: HttpRequest) -> Response:
    """The page about experts."""
    response = await page_files().get_response("experts.html", http.scope)
    response.headers["cache-control"] = "no-cache"
    return response


@router.get("/experts", response_model=None)
async def experts(http: HttpRequest) -> Response:
    """Per engine: rows per layer and expert, per layer and rank, imbalance and its trend, placements, moves."""
    asked = _engines(http)
    shown = await _all([client.look("experts") for client in asked.values()])
    told = {
        name: {"error": str(found)} if isinstance(found, FathomError) else msgspec.Raw(found)
        for name, found in zip(asked, shown, strict=True)
    }
    return _json({"engines": told})


@router.post("/experts/rebalance", response_model=None)
async def rebalance(body: RebalanceRequest, http: HttpRequest) -> Response:
    """Move experts to where their load asks for, between the next steps; on all engines, or one."""
    asked = _engines(http, body.engine)
    told = await _all([client.rebalance() for client in asked.values()])
    errors = [found for found in told if isinstance(found, FathomError)]
    if len(errors) == len(asked):
        error = errors[0]
        raise ApiError(400 if isinstance(error, InputError) else 503, str(error), code="no_rebalance")
    return _json({"asked": len(asked) - len(errors)}, 202)


@router.get("/trace", response_model=None)
async def trace(http: HttpRequest, engine: str | None = None) -> Response:
    """What each rank did of late, of all engines or one, for chrome://tracing or https://ui.perfetto.dev."""
    asked = _engines(http, engine)
    looks = [
        client.look("timeline", name=name, first_pid=RANKS_APART * number)
        for number, (name, client) in enumerate(asked.items())
    ]
    shown = await _all(looks)
    parts = [found[1:-1] for found in shown if isinstance(found, bytes) and len(found) > 2]
    if not parts:
        raise ApiError(503, next((str(e) for e in shown if isinstance(e, FathomError)), "nothing yet"), code="no_trace")
    body = b'{"displayTimeUnit":"ms","traceEvents":[' + b",".join(parts) + b"]}"
    return Response(body, media_type="application/json", headers={"content-disposition": 'filename="trace.json"'})


def _engines(http: HttpRequest, only: str | None = None) -> dict[str, EngineClient]:
    """Raises: ApiError: 404, there is no engine of that name."""
    found = engines(http.app.state.front)
    if only is None:
        return found
    if only not in found:
        known = ", ".join(found)
        raise ApiError(404, f"there is no engine {only!r}; there are {known}.", param="engine", code="no_engine")
    return {only: found[only]}


async def _all(asked: Sequence[Coroutine[Any, Any, T]]) -> list[T | FathomError]:
    """What each gives, or why it does not."""

    async def one(asking: Coroutine[Any, Any, T]) -> T | FathomError:
        try:
            return await asking
        except FathomError as error:
            return error

    return list(await asyncio.gather(*map(one, asked)))


def _json(body: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(body), status, media_type="application/json")
