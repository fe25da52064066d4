"""What every request must pass before any route sees it: one place, default deny.

    Host          must be a name of this server, else a web page could reach it through DNS it controls
    Origin        if present, must be this server's own, for every method: no page of another site may use it
    key           required on every path but the public ones, once keys are set; compared in constant time
    body          JSON, at most so many bytes, within so many seconds; read here, so no route can forget

It looks at the raw ASGI scope, never at a URL put together from headers.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import re
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fathom.errors import ConfigError
from fathom.serve.errors import ApiError, error_body
from fathom.serve.metrics import Metrics

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
PUBLIC_PATHS = frozenset({"/", "/experts.html", "/plan", "/health", "/ready", "/favicon.ico"})
PUBLIC_PREFIX = "/static/"
MAX_HEADERS = 100
REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")

SECURITY_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "content-security-policy": (
        "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
        "connect-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
}


@dataclass(frozen=True)
class Access:
    """Who may talk to the server. Fields: hosts: names allowed in Host, None for any. key_digests: SHA-256 of keys."""

    hosts: frozenset[str] | None
    key_digests: tuple[bytes, ...] = ()
    max_body_bytes: int = 8 * 1024 * 1024
    body_timeout_s: float = 30.0

    @classmethod
    def for_host(cls, host: str, keys: Iterable[str] = (), extra_hosts: Iterable[str] = ()) -> Access:
        """The rules for a server bound to `host`.

        With keys and an address that others can reach, any Host name will do: a page that got here by DNS tricks has
        no key. Raises: ConfigError: such an address without a key.
        """
        digests = tuple(hashlib.sha256(key.encode()).digest() for key in keys)
        names = LOOPBACK_NAMES | {host.lower()} | {name.lower() for name in extra_hosts}
        if is_loopback(host):
            return cls(names, digests)
        if not digests:
            raise ConfigError(
                f"host is {host}, which other machines can reach, but there is no API key. "
                "Give one with --api-key-file FILE (or --api-key KEY), or serve this machine alone: --host 127.0.0.1."
            )
        return cls(names if extra_hosts else None, digests)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Guard:
    """ASGI middleware that applies an Access, and stamps every answer with a request id and the security headers."""

    def __init__(self, app: ASGIApp, access: Access, metrics: Metrics) -> None:
        self._app, self._access, self._metrics = app, access, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id

        answered = False

        async def stamped(message: Message) -> None:
            nonlocal answered
            answered = True
            if message["type"] == "http.response.start":
                stamps = MutableHeaders(scope=message)
                stamps["x-request-id"] = request_id
                for name, value in SECURITY_HEADERS.items():
                    stamps[name] = value
                self._metrics.requests.add(1, route=_route(scope), status=str(message["status"]))
            await send(message)

        try:
            self._check(scope, headers)
            body = await self._body(scope, headers, receive)
        except ApiError as error:
            await _refuse(error, stamped)
            return
        if body is None:
            return  # the client left while it was still sending
        try:
            await self._app(scope, _replay(body, receive), stamped)
        except Exception:
            if not answered:
                raise
            # It was logged and answered with a 500; raised further, uvicorn would also cut the kept-alive connection.

    def _check(self, scope: Scope, headers: Headers) -> None:
        if len(scope["headers"]) > MAX_HEADERS:
            raise ApiError(431, f"the request has more than {MAX_HEADERS} headers", code="too_many_headers")
        host = headers.get("host", "")
        if self._access.hosts is not None and _hostname(f"//{host}") not in self._access.hosts:
            raise ApiError(403, "this Host is not served here; see --allow-host", code="host_not_allowed")
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            raise ApiError(403, "requests from other origins are not allowed", code="origin_not_allowed")
        if self._access.key_digests and not _is_public(scope) and not self._has_key(headers):
            raise ApiError(
                401,
                "no valid API key was given; send it as `Authorization: Bearer KEY`",
                code="invalid_api_key",
                headers={"www-authenticate": "Bearer"},
            )
        if scope["method"] in ("POST", "PUT", "PATCH"):
            kind = headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json":
                raise ApiError(415, "content-type must be application/json", code="unsupported_media_type")

    def _has_key(self, headers: Headers) -> bool:
        scheme, _, key = headers.get("authorization", "").partition(" ")
        given = hashlib.sha256((key.strip() if scheme.lower() == "bearer" else "").encode("utf-8", "replace")).digest()
        matches = [hmac.compare_digest(given, digest) for digest in self._access.key_digests]
        return any(matches)

    async def _body(self, scope: Scope, headers: Headers, receive: Receive) -> bytes | None:
        """The whole body, or None when the client went away."""
        limit = self._access.max_body_bytes
        too_large = ApiError(413, f"the body must be at most {limit} bytes", code="request_too_large")
        length = headers.get("content-length", "0")
        if length.isascii() and length.isdigit() and int(length) > limit:
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(self._access.body_timeout_s):
                while True:
                    message = await receive()
                    if message["type"] != "http.request":
                        return None
                    body += message.get("body", b"")
                    if len(body) > limit:
                        raise too_large
                    if not message.get("more_body", False):
                        return bytes(body)
        except TimeoutError:
            raise ApiError(408, "the body did not arrive in time", code="request_timeout") from None


def _is_public(scope: Scope) -> bool:
    path: str = scope["path"]
    return scope["method"] in ("GET", "HEAD") and (
        path in PUBLIC_PATHS or (path.startswith(PUBLIC_PREFIX) and ".." not in path)
    )


def _route(scope: Scope) -> str:
    """The route's pattern, never the path: paths are chosen by clients, and a label per path would have no bound."""
    return getattr(scope.get("route"), "path", "other")


def _hostname(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").lower()
    except ValueError:
        return ""


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body that was read, then whatever comes after it."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return pending.pop() if pending else await receive()

    return replayed


async def _refuse(error: ApiError, send: Send) -> None:
    body = error_body(error.status_code, error.message, error.param, error.code)
    headers = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        "connection": "close",  # the rest of a body that was not read must not be taken for the next request
        **error.response_headers(),
    }
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status_code, "headers": raw})
    await send({"type": "http.response.body", "body": body})
