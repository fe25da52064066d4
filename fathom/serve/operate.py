"""The other routes: what operators and scripts ask, tokenising, and the page."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.staticfiles import StaticFiles

from fathom import __version__
from fathom.errors import WorkerError
from fathom.serve import metrics as prometheus
from fathom.serve.errors import ApiError
from fathom.serve.fleet import Fleet
from fathom.serve.front import Front, engines
from fathom.serve.schema import DetokenizeRequest, RenewRequest, ScaleRequest, TokenizeRequest
from fathom.serve.served import NANO
from fathom.serve.stream import unavailable
from fathom.tasks import suggested

WEB = Path(__file__).with_name("web")

router = APIRouter()


def page_files() -> StaticFiles:
    """The page's files, with ETags."""
    return StaticFiles(directory=WEB, check_dir=False)


@router.get("/", include_in_schema=False)
async def page(http: HttpRequest) -> Response:
    """The chat page."""
    response = await page_files().get_response("index.html", http.scope)
    response.headers["cache-control"] = "no-cache"
    return response


@router.get("/health", response_model=None)
async def health(http: HttpRequest) -> Response:
    """Whether this process is alive: 200 while there is hope, also while the model loads."""
    state = http.app.state.front.client.state
    if state == "failed":
        return JSONResponse({"status": "failed", "engine": state}, 503)
    return JSONResponse({"status": "ok", "engine": state})


@router.get("/ready", response_model=None)
async def ready(http: HttpRequest) -> Response:
    """Whether a request would be taken now."""
    front: Front = http.app.state.front
    client, facts = front.client, front.client.facts
    if client.state != "ready" or facts is None:
        raise unavailable(client, client.failure or WorkerError(f"the engine is {client.state}"))
    return JSONResponse(
        {
            "status": "ready",
            "model": front.served.name,
            "context": facts.context,
            "load_s": facts.load_s,
            "price_per_hour": front.prices.per_hour,
        }
    )


@router.get("/suggestions", response_model=None)
async def suggestions(http: HttpRequest) -> list[dict[str, str]]:
    """Questions worth asking this model; none when it is not one of ours, whose tasks are known."""
    front: Front = http.app.state.front
    if front.served.name != NANO:
        return []
    return [{"family": family, "prompt": prompt} for family, prompt in suggested()]


@router.get("/version", response_model=None)
async def version() -> dict[str, str]:
    """The version of fathom."""
    return {"version": __version__}


@router.get("/metrics", response_model=None)
async def metrics(http: HttpRequest) -> Response:
    """Prometheus metrics."""
    front: Front = http.app.state.front
    series, stats = front.metrics, front.client.stats
    for name in (
        "running", "waiting", "pages_used", "pages_total", "preemptions", "copied_pages", "spilled_pages",
        "restored_pages", "lost_pages", "slots_used", "leased_pages", "fetched_pages", "fetched_bytes", "fetches",
        "failed_fetches",
    ):  # fmt: skip
        getattr(series, name).set(getattr(stats, name))
    for op, seconds in stats.op_s.items():
        series.op_s.set(seconds, op=op)
    series.show_experts({name: client.stats.experts for name, client in engines(front).items()})
    for state, count in stats.leases.items():
        series.leases.set(count, state=state)
    series.drafted.set(sum(stats.drafted_by_depth))
    series.accepted.set(sum(stats.accepted_by_depth))
    for position, count in enumerate(stats.accepted_by_depth):
        series.accepted_at.set(count, position=str(position))
    series.in_flight.set(front.client.in_flight)
    series.restarts.set(front.client.restarts)
    series.resumed.set(front.client.resumed)
    series.poisoned.set(front.client.poisoned)
    if isinstance(front.client, Fleet):
        series.moved.set(front.client.moved)
        series.prefilled.set(front.client.prefilled)
        series.alone.set(front.client.alone)
        series.show_replicas(front.client.describe())
    series.ready.set(1 if front.client.state == "ready" else 0)
    return Response(series.render(), headers={"content-type": prometheus.CONTENT_TYPE})


@router.get("/fleet", response_model=None)
async def fleet(http: HttpRequest) -> dict[str, Any]:
    """Each replica: its state, its requests, the tokens due there, its restarts, its engine's counts."""
    return _overview(_fleet(http))


@router.post("/fleet/scale", response_model=None)
async def scale(body: ScaleRequest, http: HttpRequest) -> Response:
    """Have so many replicas in a pool. More are started; the last ones finish what they have, then end."""
    ours = _fleet(http)
    ours.scale(body.pool, body.replicas)
    return JSONResponse(_overview(ours), 202)


@router.post("/fleet/renew", response_model=None)
async def renew(body: RenewRequest, http: HttpRequest) -> Response:
    """Let a replica finish what it has, then start it afresh; the others take its requests meanwhile."""
    ours = _fleet(http)
    ours.renew(body.replica)
    return JSONResponse(_overview(ours), 202)


def _fleet(http: HttpRequest) -> Fleet:
    client = http.app.state.front.client
    if not isinstance(client, Fleet):
        raise ApiError(404, "this server has one engine and no fleet", code="no_fleet")
    return client


def _overview(ours: Fleet) -> dict[str, Any]:
    router = ours.router
    return {
        "state": ours.state,
        "replicas": ours.describe(),
        "moved": ours.moved,
        "prefilled": ours.prefilled,
        "alone": ours.alone,
        "router": {"requests": router.requests, "prefix_hits": router.hits, "pinned": router.pinned},
    }


@router.post("/tokenize", response_model=None)
async def tokenize(body: TokenizeRequest, http: HttpRequest) -> dict[str, Any]:
    """Token ids of a text, or of a conversation as the model would see it."""
    front: Front = http.app.state.front
    front.served.check_name(body.model)
    if (body.prompt is None) == (body.messages is None):
        raise ApiError(400, "send either prompt or messages", param="prompt", code="invalid_value")
    if body.prompt is not None:
        tokens = await asyncio.to_thread(front.served.tokenizer.encode, body.prompt)
    else:
        thinking = body.thinking is None or body.thinking.type == "enabled"
        tokens = await asyncio.to_thread(front.served.chat_prompt, body.messages or (), thinking=thinking)
    context = front.client.facts.context if front.client.facts is not None else None
    return {"tokens": tokens, "count": len(tokens), "max_model_len": context}


@router.post("/detokenize", response_model=None)
async def detokenize(body: DetokenizeRequest, http: HttpRequest) -> dict[str, str]:
    """Text of token ids, control tokens included."""
    front: Front = http.app.state.front
    front.served.check_name(body.model)
    return {"prompt": await asyncio.to_thread(front.served.tokenizer.decode, body.tokens)}
