"""The limits that a Scheduler keeps."""

from __future__ import annotations

from dataclasses import dataclass

from fathom.errors import ConfigError


@dataclass(frozen=True)
class SchedulerConfig:
    """Limits of a step and of the cache.

    Fields: max_batch_tokens: tokens computed in a step. max_sequences: sequences in a step. page_tokens: tokens in a
            page. num_pages: pages in the cache. max_context_tokens: longest prompt with its output, as the model
            allows; None if only the cache limits it. priority_steps: a request of priority p is ranked as if it had
            arrived p * priority_steps steps later. max_stretch: how much longer than its decodes alone a step may
            take to read prompts, inf for no limit. min_chunk_tokens: prompt tokens a step may read in any case.
            spill_slots: pages that the spill file holds, 0 for no file. numerics: names the arithmetic; latents
            are shared only where it is the same.
    """

    max_batch_tokens: int = 512
    max_sequences: int = 32
    page_tokens: int = 16
    num_pages: int = 512
    max_context_tokens: int | None = None
    priority_steps: int = 1000
    max_stretch: float = 2.0
    min_chunk_tokens: int = 1
    spill_slots: int = 0
    numerics: str = ""

    def __post_init__(self) -> None:
        for name in (
            "max_batch_tokens", "max_sequences", "page_tokens", "num_pages", "priority_steps", "max_stretch",
            "min_chunk_tokens",
        ):  # fmt: skip
            if not getattr(self, name) >= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if self.max_batch_tokens < self.max_sequences:
            raise ConfigError(
                f"max_batch_tokens is {self.max_batch_tokens}, less than max_sequences = {self.max_sequences}; a step "
                "must hold one token of every sequence. Raise the first or lower the second."
            )

    @property
    def context_tokens(self) -> int:
        """The longest prompt with its output that one request may have."""
        cached = self.num_pages * self.page_tokens
        return cached if self.max_context_tokens is None else min(cached, self.max_context_tokens)
