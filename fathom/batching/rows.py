"""How a sequence stands in messages: its Row in a Plan, and its Output after one."""

from __future__ import annotations

from fathom.batching.plan import Row, Sampled, Sampling
from fathom.batching.request import Output, Sequence
from fathom.batching.tables import PageTables

MOST_UNREAD = 8  # tokens, or one in so many, that MTP may have missed of a text


def knows(sequence: Sequence) -> bool:
    """Whether MTP has read enough of a text to guess on it: of one that it hardly knows it guesses badly."""
    return sequence.unread <= max(MOST_UNREAD, sequence.computed // MOST_UNREAD)


def row_of(sequence: Sequence, count: int, tables: PageTables, max_drafts: int = 0) -> Row:
    """Its next `count` tokens, guesses included.

    Args: max_drafts: guesses to ask for in return, as far as tokens and pages allow and MTP knows the text.
    """
    start, known, pages = sequence.computed, len(sequence.tokens), tables.table(sequence)
    end = start + count
    if end < known:
        after = sequence.tokens[end] if max_drafts else None
        return Row(sequence.request.id, tuple(sequence.tokens[start:end]), start, pages, next_token_id=after)
    params = sequence.request.params
    sampling = Sampling(
        position=known,
        params=params,
        thinking_left=sequence.thinking_left,
        prompt_ids=sequence.request.prompt_token_ids if params.penalises_prompt else (),
        output_ids=tuple(sequence.tokens[sequence.prompt_tokens :]) if params.penalises_output else (),
    )
    guesses = sequence.drafts[: end - known]
    propose = 0
    if count and max_drafts and knows(sequence):
        propose = max(0, min(max_drafts, sequence.room - 2, tables.slots(sequence) - count + 1))
    tokens = (*sequence.tokens[start:], *guesses)
    return Row(sequence.request.id, tokens, start, pages, sampling, len(guesses), propose)


def output_of(sequence: Sequence, answer: Sampled | None = None, taken: int = 0, drafts: int = 0) -> Output:
    """Where it stands now, after the first `taken` tokens of an answer to a row with `drafts` guesses."""
    return Output(
        request_id=sequence.request.id,
        token_ids=() if answer is None else answer.token_ids[:taken],
        finish_reason=sequence.finish_reason,
        read_tokens=min(sequence.computed, sequence.prompt_tokens),
        cached_tokens=sequence.cached_tokens,
        logprobs=() if answer is None else answer.logprobs[:taken],
        accepted_drafts=max(0, taken - 1),
        rejected_drafts=drafts - max(0, taken - 1),
        disk_tokens=sequence.disk_tokens,
    )
