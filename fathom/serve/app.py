"""The front as an ASGI application: the guard outside, the routes inside, every error in OpenAI's envelope."""

from __future__ import annotations

import difflib
import logging
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi import Request as HttpRequest
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from fathom import __version__
from fathom.errors import InputError, RequestError
from fathom.serve import observe, operate, routes, schema
from fathom.serve.errors import ApiError, error_body
from fathom.serve.front import Front
from fathom.serve.guard import Access, Guard
from fathom.serve.metrics import Metrics
from fathom.serve.pages import Page, router_of

log = logging.getLogger(__name__)


def build(front: Front, access: Access, pages: Sequence[Page] = ()) -> ASGIApp:
    """The whole application; its lifespan starts and stops the engine worker. pages: of other rooms."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        front.client.start()
        yield
        await front.client.stop()
        await _close(pages)

    api = FastAPI(
        title="fathom",
        version=__version__,
        docs_url=None,  # its page loads scripts from elsewhere; /openapi.json has the same facts
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    api.state.front = front
    api.include_router(operate.router)
    api.include_router(observe.router)
    _finish(api, pages)
    for prefix in routes.PREFIXES:
        api.include_router(routes.router, prefix=prefix, include_in_schema=prefix == "/v1")
    return Guard(api, access, front.metrics)


def build_alone(pages: Sequence[Page], access: Access) -> ASGIApp:
    """Pages without an engine behind them; / leads to the first."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await _close(pages)

    api = FastAPI(title="fathom", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    api.add_api_route("/", lambda: RedirectResponse(pages[0].name), response_class=RedirectResponse)
    _finish(api, pages)
    return Guard(api, access, Metrics())


def _finish(api: FastAPI, pages: Sequence[Page]) -> None:
    """What every application has: pages of other rooms, files, and errors in one envelope."""
    for page in pages:
        api.include_router(router_of(page))
    api.mount("/static", operate.page_files(), name="static")
    api.add_exception_handler(RequestValidationError, _invalid)
    api.add_exception_handler(HTTPException, _refused)
    api.add_exception_handler(InputError, _refused_input)
    api.add_exception_handler(Exception, _internal)


async def _close(pages: Sequence[Page]) -> None:
    for page in pages:
        await page.source.close()


_PATHS = [
    *(f"/v1{route.path}" for route in routes.router.routes if isinstance(route, Route)),
    *(route.path for router in (operate.router, observe.router) for route in router.routes if isinstance(route, Route)),
]


def _reply(error: ApiError) -> Response:
    body = error_body(error.status_code, error.message, error.param, error.code)
    return Response(body, error.status_code, error.response_headers(), "application/json")


async def _invalid(http: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError), "registered for this type only"
    message, param, code = schema.explain(error.errors()[0], schema.body_of(http.url.path))
    return _reply(ApiError(400, message, param=param, code=code))


async def _refused(http: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, HTTPException), "registered for this type only"
    if isinstance(error, ApiError):
        return _reply(error)
    path, message = http.scope["path"], str(error.detail)
    if error.status_code == 404:
        near = difflib.get_close_matches(path.rstrip("/").replace("/v1/v1", "/v1"), _PATHS, n=1, cutoff=0.75)
        message = f"Unknown request URL: {http.method} {path}." + (f" Did you mean {near[0]}?" if near else "")
        return _reply(ApiError(404, message, code="unknown_url"))
    if error.status_code == 405:
        message = f"Not allowed to {http.method} on {path}."
        return _reply(ApiError(405, message, code="method_not_allowed", headers=error.headers))
    return _reply(ApiError(error.status_code, message, headers=error.headers))


async def _refused_input(_: HttpRequest, error: Exception) -> Response:
    if isinstance(error, RequestError):
        return _reply(ApiError(400, str(error), param=error.param, code=error.code))
    return _reply(ApiError(400, str(error)))


async def _internal(_: HttpRequest, error: Exception) -> Response:
    number = uuid.uuid4().hex[:12]
    log.error("internal error %s: %r", number, error, exc_info=error)
    return _reply(ApiError(500, f"internal error {number}; see the server's log", code="internal_error"))
