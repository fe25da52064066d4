"""What clients may send, field by field. An unknown field is refused by name; an optional field may be null.

Three kinds of fields beside those that do something, so that official clients work unchanged:

    ignored    accepted with any value, without effect: metadata, store, service_tier, ...
    neutral    accepted with the value that asks for nothing (`tools: []`, `logit_bias: {}`); any other value is
               refused as not supported, never silently dropped
    aliases    max_tokens = max_completion_tokens; thinking, think, reasoning_effort and the model's name all steer
               thinking
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

MAX_CHOICES = 16
MAX_STOPS = 4
MAX_MESSAGES = 4096
MAX_PROMPTS = 64

_CONTENT = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "items": {"type": "object", "required": ["type", "text"]}, "description": "text parts"},
        {"type": "null"},
    ]
}
_STOP = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "items": {"type": "string"}, "maxItems": MAX_STOPS},
        {"type": "null"},
    ]
}
_PROMPT = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "items": {"type": "string"}},
        {"type": "array", "items": {"type": "integer"}},
        {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}},
    ]
}


def _listed(value: Any) -> Any:
    """`stop` as a list, without the empty strings that some clients send."""
    stops = [value] if isinstance(value, str) else value
    return [stop for stop in stops if stop != ""] if isinstance(stops, list) else stops


def _prompts(value: Any) -> Any:
    """`prompt` as a list of prompts, each a text or a list of token ids."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value:
        if all(isinstance(item, str) for item in value):
            return value
        if all(type(item) is int for item in value):
            return [value]
        if all(isinstance(item, list) and item and all(type(token) is int for token in item) for item in value):
            return value
    raise ValueError("prompt must be a string, a list of strings, a list of token ids or a list of such lists")


Content = Annotated[Any, WithJsonSchema(_CONTENT)]
_AtMostStops = Annotated[list[str], Field(max_length=MAX_STOPS)]
Stops = Annotated[_AtMostStops | None, BeforeValidator(_listed), WithJsonSchema(_STOP)]
Prompts = Annotated[
    list[Any], BeforeValidator(_prompts), Field(min_length=1, max_length=MAX_PROMPTS), WithJsonSchema(_PROMPT)
]


class Body(BaseModel):
    """Base of every request body: strict types, no unknown fields, finite numbers."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


class StreamOptions(Body):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None
    include_progress: bool | None = Field(None, description="fathom: say in each chunk where the request stands")


class Thinking(Body):
    type: Literal["enabled", "disabled"]
    budget_tokens: int | None = Field(None, ge=0, description="thinking ends after this many tokens")


class Think(Body):
    """fathom: several samples for one answer, and what is made of them."""

    strategy: Literal["vote", "best_of", "revise"] | None = None
    n: int | None = Field(None, ge=1, le=MAX_CHOICES, description="samples; for revise, answers in all")
    budget_tokens: int | None = Field(None, ge=0, description="the longest thought of each sample")
    stop_early: bool | None = Field(None, description="give up samples that cannot change the result; true if left out")


class ResponseFormat(Body):
    type: str


class ChatMessage(Body):
    """A message's fields by name; roles, contents and tool calls are read by `fathom.tokenizer`, which encodes them."""

    role: str
    content: Content = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    prefix: bool | None = Field(None, description="DeepSeek: the last message, to be continued by the model")
    tool_calls: list[Any] | None = None
    tool_call_id: str | None = None
    name: str | None = None
    # Part of every reply in OpenAI's shape, so that a reply can be sent back as it came.
    refusal: None = None
    annotations: list[Any] | None = None
    audio: None = None
    function_call: None = None


class Sampled(Body):
    """Fields that the two generating endpoints share."""

    model: str | None = None
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=-1)
    min_p: float | None = Field(None, ge=0, le=1)
    seed: int | None = None
    stop: Stops = None
    n: int | None = Field(None, ge=1, le=MAX_CHOICES)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    repetition_penalty: float | None = Field(None, gt=0, le=10)
    ignore_eos: bool | None = None
    return_token_ids: bool | None = Field(None, description="fathom: `token_ids` in each choice; not while streaming")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = Field(None, description="names a session, which keeps to its replica")
    # ignored
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    # neutral
    logit_bias: dict[str, float] | None = Field(None, max_length=0)


class ChatRequest(Sampled):
    messages: list[ChatMessage] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    thinking: Thinking | None = None
    think: Think | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max", "ultra"] | None = None
    response_format: ResponseFormat | None = None
    prompt_cache_key: str | None = Field(None, description="names a session, before `user`")
    # ignored
    safety_identifier: str | None = None
    prompt_cache_retention: str | None = None
    parallel_tool_calls: bool | None = None
    # neutral
    tools: list[Any] | None = Field(None, max_length=0)
    tool_choice: Literal["none", "auto"] | None = None
    functions: list[Any] | None = Field(None, max_length=0)
    function_call: Literal["none", "auto"] | None = None
    modalities: list[Literal["text"]] | None = None
    verbosity: Literal["medium"] | None = None
    audio: None = None
    prediction: None = None
    web_search_options: None = None


class CompletionRequest(Sampled):
    prompt: Prompts
    logprobs: int | None = Field(None, ge=0, le=20)
    echo: bool | None = None
    suffix: str | None = None
    best_of: int | None = Field(None, ge=1, le=1)


class TokenizeRequest(Body):
    model: str | None = None
    prompt: str | None = None
    messages: list[ChatMessage] | None = Field(None, min_length=1, max_length=MAX_MESSAGES)
    thinking: Thinking | None = None


class ScaleRequest(Body):
    replicas: int = Field(ge=1, le=256)
    pool: str = "main"


class RenewRequest(Body):
    replica: str


class RebalanceRequest(Body):
    """engine: its name; None is all."""

    engine: str | None = None


class DetokenizeRequest(Body):
    model: str | None = None
    tokens: list[Annotated[int, Field(ge=0)]] = Field(max_length=1_000_000)


UNSUPPORTED = {
    "tools": "tool calls are not supported yet",
    "functions": "tool calls are not supported yet",
    "tool_choice": "tool calls are not supported yet",
    "function_call": "tool calls are not supported yet",
    "logit_bias": "logit_bias is not supported yet",
    "modalities": "this model reads and writes text only",
    "audio": "this model reads and writes text only",
    "verbosity": "verbosity is not supported; only 'medium' is accepted",
    "prediction": "predicted outputs are not supported",
    "web_search_options": "web search is not supported",
    "best_of": "best_of is not supported; use n",
}


_BODIES: dict[str, type[BaseModel]] = {
    "/chat/completions": ChatRequest,
    "/completions": CompletionRequest,
    "/tokenize": TokenizeRequest,
    "/detokenize": DetokenizeRequest,
    "/fleet/scale": ScaleRequest,
    "/fleet/renew": RenewRequest,
}


def body_of(path: str) -> type[BaseModel] | None:
    """The body that this path takes."""
    return next((body for end, body in _BODIES.items() if path.endswith(end)), None)


def explain(error: dict[str, Any], body_type: type[BaseModel] | None) -> tuple[str, str | None, str | None]:
    """One validation error as (message, param, code), in OpenAI's words where it has some."""
    path = list(error["loc"][1:])
    param, last = _dotted(path), str(path[-1]) if path else ""
    kind = error["type"]
    if kind == "json_invalid":
        return f"the body is not valid JSON: {error['ctx']['error']} at character {error['loc'][-1]}", None, None
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(last, _known_fields(body_type, path[:-1]), n=1, cutoff=0.6)
        hint = f" Did you mean {near[0]}?" if near else ""
        return f"Unrecognized request argument supplied: {param}.{hint}", param, "unknown_parameter"
    if not path:
        return "the body must be a JSON object", None, None
    if str(path[0]) in UNSUPPORTED:
        return f"{param}: {UNSUPPORTED[str(path[0])]}.", param, "unsupported_parameter"
    if kind == "missing":
        return f"Missing required parameter: {param}.", param, "missing_required_parameter"
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return f"{param}: {message}.", param, "invalid_type" if kind.endswith("_type") else "invalid_value"


def _dotted(path: Iterable[str | int]) -> str | None:
    """`messages[0].role`, as OpenAI writes it."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.lstrip(".") or None


def _known_fields(body_type: type[BaseModel] | None, path: Iterable[str | int]) -> list[str]:
    """Names of the fields at this place in a body."""
    nested: dict[str, type[BaseModel]] = {
        "messages": ChatMessage,
        "stream_options": StreamOptions,
        "thinking": Thinking,
        "think": Think,
        "response_format": ResponseFormat,
    }
    here: type[BaseModel] | None = body_type
    for part in path:
        here = nested.get(str(part), here)
    return list(here.model_fields) if here is not None else []
