"""The Plan: everything one step of the engine does, as one immutable message; and its answer, Sampled.

A Plan is complete: whoever holds the model and the cache can execute it without asking the scheduler anything.
Executing the same Plan twice gives the same result. Encode with `msgspec.msgpack.encode`, decode with `type=Plan`.
"""

from __future__ import annotations

import msgspec

from fathom.batching.request import SamplingParams, TokenLogprob


class Sampling(msgspec.Struct, frozen=True, omit_defaults=True):
    """The state a row needs to choose its next token; `after` it, the state to choose the one that follows.

    Fields: position: where the new token will stand; with `params.seed` it keys the noise. thinking_left: tokens that
            the thinking budget still allows; None once nothing limits it. prompt_ids, output_ids: filled only for
            penalties that look at them.
    """

    position: int
    params: SamplingParams
    thinking_left: int | None = None
    prompt_ids: tuple[int, ...] = ()
    output_ids: tuple[int, ...] = ()

    @property
    def forced_token_id(self) -> int | None:
        """Take this token whatever the logits say: the end of thinking, once the budget is spent."""
        thinking = self.params.thinking
        return thinking.end_think_id if thinking is not None and self.thinking_left == 0 else None

    @property
    def banned_token_id(self) -> int | None:
        """Never take this token: it would begin another thought."""
        return None if self.params.thinking is None else self.params.thinking.think_id

    def after(self, token_id: int) -> Sampling:
        """The state at the next position, if `token_id` stands at this one."""
        left, thinking = self.thinking_left, self.params.thinking
        if left is not None:
            ended = thinking is None or token_id == thinking.end_think_id
            left = None if ended else max(0, left - 1)
        seen = (*self.output_ids, token_id) if self.params.penalises_output else ()
        return Sampling(self.position + 1, self.params, left, self.prompt_ids, seen)


class Row(msgspec.Struct, frozen=True, omit_defaults=True):
    """One sequence in a step: compute `token_ids`, the first of which stands at position `start`.

    Without tokens it is a sibling of the row before it: nothing to compute, the same place to sample from.

    Fields: pages: the sequence's page table; position p lies in pages[p // page_tokens]. sampling: set when the last
            known token is among these, so that the step also chooses the next one. drafts: how many of the last
            token_ids are guesses, to be compared with what is chosen at their positions. propose: guesses to make for
            the next step. next_token_id: what follows token_ids, where that is known and will be needed for guesses.
    """

    request_id: str
    token_ids: tuple[int, ...]
    start: int
    pages: tuple[int, ...]
    sampling: Sampling | None = None
    drafts: int = 0
    propose: int = 0
    next_token_id: int | None = None


class Plan(msgspec.Struct, frozen=True, omit_defaults=True):
    """One step: moves of whole pages, in the order of the fields, then the rows: decodes, then chunks of prefill.

    Fields: spills: (page, slot of the file) to write; spill_names: what each of these pages holds. copies: (page, page)
            from, to. restores: (slot, page) to read back. preempted: those that lost their pages to this step.
            predicted_s: how long it should take, 0 if nobody can tell. limit_s: how long it may take for the sake of
            its decodes, which limits the prompts in it; 0 is no limit.
    """

    step: int
    rows: tuple[Row, ...] = ()
    spills: tuple[tuple[int, int], ...] = ()
    spill_names: tuple[bytes, ...] = ()
    copies: tuple[tuple[int, int], ...] = ()
    restores: tuple[tuple[int, int], ...] = ()
    preempted: tuple[str, ...] = ()
    predicted_s: float = 0.0
    limit_s: float = 0.0

    @property
    def num_tokens(self) -> int:
        return sum([len(row.token_ids) for row in self.rows])

    @property
    def sampling_rows(self) -> tuple[Row, ...]:
        """Those rows that choose a token, in order: one Sampled is due for each."""
        return tuple([row for row in self.rows if row.sampling is not None])

    @property
    def forwards(self) -> tuple[int, int]:
        """How many forwards executing it takes: of the main model, and of MTP modules."""
        if not any(row.token_ids for row in self.rows):
            return 0, 0
        return 1, max([1, *(row.propose for row in self.rows)]) if self.reads_ahead else 0

    @property
    def reads_ahead(self) -> bool:
        """Whether guesses are made, or will be: then the drafter reads every token that this step makes certain."""
        return any(row.propose or row.next_token_id is not None for row in self.rows)


class Sampled(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer to one sampling row.

    Fields: token_ids: what was chosen: the guesses that came true, then one more token. logprobs: one for each if
            asked for, else empty. drafts: guesses for the tokens after these, `Row.propose` of them.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] = ()
    drafts: tuple[int, ...] = ()
