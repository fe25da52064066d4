"""The Plan: everything one step of the engine does, as one immutable message; and its answer, Sampled.

A Plan is complete: whoever holds the model and the cache can execute it without asking the scheduler anything.
Executing the same Plan twice gives the same result. Encode with `msgspec.msgpack.encode`, decode with `type=Plan`.
"""

from __future__ import annotations

import msgspec

from fathom.batching.request import SamplingParams, TokenLogprob


class Sampling(msgspec.Struct, frozen=True, omit_defaults=True):
    """The state a row needs to choose its next token.

    Fields: position: where the new token will stand; with `params.seed` it keys the noise. forced_token_id: take
            this token whatever the logits say. prompt_ids, output_ids: filled only for penalties that look at them.
    """

    position: int
    params: SamplingParams
    forced_token_id: int | None = None
    prompt_ids: tuple[int, ...] = ()
    output_ids: tuple[int, ...] = ()


class Row(msgspec.Struct, frozen=True, omit_defaults=True):
    """One sequence in a step: compute `token_ids`, the first of which stands at position `start`.

    Without tokens it is a sibling of the row before it: nothing to compute, the same place to sample from.

    Fields: pages: the sequence's page table; position p lies in pages[p // page_tokens]. sampling: set when these
            are the last known tokens, so that the step also chooses the next one.
    """

    request_id: str
    token_ids: tuple[int, ...]
    start: int
    pages: tuple[int, ...]
    sampling: Sampling | None = None


class Plan(msgspec.Struct, frozen=True, omit_defaults=True):
    """One step: moves of whole pages, in the order of the fields, then the rows: decodes, then chunks of prefill.

    Fields: spills: (page, slot of the spill file) to write. copies: (page, page) from, to. restores: (slot, page) to
            read back. preempted: those that lost their pages to this step. predicted_s: how long it should take, 0 if
            nobody can tell. limit_s: how long it may take for the sake of its decodes, which limits the prompts
            in it; 0 is no limit.
    """

    step: int
    rows: tuple[Row, ...] = ()
    spills: tuple[tuple[int, int], ...] = ()
    copies: tuple[tuple[int, int], ...] = ()
    restores: tuple[tuple[int, int], ...] = ()
    preempted: tuple[str, ...] = ()
    predicted_s: float = 0.0
    limit_s: float = 0.0

    @property
    def num_tokens(self) -> int:
        return sum(len(row.token_ids) for row in self.rows)

    @property
    def samplings(self) -> tuple[Sampling, ...]:
        """Those rows' sampling states that sample, in order: one Sampled is due for each."""
        return tuple(row.sampling for row in self.rows if row.sampling is not None)


class Sampled(msgspec.Struct, frozen=True, omit_defaults=True):
    """The token chosen for one sampling row, with its log-probability if that was asked for."""

    token_id: int
    logprob: TokenLogprob | None = None
