"""A model, its tokenizer and an engine in one process: `LLM("nano").chat([{"role": "user", "content": "..."}])`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

from fathom.batching.request import (
    FinishReason,
    Output,
    Request,
    SamplingParams,
    TokenLogprob,
    leaves_thinking_open,
    split_reasoning,
)
from fathom.config import find_model
from fathom.engine.engine import Engine, EngineConfig
from fathom.engine.load import eos_token_ids, load_model
from fathom.errors import RequestError
from fathom.tokenizer import Tokenizer, encode_chat


@dataclass(frozen=True)
class Usage:
    """Tokens of one completion. reasoning_tokens are part of completion_tokens, cached_tokens of prompt_tokens.

    accepted_prediction_tokens, rejected_prediction_tokens (OpenAI's names): guessed ahead, and right or wrong.
    """

    prompt_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    cached_tokens: int
    accepted_prediction_tokens: int = 0
    rejected_prediction_tokens: int = 0


@dataclass(frozen=True)
class Timings:
    """Seconds from the request's arrival: until it first ran, until its first token, until its last."""

    queue_s: float
    first_token_s: float
    total_s: float

    def tokens_per_s(self, completion_tokens: int) -> float:
        """Rate of decoding, after the first token [1/s]; 0 if there was no second one."""
        decoding_s = self.total_s - self.first_token_s
        return (completion_tokens - 1) / decoding_s if decoding_s > 0 else 0.0


@dataclass(frozen=True)
class Completion:
    """One answer. `token_ids` is everything generated, end markers included; `text` and `reasoning` are its parts."""

    token_ids: tuple[int, ...]
    text: str
    reasoning: str
    finish_reason: FinishReason
    usage: Usage
    timings: Timings
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass
class _Reply:
    """What has come back for one prompt so far."""

    prompt: tuple[int, ...]
    arrival_s: float
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    started_s: float | None = None
    first_token_s: float = 0.0
    end_s: float = 0.0
    cached_tokens: int = 0
    accepted_drafts: int = 0
    rejected_drafts: int = 0
    finish_reason: FinishReason | None = None

    def take(self, output: Output, step_s: float) -> None:
        now = perf_counter()
        if self.started_s is None:
            self.started_s = now - step_s
        if output.token_ids and not self.token_ids:
            self.first_token_s = now
        self.token_ids += output.token_ids
        self.logprobs += output.logprobs
        self.cached_tokens = output.cached_tokens
        self.accepted_drafts += output.accepted_drafts
        self.rejected_drafts += output.rejected_drafts
        self.finish_reason, self.end_s = output.finish_reason, now


class LLM:
    """Generates in this process. `model` is "nano" or a checkpoint's directory, with its tokenizer beside it."""

    def __init__(self, model: str | Path = "nano", config: EngineConfig | None = None) -> None:
        config = config or EngineConfig()
        directory = find_model(model)
        self.tokenizer = Tokenizer.load(directory)
        loaded = load_model(directory, mtp=config.mtp, **config.loading)
        ends = eos_token_ids(loaded.config, self.tokenizer.eos_id)
        self.engine = Engine(loaded, config=config, eos_token_ids=ends)
        self._count = 0

    def chat(
        self, messages: Sequence[Mapping[str, Any]], *, thinking: bool = True, params: SamplingParams | None = None
    ) -> Completion:
        """The model's answer to a conversation in OpenAI's form."""
        return self.generate([encode_chat(self.tokenizer, messages, thinking=thinking)], params)[0]

    def generate(
        self,
        prompts: str | Sequence[str] | Sequence[Sequence[int]],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        ended: Callable[[int, Completion], Iterable[int]] | None = None,
    ) -> list[Completion]:
        """One completion per prompt, in order, generated together. Equal prompts are computed once.

        Args:   prompts: texts, continued as they are after a begin-of-sequence token; or token ids, used as given.
                params: one for all, or one per prompt.
                ended: told of each completion at its end, with its place among the prompts; those whose places it
                    gives back are given up: their finish_reason is "abort", their tokens those they had.
        Raises: RequestError: a prompt cannot be served; then none is.
        """
        tokenised = [self._encode(p) for p in ([prompts] if isinstance(prompts, str) else prompts)]
        each = [params or SamplingParams()] * len(tokenised) if not isinstance(params, Sequence) else list(params)
        if len(each) != len(tokenised):
            raise RequestError(
                f"params has {len(each)} entries for {len(tokenised)} prompts; give one for each, or one for all.",
                param="params",
            )
        replies: dict[str, _Reply] = {}
        names: list[str] = []
        try:
            for prompt, one in zip(tokenised, each, strict=True):
                self._count += 1
                request = Request(f"local-{self._count}", prompt, one, arrival_s=perf_counter())
                self.engine.add(request)
                replies[request.id] = _Reply(prompt, request.arrival_s)
                names.append(request.id)
            while any(reply.finish_reason is None for reply in replies.values()):
                outputs = self.engine.step()
                for output in outputs:
                    replies[output.request_id].take(output, self.engine.step_s)
                if ended is not None:
                    self._tell(ended, [o.request_id for o in outputs if o.finish_reason is not None], names, replies)
        finally:  # an error or an interrupt leaves nothing running behind
            for request_id in replies:
                self.engine.abort(request_id)
        return [self._completion(reply) for reply in replies.values()]

    def _tell(
        self, ended: Callable[[int, Completion], Iterable[int]], over: Sequence[str], names: Sequence[str],
        replies: Mapping[str, _Reply],
    ) -> None:  # fmt: skip
        """Pass on which completions have come to their end, and give up those that are not wanted any more."""
        for request_id in over:
            for place in ended(names.index(request_id), self._completion(replies[request_id])):
                output = self.engine.abort(names[place])
                if output is not None:
                    replies[names[place]].take(output, 0.0)

    def _encode(self, prompt: str | Sequence[int]) -> tuple[int, ...]:
        if not isinstance(prompt, str):
            return tuple(prompt)
        begin = () if self.tokenizer.bos_id is None else (self.tokenizer.bos_id,)
        return (*begin, *self.tokenizer.encode(prompt))

    def _completion(self, reply: _Reply) -> Completion:
        tokenizer, ids = self.tokenizer, tuple(reply.token_ids)
        markers = tokenizer.think_id, tokenizer.end_think_id
        reasoning, content = split_reasoning(ids, leaves_thinking_open(reply.prompt, *markers), *markers)
        started_s = reply.arrival_s if reply.started_s is None else reply.started_s
        return Completion(
            token_ids=ids,
            text=tokenizer.decode(content, skip_special=True),
            reasoning=tokenizer.decode(reasoning, skip_special=True),
            finish_reason=reply.finish_reason or "abort",
            usage=Usage(
                len(reply.prompt),
                len(ids),
                len(reasoning),
                reply.cached_tokens,
                reply.accepted_drafts,
                reply.rejected_drafts,
            ),
            timings=Timings(
                queue_s=started_s - reply.arrival_s,
                first_token_s=reply.first_token_s - reply.arrival_s,
                total_s=reply.end_s - reply.arrival_s,
            ),
            logprobs=tuple(reply.logprobs),
        )
