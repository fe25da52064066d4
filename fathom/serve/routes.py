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
from fathom.serve.errors import ApiError
from fathom.serve.front import Front
from fathom.serve.replies import Frame
from fathom.serve.schema import ChatRequest, CompletionRequest, Sampled
from fathom.serve.sse import DONE, KEEP_ALIVE, EventStream, event, unless_disconnected
from fathom.serve.stream import Choice, Delta, Exchange

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
    thinking = served.wants_thinking(body)
    prompt = await asyncio.to_thread(served.chat_prompt, body.messages, thinking=thinking)
    params = served.params(
        body,
        prompt,
        context,
        max_tokens=body.max_completion_tokens,
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        thinking=served.thinking_params(body, thinking),
    )
    requests = front.siblings(prompt, params, body.n or 1, streamed=_reads_along(body))
    choices = [Choice(i, request, served.tokenizer, stops=body.stop or ()) for i, request in enumerate(requests)]
    exchange = front.open(choices, progress=_wants_progress(body), session=_session(body))
    frame = Frame.chat(served.name, front.fingerprint)
    if body.stream:
        return EventStream(exchange, _chat_events(body, front, exchange, frame))
    with_ids = bool(body.return_token_ids)
    return await _whole(exchange, http, frame, lambda c: replies.chat_choice(c, served.tokenizer), with_ids=with_ids)


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

    return await _whole(exchange, http, frame, shape, with_ids=bool(body.return_token_ids))


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
    exchange: Exchange,
    http: HttpRequest,
    frame: Frame,
    shape: Callable[[Choice], dict[str, Any]],
    *,
    with_ids: bool,
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
    shaped = [shape(choice) for choice in exchange.choices]
    if with_ids:
        shaped = [one | {"token_ids": choice.token_ids} for one, choice in zip(shaped, exchange.choices, strict=True)]
    reply = frame.reply(
        shaped,
        usage=replies.usage(exchange),
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
                extras |= {"usage": replies.usage(exchange), "timings": replies.timings(exchange)}
            yield event(frame.chunk([part], **extras))
        if not parts and with_progress:
            yield event(frame.chunk([], **_extras(body, front, exchange)))
        elif delta is None:
            yield KEEP_ALIVE
    if with_usage:
        extras = _extras(body, front, exchange) | {"usage": replies.usage(exchange)}
        yield event(frame.chunk([], timings=replies.timings(exchange), **extras))
    yield DONE


def _extras(body: Sampled, front: Front, exchange: Exchange) -> dict[str, Any]:
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
