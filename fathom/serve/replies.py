"""The shapes of replies: OpenAI's objects, with DeepSeek's and llama.cpp's additions that clients know how to read.

reasoning_content, reasoning     the thinking, twice the same text: DeepSeek's clients read one, OpenRouter's one
prompt_cache_hit/miss_tokens     DeepSeek's names for what prompt_tokens_details.cached_tokens says
prompt_tokens_details.disk_tokens    ours: those of the cached tokens that a file gave back
accepted/rejected_prediction_tokens  OpenAI's names, for tokens that the engine guessed ahead
timings                          llama.cpp's shape, plus queued_ms and time_to_first_token_ms
fathom                           ours: where the request stands, see `progress`
usage.think                      ours: what thinking cost, see `account`
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fathom.batching.request import TokenLogprob
from fathom.config import ModelConfig
from fathom.serve.stream import Choice, Delta, Phase, Told
from fathom.think.account import Account, Prices, Work
from fathom.tokenizer import Tokenizer

PHASES: tuple[Phase, ...] = ("queued", "reading", "thinking", "answering", "done")


@dataclass(frozen=True)
class Frame:
    """What every object of one reply repeats. `kind` is "chat.completion" or "text_completion"."""

    kind: str
    model: str
    fingerprint: str
    id: str = ""
    created: int = field(default_factory=lambda: int(time.time()))

    @classmethod
    def chat(cls, model: str, fingerprint: str) -> Frame:
        return cls("chat.completion", model, fingerprint, f"chatcmpl-{uuid.uuid4().hex}")

    @classmethod
    def text(cls, model: str, fingerprint: str) -> Frame:
        return cls("text_completion", model, fingerprint, f"cmpl-{uuid.uuid4().hex}")

    def reply(self, choices: Sequence[dict[str, Any]], **more: Any) -> dict[str, Any]:
        """A whole reply."""
        return self._object(self.kind, choices) | more

    def chunk(self, choices: Sequence[dict[str, Any]], **more: Any) -> dict[str, Any]:
        """One event of a streamed reply."""
        return self._object("chat.completion.chunk" if self.kind == "chat.completion" else self.kind, choices) | more

    def _object(self, kind: str, choices: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "choices": list(choices),
        }


def usage(exchange: Told) -> dict[str, Any]:
    """Token counts, from token ids, never by tokenising text again. Siblings share a prompt: it counts once."""
    firsts = {choice.request.prompt_token_ids: choice for choice in reversed(exchange.choices)}
    prompt, cached = sum(map(len, firsts)), sum(choice.cached_tokens for choice in firsts.values())
    disk = sum(choice.disk_tokens for choice in firsts.values())
    output = _output_tokens(exchange)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": prompt + output,
        "prompt_tokens_details": {"cached_tokens": cached, "disk_tokens": disk},
        "completion_tokens_details": {
            "reasoning_tokens": sum(c.reasoning_tokens for c in exchange.choices),
            "accepted_prediction_tokens": sum(c.accepted_drafts for c in exchange.choices),
            "rejected_prediction_tokens": sum(c.rejected_drafts for c in exchange.choices),
        },
        "prompt_cache_hit_tokens": cached,
        "prompt_cache_miss_tokens": prompt - cached,
    }


def account(exchange: Told, config: ModelConfig, prices: Prices) -> dict[str, Any]:
    """What all samples took so far, in tokens, seconds, FLOPs, latents held and money; the money is null without a
    price. budget_tokens: what was enforced; null if nothing was."""
    limit = exchange.choices[0].request.params.thinking
    seconds = exchange.clock.until(_end(exchange))
    table = Account.of(config, [_work(choice) for choice in exchange.choices], seconds, prices).to_dict()
    del table["kv_byte_seconds"]  # the engine alone knows how wide it keeps them
    table |= {"seconds": round(seconds, 6), "kv_token_seconds": round(table["kv_token_seconds"], 3)}
    return {"budget_tokens": None if limit is None else limit.budget_tokens, **table}


def _end(exchange: Told) -> float | None:
    return exchange.clock.last_token if all(c.finish_reason is not None for c in exchange.choices) else None


def _work(choice: Choice) -> Work:
    clock = choice.clock
    end = clock.until(clock.last_token if choice.finish_reason is not None else None) + clock.arrived
    begun = end if clock.begun is None else clock.begun
    first = end if clock.first_token is None else clock.first_token
    return Work(
        choice.request.prompt_token_ids, choice.cached_tokens, choice.reasoning_tokens, len(choice.token_ids),
        choice.rejected_drafts, begun, first, end, choice.finish_reason == "abort",
    )  # fmt: skip


def _output_tokens(exchange: Told) -> int:
    return sum(len(choice.token_ids) for choice in exchange.choices)


def timings(exchange: Told) -> dict[str, Any]:
    """How long what took; rates are null until they mean something."""
    clock, counts = exchange.clock, usage(exchange)
    details = counts["completion_tokens_details"]
    accepted, rejected = details["accepted_prediction_tokens"], details["rejected_prediction_tokens"]
    cached, output = counts["prompt_cache_hit_tokens"], counts["completion_tokens"]
    queued_s = clock.until(clock.begun)
    first_s = clock.until(clock.first_token)
    prompt_s = first_s - queued_s
    output_s = clock.until(clock.last_token) - first_s
    gaps = output - len(exchange.choices)
    read = counts["prompt_tokens"] - cached
    return {
        "cache_n": cached,
        "prompt_n": read,
        "prompt_ms": _ms(prompt_s),
        "prompt_per_token_ms": _ms(prompt_s / read) if read else None,
        "prompt_per_second": _rate(read, prompt_s),
        "predicted_n": output,
        "predicted_ms": _ms(output_s),
        "predicted_per_token_ms": _ms(output_s / gaps) if gaps > 0 else None,
        "predicted_per_second": _rate(gaps, output_s),
        "draft_n": accepted + rejected,
        "draft_n_accepted": accepted,
        "queued_ms": _ms(queued_s),
        "time_to_first_token_ms": _ms(first_s),
        "total_ms": _ms(clock.until(clock.last_token)),
    }


def progress(exchange: Told, context: int) -> dict[str, Any]:
    """Where the request stands, for a phase line that always moves.

    phase: queued, reading (the prompt), thinking, answering or done; of several choices, the one that is least far.
    """
    clock, choices = exchange.clock, exchange.choices
    output, first = _output_tokens(exchange), choices[0]
    reasoning = sum(choice.reasoning_tokens for choice in choices)
    return {
        "phase": min((choice.phase for choice in choices), key=PHASES.index),
        "elapsed_s": round(clock.until(None), 3),
        "queued_s": round(clock.until(clock.begun), 3),
        "time_to_first_token_ms": _ms(clock.until(clock.first_token)) if clock.first_token is not None else None,
        "prompt_tokens": len(first.request.prompt_token_ids),
        "prompt_done": first.read_tokens,
        "cached_tokens": first.cached_tokens,
        "reasoning_tokens": reasoning,
        "answer_tokens": output - reasoning,
        "tokens_per_second": timings(exchange)["predicted_per_second"],
        "context": context,
        "context_used": len(first.request.prompt_token_ids) + len(first.token_ids),
    }


def chat_choice(choice: Choice, tokenizer: Tokenizer) -> dict[str, Any]:
    """One finished choice of a chat reply."""
    message: dict[str, Any] = {"role": "assistant", "content": choice.content, "refusal": None}
    thought = choice.reasoning if choice.reasoning_tokens else None
    message |= {"reasoning_content": thought, "reasoning": thought}
    logprobs = chat_logprobs(choice, tokenizer) if choice.request.params.logprobs is not None else None
    return {"index": choice.index, "message": message, "logprobs": logprobs, "finish_reason": choice.finish_reason}


def chat_deltas(delta: Delta, tokenizer: Tokenizer, *, logprobs: bool) -> list[dict[str, Any]]:
    """The chunk choices for one delta: thinking and answer never share a chunk, the end comes in its own."""
    texts: list[dict[str, str]] = []
    if delta.reasoning:
        texts.append({"reasoning_content": delta.reasoning, "reasoning": delta.reasoning})
    if delta.content:
        texts.append({"content": delta.content})
    has_logprobs = logprobs and bool(delta.reasoning_logprobs or delta.content_logprobs)
    if has_logprobs and not texts:
        texts.append({})  # a token without text yet, such as the first bytes of a character
    parts = [chunk_choice(delta.index, text) for text in texts]
    if has_logprobs:
        parts[-1]["logprobs"] = chat_logprobs(delta, tokenizer)
    if delta.finish_reason is not None:
        parts.append(chunk_choice(delta.index, {}, delta.finish_reason))
    return parts


def as_delta(choice: Choice, *, logprobs: bool) -> Delta:
    """A whole choice as the only piece of a streamed reply."""
    whole = Delta(0, choice.reasoning, choice.content, finish_reason=choice.finish_reason)
    if logprobs:
        whole.reasoning_logprobs, whole.content_logprobs = choice.reasoning_logprobs, choice.content_logprobs
    return whole


def chunk_choice(index: int, delta: dict[str, str], finish_reason: str | None = None) -> dict[str, Any]:
    """One choice of a chat chunk."""
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}


def chat_logprobs(source: Choice | Delta, tokenizer: Tokenizer) -> dict[str, Any]:
    """Log-probabilities in the chat shape; those of the thinking stand beside the answer's, as DeepSeek does."""
    return {
        "content": [_logprob(item, tokenizer) for item in source.content_logprobs],
        "refusal": None,
        "reasoning_content": [_logprob(item, tokenizer) for item in source.reasoning_logprobs],
    }


def text_choice(index: int, text: str, finish_reason: str | None, logprobs: dict[str, Any] | None) -> dict[str, Any]:
    """One choice of a plain completion, whole or a piece."""
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}


def text_logprobs(items: Sequence[TokenLogprob], tokenizer: Tokenizer, offset: int) -> dict[str, Any]:
    """Log-probabilities in the old completions shape; `offset`: characters that came before."""
    tokens = [tokenizer.decode([item.token_id]) for item in items]
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token)
    top = [{tokenizer.decode([token]): value for token, value in item.top} for item in items]
    return {
        "tokens": tokens,
        "token_logprobs": [item.logprob for item in items],
        "top_logprobs": top,
        "text_offset": offsets,
    }


def _logprob(item: TokenLogprob, tokenizer: Tokenizer) -> dict[str, Any]:
    top = [_named(token, value, tokenizer) for token, value in item.top]
    return _named(item.token_id, item.logprob, tokenizer) | {"top_logprobs": top}


def _named(token: int, logprob: float, tokenizer: Tokenizer) -> dict[str, Any]:
    # OpenAI's own floor for what cannot happen: JSON has no -inf.
    value = max(logprob, -9999.0)
    return {"token": tokenizer.decode([token]), "logprob": value, "bytes": list(tokenizer.token_bytes(token))}


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


def _rate(count: int, seconds: float) -> float | None:
    return round(count / seconds, 3) if count > 0 and seconds > 0 else None
