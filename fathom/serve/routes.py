"""OpenAI's routes: chat and plain completions, streamed or whole, and the list of models.

Read `chat` first; a completion is the same with other shapes. Both go: check, encode, start the engine, reply.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
from fastapi import APIRouter
from fastapi import Request as HttpRequest
from starlette.responses import Response

from fathom.serve import replies
from fathom.serve.deliberation import Deliberation, check_think
from fathom.serve.errors import ApiError
from fathom.serve.front import Front
from fathom.serve.replies import Frame
from fathom.serve.schema import ChatRequest, CompletionRequest, Sampled
from fathom.serve.sse import DONE, KEEP_ALIVE, EventStream, event, unless_disconnected
from fathom.serve.stream import Choice, Delta, Exchange, Told
from fathom.think.steering import Steering

PREFIXES = ("/v1", "", "/beta")
"""DeepSeek serves the same routes without a prefix and, where prefix continuation began, under /beta."""

router = APIRouter()


@router.post("/chat/completions", response_model=None)
async def chat(body: ChatRequest, http: HttpRequest) -> Response:
    """The next message of a conversation."""
    front: Front = http.app.state.front
    served, context = front.served, front.context
    served.check_name(body.model)
    _check_chat(body)
    steering = served.steering(body, context)
    if body.think is not None and body.think.strategy is not None:
        return await _deliberate(body, http, front, steering)
    prompt = await asyncio.to_thread(
        served.chat_prompt, body.messages, thinking=steering.thinking, line=steering.line
    )  # fmt: skip
    params = served.params(
        body,
        prompt,
        context,
        steering,
        max_tokens=body.max_completion_tokens,
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
    )
    requests = front.siblings(prompt, params, body.n or 1, streamed=_reads_along(body))
    choices = [Choice(i, request, served.tokenizer, stops=body.stop or ()) for i, request in enumerate(requests)]
    exchange = front.open(choices, progress=_wants_progress(body), session=_session(body))
    frame = Frame.chat(served.name, front.fingerprint)
    if body.stream:
        return EventStream(exchange, _chat_events(body, front, exchange, frame))
    return await _whole(body, http, exchange, frame, lambda c: replies.chat_choice(c, served.tokenizer))


async def _deliberate(body: ChatRequest, http: HttpRequest, front: Front, steering: Steering) -> Response:
    """`chat`, of several samples: one answer, the winner."""
    told = Deliberation(front, body, steering, session=_session(body), progress=_wants_progress(body))
    await told.start()
    frame = Frame.chat(front.served.name, front.fingerprint)
    if body.stream:
        return EventStream(told, _thought_events(body, front, told, frame))

    def shape(choice: Choice) -> dict[str, Any]:
        whole = replies.chat_choice(choice, front.served.tokenizer) | {"index": 0}
        return whole if body.logprobs else whole | {"logprobs": None}

    return await _whole(body, http, told, frame, shape)


@router.post("/completions", response_model=None)
async def complete(body: CompletionRequest, http: HttpRequest) -> Response:
    """The text that follows a prompt, or each of several; thinking is not parted from the rest."""
    front: Front = http.app.state.front
    served, context = front.served, front.context
    served.check_name(body.model)
    if body.echo and body.logprobs is not None:
        raise ApiError(400, "echo with logprobs is not supported yet", param="echo", code="unsupported_parameter")
    _check_stream_options(body)
    choices: list[Choice] = []
    for prompt in await asyncio.to_thread(served.text_prompts, body):
        params = served.params(body, prompt, context, logprobs=body.logprobs)
        for request in front.siblings(prompt, params, body.n or 1, streamed=_reads_along(body)):
            choices.append(Choice(len(choices), request, served.tokenizer, stops=body.stop or (), split=False))
    exchange = front.open(choices, progress=_wants_progress(body), session=_session(body))
    frame = Frame.text(served.name, front.fingerprint)
    if body.stream:
        return EventStream(exchange, _text_events(body, front, exchange, frame))

    def shape(choice: Choice) -> dict[str, Any]:
        logprobs = None
        if body.logprobs is not None:
            logprobs = replies.text_logprobs(choice.content_logprobs, served.tokenizer, 0)
        text = _echoed(body, front, choice) + choice.content
        return replies.text_choice(choice.index, text, choice.finish_reason, logprobs)

    return await _whole(body, http, exchange, frame, shape)


@router.get("/models", response_model=None)
async def models(http: HttpRequest) -> dict[str, Any]:
    """The one model served here, under its own name; its aliases work too but are not listed."""
    return {"object": "list", "data": [_model(http.app.state.front)]}


@router.get("/models/{model_id:path}", response_model=None)
async def model(model_id: str, http: HttpRequest) -> dict[str, Any]:
    """One model by its name or an alias."""
    front: Front = http.app.state.front
    front.served.check_name(model_id)
    return _model(front) | {"id": model_id}


def _model(front: Front) -> dict[str, Any]:
    facts = front.client.facts
    return {
        "id": front.served.name,
        "object": "model",
        "created": front.served.created,
        "owned_by": "fathom",
        "aliases": sorted(front.served.aliases - {front.served.name}),
        "context_length": facts.context if facts is not None else None,
        "parameters": front.served.counts["parameters_total"],
        "parameters_activated": front.served.counts["parameters_activated"],
        "reasoning": front.served.thinks,
    }


def _check_chat(body: ChatRequest) -> None:
    """Raises: ApiError: fields that are fine alone but not together, or not here."""
    _check_stream_options(body)
    check_think(body)
    if body.response_format is not None and body.response_format.type != "text":
        raise ApiError(
            400,
            f"response_format.type is {body.response_format.type!r}; only 'text' is supported yet",
            param="response_format.type",
            code="unsupported_parameter",
        )
    if body.top_logprobs is not None and not body.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs: true", param="top_logprobs", code="invalid_value")
    if body.max_tokens is not None and body.max_completion_tokens is not None:
        raise ApiError(
            400, "send max_tokens or max_completion_tokens, not both", param="max_tokens", code="invalid_value"
        )


def _check_stream_options(body: Sampled) -> None:
    if body.stream and body.return_token_ids:
        raise ApiError(
            400, "return_token_ids needs stream: false", param="return_token_ids", code="unsupported_parameter"
        )
    if body.stream_options is not None and not body.stream:
        raise ApiError(400, "stream_options needs stream: true", param="stream_options", code="invalid_value")


def _reads_along(body: Sampled) -> bool:
    """Whether tokens are looked at one by one: sent on, or searched for stop strings."""
    return bool(body.stream or body.stop)


def _session(body: Sampled) -> str:
    """A short name for what belongs together, so that it is served where its pages are; "" if nothing says so."""
    key = (body.prompt_cache_key if isinstance(body, ChatRequest) else None) or body.user or ""
    return hashlib.blake2b(key.encode("utf-8", "replace"), digest_size=16).hexdigest() if key else ""


def _wants_progress(body: Sampled) -> bool:
    return body.stream_options is not None and bool(body.stream_options.include_progress)


async def _whole(
    body: Sampled,
    http: HttpRequest,
    exchange: Exchange | Deliberation,
    frame: Frame,
    shape: Callable[[Choice], dict[str, Any]],
) -> Response:
    """The reply in one piece, once all of it is there."""

    async def finished() -> bool:
        await exchange.finish()
        return True

    try:
        if not await unless_disconnected(finished(), http.receive):
            return Response(status_code=499)  # nobody is left to read it
    finally:
        exchange.close()
    shaped = [shape(choice) for choice in exchange.shown]
    if body.return_token_ids:
        shaped = [one | {"token_ids": choice.token_ids} for one, choice in zip(shaped, exchange.shown, strict=True)]
    reply = frame.reply(
        shaped,
        usage=_usage(body, http.app.state.front, exchange),
        timings=replies.timings(exchange),
    )
    return Response(msgspec.json.encode(reply), media_type="application/json")


async def _chat_events(body: ChatRequest, front: Front, exchange: Exchange, frame: Frame) -> AsyncIterator[bytes]:
    """A streamed chat reply: the role, the pieces, the end."""
    for choice in exchange.choices:
        first = replies.chunk_choice(choice.index, {"role": "assistant", "content": ""})
        yield event(frame.chunk([first], **_extras(body, front, exchange)))

    def shape(delta: Delta) -> list[dict[str, Any]]:
        return replies.chat_deltas(delta, front.served.tokenizer, logprobs=bool(body.logprobs))

    async for part in _events(body, front, exchange, frame, shape):
        yield part


async def _thought_events(
    body: ChatRequest, front: Front, told: Deliberation, frame: Frame
) -> AsyncIterator[bytes]:  # fmt: skip
    """A streamed chat reply of several samples: where they stand in `think`, time and again, then the winner."""
    options, every_s, at_s = body.stream_options, front.limits.progress_s, 0.0
    role = replies.chunk_choice(0, {"role": "assistant", "content": ""})
    yield event(frame.chunk([role], **_where(body, front, told)))
    async for delta in told.deltas():
        ended = delta is not None and delta.finish_reason is not None
        if ended or told.clock.until(None) - at_s >= every_s:
            at_s = told.clock.until(None)
            stands = {**told.describe(), **replies.account(told, front.served.config, front.prices)}
            yield event(frame.chunk([], think=stands, **_where(body, front, told)))
        elif delta is None:
            yield KEEP_ALIVE
    (winner,) = told.shown
    whole = replies.as_delta(winner, logprobs=bool(body.logprobs))
    *parts, end = replies.chat_deltas(whole, front.served.tokenizer, logprobs=bool(body.logprobs))
    for part in parts:
        phase = "answering" if "content" in part["delta"] else "thinking"
        yield event(frame.chunk([part], **_where(body, front, told, phase)))
    totals = {"usage": _usage(body, front, told), "timings": replies.timings(told)}
    with_usage = options is not None and bool(options.include_usage)
    yield event(frame.chunk([end], **_extras(body, front, told) | ({} if with_usage else totals)))
    if with_usage:
        yield event(frame.chunk([], **_extras(body, front, told) | totals))
    yield DONE


def _where(body: ChatRequest, front: Front, told: Deliberation, phase: str | None = None) -> dict[str, Any]:
    """What a chunk carries beside its choices. The reply is not done before its winner is there to be read."""
    extras = _extras(body, front, told)
    if "fathom" in extras and (phase is not None or extras["fathom"]["phase"] == "done"):
        extras["fathom"]["phase"] = phase or "answering"
    return extras


async def _text_events(body: CompletionRequest, front: Front, exchange: Exchange, frame: Frame) -> AsyncIterator[bytes]:
    """A streamed completion."""
    written = dict.fromkeys(range(len(exchange.choices)), 0)
    if body.echo:
        for choice in exchange.choices:
            echo = replies.text_choice(choice.index, _echoed(body, front, choice), None, None)
            yield event(frame.chunk([echo], **_extras(body, front, exchange)))

    def shape(delta: Delta) -> list[dict[str, Any]]:
        logprobs = None
        if body.logprobs is not None:
            offset = written[delta.index]
            logprobs = replies.text_logprobs(delta.content_logprobs, front.served.tokenizer, offset)
        written[delta.index] += len(delta.content)
        if not (delta.visible or delta.content_logprobs):
            return []
        return [replies.text_choice(delta.index, delta.content, delta.finish_reason, logprobs)]

    async for part in _events(body, front, exchange, frame, shape):
        yield part


async def _events(
    body: Sampled,
    front: Front,
    exchange: Exchange,
    frame: Frame,
    shape: Callable[[Delta], list[dict[str, Any]]],
) -> AsyncIterator[bytes]:
    """The pieces of any streamed reply and its end; while nothing comes, a sign of life."""
    with_progress = _wants_progress(body)
    with_usage = body.stream_options is not None and bool(body.stream_options.include_usage)
    async for delta in exchange.deltas():
        parts = [] if delta is None else shape(delta)
        for part in parts:
            extras = _extras(body, front, exchange)
            if part["finish_reason"] is not None and exchange.done and not with_usage:
                extras |= {"usage": _usage(body, front, exchange), "timings": replies.timings(exchange)}
            yield event(frame.chunk([part], **extras))
        if not parts and with_progress:
            yield event(frame.chunk([], **_extras(body, front, exchange)))
        elif delta is None:
            yield KEEP_ALIVE
    if with_usage:
        extras = _extras(body, front, exchange) | {"usage": _usage(body, front, exchange)}
        yield event(frame.chunk([], timings=replies.timings(exchange), **extras))
    yield DONE


def _usage(body: Sampled, front: Front, told: Exchange | Deliberation) -> dict[str, Any]:
    """Token counts; and an account of the thinking, where the request says anything of how much it shall be."""
    found = replies.usage(told)
    if not isinstance(body, ChatRequest):
        return found
    budget = body.thinking.budget_tokens if body.thinking is not None else None
    if (body.think, body.reasoning_effort, budget) == (None, None, None):
        return found
    described = told.describe() if isinstance(told, Deliberation) else {}
    return found | {"think": {**described, **replies.account(told, front.served.config, front.prices)}}


def _extras(body: Sampled, front: Front, exchange: Told) -> dict[str, Any]:
    """What a chunk carries beside its choices, as the stream options ask."""
    options = body.stream_options
    extras: dict[str, Any] = {}
    if options is not None and options.include_usage:
        extras["usage"] = None
    if options is not None and options.include_progress:
        extras["fathom"] = replies.progress(exchange, front.context)
    return extras


def _echoed(body: CompletionRequest, front: Front, choice: Choice) -> str:
    if not body.echo:
        return ""
    return front.served.tokenizer.decode(choice.request.prompt_token_ids, skip_special=True)
