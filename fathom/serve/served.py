"""The model as clients see it: its names, its prompt format, its defaults; small files only, no weights."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from fathom.batching.request import SamplingParams
from fathom.config import ModelConfig, find_model
from fathom.config.effort import with_control
from fathom.cost import info
from fathom.errors import ConfigError, RequestError
from fathom.serve.defaults import Defaults
from fathom.serve.errors import ApiError
from fathom.serve.schema import ChatMessage, ChatRequest, CompletionRequest, Sampled
from fathom.serve.vocabulary import load_tokenizer
from fathom.think.steering import Steering, share, steer
from fathom.tokenizer import encode_chat

NANO = "fathom-nano"
DIRECT, REASONER = "deepseek-chat", "deepseek-reasoner"
"""DeepSeek's two old names for one model: without and with thinking. Clients still send them."""


class ServedModel:
    """One model under its served name and aliases.

    Args: model: a directory, or a name that `find_model` knows. name: what /v1/models shows.
    """

    def __init__(self, model: str, name: str | None = None) -> None:
        self.directory = find_model(model)
        self.name = name or (NANO if model == "nano" else self.directory.resolve().name)
        self.tokenizer = load_tokenizer(self.directory)
        self.config = ModelConfig.read(self.directory)
        self.counts = info(self.config)
        self.defaults = Defaults.read(self.directory)
        self.created = int((self.directory / "config.json").stat().st_mtime)
        self.thinks = self.tokenizer.end_think_id is not None
        self.aliases = frozenset({self.name, "nano" if self.name == NANO else self.name, DIRECT, REASONER})
        self.bos = self.tokenizer.settings.get("add_bos_token", True) is not False

    def check_name(self, name: str | None) -> None:
        """Raises: ApiError: 404, the name is not served here."""
        if name is not None and name not in self.aliases:
            served = ", ".join(sorted(self.aliases))
            raise ApiError(
                404, f"The model {name!r} does not exist; served here: {served}.", param="model", code="model_not_found"
            )

    def wants_thinking(self, body: ChatRequest) -> bool:
        """Whether the reply shall think first: said by `thinking`, else by `reasoning_effort`, else by `think`, else by
        the name.

        Raises: RequestError: two of them contradict each other.
        """
        said = None if body.thinking is None else body.thinking.type == "enabled"
        effort = None if body.reasoning_effort is None else body.reasoning_effort != "none"
        budget = body.think.budget_tokens if body.think is not None else None
        if said is not None and effort is not None and said != effort:
            raise RequestError(
                f"thinking and reasoning_effort = {body.reasoning_effort!r} contradict each other; send one of them.",
                param="reasoning_effort",
                code="invalid_value",
            )
        if said is None:
            said = effort
        if said is False and budget:
            raise RequestError(
                f"think.budget_tokens is {budget}, but thinking is switched off; send one of them.",
                param="think.budget_tokens",
                code="invalid_value",
            )
        if said is None and budget is not None:
            said = budget > 0
        return body.model != DIRECT if said is None else said

    def steering(self, body: ChatRequest, context: int) -> Steering:
        """How much the reply may think, and what its prompt says of it.

        Raises: RequestError: fields that contradict each other.
        """
        said = [each.budget_tokens for each in (body.thinking, body.think) if each is not None]
        budgets = {budget for budget in said if budget is not None}
        if len(budgets) > 1:
            raise RequestError(
                f"thinking.budget_tokens and think.budget_tokens differ ({min(budgets)} and {max(budgets)});"
                " send one of them.",
                param="think.budget_tokens",
                code="invalid_value",
            )
        if not self.wants_thinking(body):
            return Steering(thinking=False, limited=True, budget_tokens=0)
        return steer(self.tokenizer, context, body.reasoning_effort, next(iter(budgets), None))

    def chat_prompt(self, messages: Sequence[ChatMessage], *, thinking: bool, line: str | None = None) -> list[int]:
        """Token ids of a conversation, ready for the answer. Args: line: goes to the head of the system message."""
        plain: Sequence[Mapping[str, Any]] = [_plain(message) for message in messages]
        if line is not None and plain[0]["role"] == "system" and not isinstance(plain[0]["content"], str):
            plain = [{"role": "system", "content": line}, *plain]  # its content is a list of parts
        else:
            plain = with_control(plain, line)
        try:
            return encode_chat(self.tokenizer, plain, thinking=thinking)
        except ConfigError as error:
            raise RequestError(f"this model takes no chat ({error}) Use /v1/completions.", param="messages") from error

    def text_prompts(self, body: CompletionRequest) -> list[list[int]]:
        """Token ids of each prompt of a completion; text gets the token that begins a document, ids are taken as is."""
        if body.suffix is not None:
            return [self._fill_in(prompt, body.suffix) for prompt in body.prompt]
        prompts = [self._begun(self.tokenizer.encode(p)) if isinstance(p, str) else list(p) for p in body.prompt]
        for prompt in prompts:
            wrong = next((token for token in prompt if not 0 <= token < self.tokenizer.vocab_size), None)
            if wrong is not None:
                raise RequestError(
                    f"prompt holds token id {wrong}; it must be 0 to {self.tokenizer.vocab_size - 1}.", param="prompt"
                )
        return prompts

    def params(
        self, body: Sampled, prompt: Sequence[int], context: int, steering: Steering | None = None, **more: Any
    ) -> SamplingParams:
        """Sampling parameters of a request: what it says, else the model's defaults; `max_tokens` at most what is left.

        A limit on the thought leaves the answer its room.

        Raises: RequestError: the prompt leaves no room for one token.
        """
        room = context - len(prompt)
        if room < 1:
            raise RequestError(
                f"This model's maximum context length is {context} tokens. However, your prompt has {len(prompt)}"
                " tokens. Please reduce its length.",
                param="messages" if isinstance(body, ChatRequest) else "prompt",
                code="context_length_exceeded",
            )
        asked, usual = more.pop("max_tokens", None) or body.max_tokens, self.defaults.max_tokens
        total, limit = share(steering or Steering(), self.tokenizer, prompt, room, most=asked, usual=usual)
        top_p = body.top_p if body.top_p is not None else self.defaults.top_p
        top_k = body.top_k if body.top_k is not None else self.defaults.top_k
        return SamplingParams(
            max_tokens=total,
            temperature=body.temperature if body.temperature is not None else self.defaults.temperature,
            top_p=top_p or 1.0,
            top_k=1 if top_p == 0 else max(0, top_k),  # top_p 0 keeps the likeliest token alone
            min_p=body.min_p or 0.0,
            seed=_wrapped(secrets.randbits(63) if body.seed is None else body.seed),
            ignore_eos=bool(body.ignore_eos),
            presence_penalty=body.presence_penalty or 0.0,
            frequency_penalty=body.frequency_penalty or 0.0,
            repetition_penalty=body.repetition_penalty or 1.0,
            thinking=limit,
            **more,
        )

    def _begun(self, ids: list[int]) -> list[int]:
        return [self.tokenizer.bos_id, *ids] if self.bos and self.tokenizer.bos_id is not None else ids

    def _fill_in(self, prompt: Any, suffix: str) -> list[int]:
        """DeepSeek's fill-in-the-middle form: prefix, hole, suffix."""
        marks = [self.tokenizer.special.get(f"<｜fim▁{part}｜>") for part in ("begin", "hole", "end")]
        if not isinstance(prompt, str) or None in marks:
            raise RequestError("suffix needs a text prompt and a model with fill-in-the-middle tokens.", param="suffix")
        begin, hole, end = (mark for mark in marks if mark is not None)
        middle = [begin, *self.tokenizer.encode(prompt), hole, *self.tokenizer.encode(suffix), end]
        return self._begun(middle)


def _wrapped(seed: int) -> int:
    return (seed + 2**63) % 2**64 - 2**63


def _plain(message: ChatMessage) -> dict[str, Any]:
    """The message as the chat encoding reads it; `reasoning` is another name for `reasoning_content`."""
    table = message.model_dump(include={"role", "content", "reasoning_content", "prefix", "tool_calls"})
    if table["reasoning_content"] is None:
        table["reasoning_content"] = message.reasoning
    return table
