"""A request's life: what is asked (Request, SamplingParams), where it stands (Sequence), what comes back (Output)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

import msgspec

from fathom.errors import RequestError

FinishReason = Literal["stop", "length", "abort"]

MAX_TOP_LOGPROBS = 20  # OpenAI's limit for `top_logprobs`
MAX_PRIORITY = 1000


class ThinkingParams(msgspec.Struct, frozen=True):
    """A limit on thinking: after `budget_tokens` tokens without `end_think_id`, the next token is `end_think_id`.

    Fields: think_id: given, the only thought is the one that the prompt leaves open: a reply never chooses this token,
            and where the prompt leaves none open, there is no thought and nothing to end.
    """

    end_think_id: int
    budget_tokens: int
    think_id: int | None = None

    def __post_init__(self) -> None:
        _integer("thinking.end_think_id", self.end_think_id, 0)
        _integer("thinking.budget_tokens", self.budget_tokens, 0)
        if self.think_id is not None:
            _integer("thinking.think_id", self.think_id, 0)


class SamplingParams(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """How one request chooses its tokens. Checked on creation, also when it arrives over a socket.

    The logits are changed in this order: penalties, temperature, top_k, top_p, min_p. Temperature 0 takes the most
    probable token, the lowest id on a tie. `logprobs` are of the model's own distribution, before any of these.

    Fields: top_k: 0 is off. min_p: least probability, as a fraction of the highest. logprobs: None, or how many
            alternatives to report beside the chosen token. repetition_penalty: also sees the prompt; the other two
            penalties see the output only. priority: lower runs earlier, see `SchedulerConfig.priority_steps`.
    """

    max_tokens: int = 256
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    thinking: ThinkingParams | None = None
    priority: int = 0

    def __post_init__(self) -> None:
        _integer("max_tokens", self.max_tokens, 1)
        _number("temperature", self.temperature, 0.0, math.inf)
        _integer("top_k", self.top_k, 0)
        _number("top_p", self.top_p, 0.0, 1.0, above=True)
        _number("min_p", self.min_p, 0.0, 1.0)
        _integer("seed", self.seed, -(2**63), 2**63 - 1)
        if self.logprobs is not None:
            _integer("logprobs", self.logprobs, 0, MAX_TOP_LOGPROBS)
        _number("presence_penalty", self.presence_penalty, -2.0, 2.0)
        _number("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        _number("repetition_penalty", self.repetition_penalty, 0.0, math.inf, above=True)
        _integer("priority", self.priority, -MAX_PRIORITY, MAX_PRIORITY)
        if not isinstance(self.stop_token_ids, tuple):
            raise _refused("stop_token_ids", self.stop_token_ids, "a tuple of token ids")
        for token_id in self.stop_token_ids:
            _integer("stop_token_ids", token_id, 0)

    @property
    def penalises_output(self) -> bool:
        return self.penalises_prompt or self.presence_penalty != 0.0 or self.frequency_penalty != 0.0

    @property
    def penalises_prompt(self) -> bool:
        return self.repetition_penalty != 1.0


class PrefixSource(msgspec.Struct, frozen=True):
    """Where the pages of a prompt can be fetched: an address, a lease there, and the secret that opens it."""

    host: str
    port: int
    lease: str
    token: str


class Request(msgspec.Struct, frozen=True):
    """What a client asks of the engine.

    Fields: cache_salt: keeps its cached pages apart from those with another salt. streamed: whether somebody reads
            along; where nobody does, only the end counts, not the time between tokens. emitted_token_ids: tokens of
            its reply that somebody has already, from an engine that is gone: this one goes on after them.
            prefix_from: fetch its prompt's pages there first. lends_prefix: once `max_tokens` are sampled, keep its
            prompt's pages for another engine, and say in the last Output where. Both are the server's worker's
            business: they change no text.
    """

    id: str
    prompt_token_ids: tuple[int, ...]
    params: SamplingParams = msgspec.field(default_factory=SamplingParams)
    arrival_s: float = 0.0
    cache_salt: str = ""
    streamed: bool = True
    emitted_token_ids: tuple[int, ...] = ()
    prefix_from: PrefixSource | None = None
    lends_prefix: bool = False


class TokenLogprob(msgspec.Struct, frozen=True):
    """Log-probability of one token, and of the most probable ones at its position, best first."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


class Output(msgspec.Struct, frozen=True):
    """What one step did for one request: new tokens, or (none yet) how much of its prompt has been read.

    Fields: read_tokens: prompt tokens whose latents are in the cache. cached_tokens: those of them that were found,
            not computed for this request; disk_tokens: those of these that a file gave back. logprobs: one per token
            if asked for, else empty. accepted_drafts, rejected_drafts: guessed tokens that this step found right, and
            wrong. prefix: where its prompt's pages can be had, if it was to lend them.
    """

    request_id: str
    token_ids: tuple[int, ...] = ()
    finish_reason: FinishReason | None = None
    read_tokens: int = 0
    cached_tokens: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()
    accepted_drafts: int = 0
    rejected_drafts: int = 0
    disk_tokens: int = 0
    prefix: PrefixSource | None = None


class State(StrEnum):
    WAITING = "waiting"
    PREFILLING = "prefilling"
    DECODING = "decoding"
    FINISHED = "finished"
    ABORTED = "aborted"


@dataclass(eq=False)
class Sequence:
    """A request on its way through the scheduler, which alone changes it.

    Fields: key: rank among all requests, smallest first. tokens: prompt and output, append only.
            pages: held pages of the latent cache, in order; table: the same as a tuple, or () when it is out of
            date. computed: tokens whose latents are in them; unread: those of them that MTP is known not to have seen.
            published: leading pages that are offered for sharing. hashes: names of the first full pages of `tokens`, as
            far as they were asked for. drafts: guesses for the tokens after the last one.
    """

    request: Request
    key: tuple[int, int]
    tokens: list[int]
    hashes: list[bytes] = field(default_factory=list)
    pages: list[int] = field(default_factory=list)
    table: tuple[int, ...] = ()
    computed: int = 0
    unread: int = 0
    published: int = 0
    drafts: tuple[int, ...] = ()
    running: bool = False
    cached_tokens: int = 0
    disk_tokens: int = 0
    preemptions: int = 0
    thought: bool = False
    finish_reason: FinishReason | None = None

    def __post_init__(self) -> None:
        thinking = self.request.params.thinking
        if thinking is not None and thinking.think_id is not None:
            prompt = self.request.prompt_token_ids
            self.thought = not leaves_thinking_open(prompt, thinking.think_id, thinking.end_think_id)

    @property
    def state(self) -> State:
        if self.finish_reason is not None:
            return State.ABORTED if self.finish_reason == "abort" else State.FINISHED
        if not self.running:
            return State.WAITING
        return State.DECODING if self.remaining == 1 and self.output_tokens else State.PREFILLING

    @property
    def prompt_tokens(self) -> int:
        return len(self.request.prompt_token_ids)

    @property
    def output_tokens(self) -> int:
        return len(self.tokens) - self.prompt_tokens

    @property
    def remaining(self) -> int:
        """Tokens still to compute before the next one can be sampled; at least 1."""
        return len(self.tokens) - self.computed

    def is_sibling(self, other: Sequence) -> bool:
        """Whether it waits for its first token after the same prompt, in the same part of the cache."""
        ours, theirs = self.request, other.request
        same = ours.cache_salt == theirs.cache_salt and ours.prompt_token_ids == theirs.prompt_token_ids
        return same and self.output_tokens == 0

    @property
    def room(self) -> int:
        """Tokens that may still be added."""
        return self.request.params.max_tokens - self.output_tokens

    @property
    def thinking_left(self) -> int | None:
        """Tokens before the end of thinking is forced; None if nothing limits it, or it has ended."""
        thinking = self.request.params.thinking
        return None if thinking is None or self.thought else max(0, thinking.budget_tokens - self.output_tokens)

    def resume(self, eos_token_ids: frozenset[int]) -> None:
        """Take in the tokens that another engine sampled for this request: from here on all is as if here.

        Raises: RequestError: one of them ended the reply; there is nothing left to do.
        """
        for at, token_id in enumerate(self.request.emitted_token_ids):
            self.append(token_id, eos_token_ids)
            if self.finish_reason is not None:
                raise RequestError(
                    f"token {at} of the {len(self.request.emitted_token_ids)} emitted ones, {token_id}, ended the reply"
                    f" ({self.finish_reason}); only a reply that has not ended can be resumed.",
                    param="emitted_token_ids",
                    code="already_ended",
                )

    def append(self, token_id: int, eos_token_ids: frozenset[int]) -> None:
        """Add a sampled token and decide whether it was the last."""
        params = self.request.params
        self.tokens.append(token_id)
        if params.thinking is not None and token_id == params.thinking.end_think_id:
            self.thought = True
        if token_id in params.stop_token_ids or (token_id in eos_token_ids and not params.ignore_eos):
            self.finish_reason = "stop"
        elif self.output_tokens >= params.max_tokens:
            self.finish_reason = "length"


def sibling_seed(seed: int, index: int) -> int:
    """Seed of the index-th of several samples of one prompt; the first has the seed itself, so all counts begin alike.

    SplitMix64's step (2^64 / golden ratio) keeps the seeds far apart; the result wraps around like an int64.
    """
    return (seed + index * 0x9E3779B97F4A7C15 + 2**63) % 2**64 - 2**63


def leaves_thinking_open(prompt_token_ids: Iterable[int], think_id: int | None, end_think_id: int | None) -> bool:
    """Whether a reply to this prompt begins inside a thinking block: the prompt's last marker opens one."""
    thinking = False
    for token_id in prompt_token_ids:
        thinking = token_id == think_id or (thinking and token_id != end_think_id)
    return thinking


def split_reasoning(
    token_ids: Iterable[int], starts_thinking: bool, think_id: int | None, end_think_id: int | None
) -> tuple[list[int], list[int]]:
    """A reply's token ids parted into (reasoning, content); the two markers belong to neither.

    Args: starts_thinking: the prompt already opened the thinking block. think_id, end_think_id: None if the
          tokenizer has no such token; then everything follows `starts_thinking`.
    """
    reasoning: list[int] = []
    content: list[int] = []
    thinking = starts_thinking
    for token_id in token_ids:
        if token_id == think_id:
            thinking = True
        elif token_id == end_think_id:
            thinking = False
        else:
            (reasoning if thinking else content).append(token_id)
    return reasoning, content


def _integer(name: str, value: object, low: int, high: int | None = None) -> None:
    if isinstance(value, int) and not isinstance(value, bool) and low <= value and (high is None or value <= high):
        return
    raise _refused(name, value, f"an integer of at least {low}" if high is None else f"an integer in {low}..{high}")


def _number(name: str, value: object, low: float, high: float, *, above: bool = False) -> None:
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    if math.isfinite(number) and low <= number <= high and not (above and number == low):
        return
    bounds = f"{'above' if above else 'at least'} {low:g}" + ("" if high == math.inf else f" and at most {high:g}")
    raise _refused(name, value, f"a finite number {bounds}")


def _refused(name: str, value: object, must_be: str) -> RequestError:
    shown = repr(value)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    return RequestError(f"{name} is {shown}; it must be {must_be}.", param=name, code="invalid_value")
