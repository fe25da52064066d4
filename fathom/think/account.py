"""What answering one request took: tokens, seconds, FLOPs, latents held, money. Counted from token ids and clocks.

    Account.of(config, [Work(...), ...], seconds=..., prices=Prices(per_hour=2.0))

Siblings share one prompt: it counts once, and its latents are held once, for as long as one of them runs. FLOPs are
those of fathom.cost: prompts in the expanded form, output in the absorbed form, guesses that proved wrong included; the
last token of a reply is never computed further. Prices are the caller's; there are none in this package.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fathom.config import ModelConfig
from fathom.cost import decode_flops, prefill_flops
from fathom.errors import ConfigError


@dataclass(frozen=True)
class Prices:
    """What the machine costs per hour, or what tokens cost per million, in any currency; None: not known."""

    per_hour: float | None = None
    per_million_prompt: float | None = None
    per_million_output: float | None = None

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"price {name} is {value}; it must be a finite number of at least 0.")
        if self.per_hour is not None and (self.per_million_prompt, self.per_million_output) != (None, None):
            raise ConfigError("a price per hour and prices per million tokens were given; only one of them can count.")

    def cost(self, prompt_tokens: int, output_tokens: int, seconds: float) -> float | None:
        """The money; None without prices. By the hour: as if the request had the machine for itself."""
        if self.per_hour is not None:
            return seconds * self.per_hour / 3600
        if self.per_million_prompt is None and self.per_million_output is None:
            return None
        prompt, output = self.per_million_prompt or 0.0, self.per_million_output or 0.0
        return (prompt_tokens * prompt + output_tokens * output) / 1e6


@dataclass(frozen=True)
class Work:
    """One sample. cached_tokens: of the prompt, found and not computed. thinking_tokens: between the markers.
    output_tokens: everything generated. wrong_guesses: tokens guessed ahead in vain. begun_s, first_s, end_s: when it
    first ran, when its first token came and its last, on one clock."""

    prompt: tuple[int, ...]
    cached_tokens: int
    thinking_tokens: int
    output_tokens: int
    wrong_guesses: int
    begun_s: float
    first_s: float
    end_s: float
    aborted: bool = False


@dataclass(frozen=True)
class Account:
    """All samples of one request together. kv_token_seconds: tokens whose latents were held, times how long, as if the
    tokens of a reply had come evenly [token s]; kv_byte_seconds: the same in bytes, where their size is known.
    cost: in the currency of the price, None without one."""

    samples: int
    aborted: int
    prompt_tokens: int
    computed_prompt_tokens: int
    thinking_tokens: int
    answer_tokens: int
    completion_tokens: int
    seconds: float
    flops: float
    kv_token_seconds: float
    kv_byte_seconds: float | None = None
    cost: float | None = None

    @classmethod
    def of(
        cls, config: ModelConfig, works: Sequence[Work], seconds: float, prices: Prices | None = None,
        bytes_per_token: int | None = None,
    ) -> Account:  # fmt: skip
        """Args: bytes_per_token: of latent cache. answer_tokens are all that are not thought, markers included."""
        prompts: dict[tuple[int, ...], list[Work]] = {}
        for work in works:
            prompts.setdefault(work.prompt, []).append(work)
        read, found = sum(map(len, prompts)), sum(_cached(siblings) for siblings in prompts.values())
        output, thinking = sum(work.output_tokens for work in works), sum(work.thinking_tokens for work in works)
        held = sum(_held(siblings) for siblings in prompts.values())
        return cls(
            samples=len(works),
            aborted=sum(work.aborted for work in works),
            prompt_tokens=read,
            computed_prompt_tokens=read - found,
            thinking_tokens=thinking,
            answer_tokens=output - thinking,
            completion_tokens=output,
            seconds=seconds,
            flops=sum(_flops(config, siblings) for siblings in prompts.values()),
            kv_token_seconds=held,
            kv_byte_seconds=None if bytes_per_token is None else held * bytes_per_token,
            cost=(prices or Prices()).cost(read, output, seconds),
        )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def _cached(siblings: Iterable[Work]) -> int:
    """Tokens of their one prompt that were found; the others find what the first one leaves."""
    begun = [work.cached_tokens for work in siblings if work.output_tokens]
    return min(begun or [work.cached_tokens for work in siblings])


def _flops(config: ModelConfig, siblings: Sequence[Work]) -> float:
    prompt, cached = len(siblings[0].prompt), _cached(siblings)
    read = prompt - cached
    flops = prefill_flops(config, read, cached) * read if read else 0.0
    for work in siblings:
        rows = max(0, work.output_tokens - 1) + work.wrong_guesses
        if rows:  # affine in the context: the mean of all steps is a step at the mean
            flops += rows * decode_flops(config, prompt + work.output_tokens // 2)
    return flops


def _held(siblings: Sequence[Work]) -> float:
    span = max(work.end_s for work in siblings) - min(work.begun_s for work in siblings)
    grown = sum(work.output_tokens * (work.end_s - work.first_s) / 2 for work in siblings)
    return len(siblings[0].prompt) * span + grown
