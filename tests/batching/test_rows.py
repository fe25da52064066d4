"""A row says what is computed and what is asked for; an output says what came of it."""

import pytest

from fathom.batching.plan import Sampled
from fathom.batching.request import Sequence, ThinkingParams, TokenLogprob
from fathom.batching.rows import output_of, row_of
from fathom.batching.tables import PageTables
from tests.batching.remembering import request

TABLES = PageTables(8, 4)


def sequence(tokens, computed=0, output=(), **params):
    asked = request("a", tokens, **{"max_tokens": 8, **params})
    return Sequence(asked, (0, 0), [*tokens, *output], pages=[5, 2, 7], computed=computed)


def test_a_chunk_of_a_prompt_samples_nothing():
    row = row_of(sequence(range(9), computed=2), 3, TABLES)
    assert (row.token_ids, row.start, row.pages, row.sampling) == ((2, 3, 4), 2, (5, 2, 7), None)
    assert row.next_token_id is None
    assert row_of(sequence(range(9), computed=2), 3, TABLES, max_drafts=1).next_token_id == 5


def test_the_last_known_token_samples_the_next():
    row = row_of(sequence([1, 2], 3, [3, 4]), 1, TABLES)
    assert (row.token_ids, row.start, row.sampling.position) == ((4,), 3, 4)
    assert (row.sampling.prompt_ids, row.sampling.output_ids) == ((), ())


def test_penalties_carry_the_tokens_so_far():
    sampling = row_of(sequence([1, 2], 3, [3, 4], repetition_penalty=2.0), 1, TABLES).sampling
    assert (sampling.prompt_ids, sampling.output_ids) == ((1, 2), (3, 4))


def test_guesses_follow_the_last_token_and_more_are_asked_for():
    each = sequence([1, 2], 3, [3, 4])
    each.drafts = (5, 6, 7)
    row = row_of(each, 3, TABLES, max_drafts=4)
    assert (row.token_ids, row.drafts, row.propose) == ((4, 5, 6), 2, 4)
    assert (
        row_of(sequence([1, 2], 3, [3, 4], max_tokens=3), 1, TABLES, max_drafts=4).propose == 0
    )  # one more is the last
    assert (
        row_of(sequence(range(11)), 11, TABLES, max_drafts=4).propose == 2
    )  # twelve slots; the first guess needs none


def test_a_sibling_that_joins_computes_nothing_and_guesses_nothing():
    row = row_of(sequence([1, 2], computed=2), 0, TABLES, max_drafts=4)
    assert (row.token_ids, row.start, row.sampling.position, row.propose) == ((), 2, 2, 0)


def test_the_thinking_budget_travels_along():
    assert row_of(sequence([1], thinking=ThinkingParams(9, 5)), 1, TABLES).sampling.thinking_left == 5


@pytest.mark.parametrize(("taken", "accepted", "rejected"), [(1, 0, 2), (2, 1, 1), (3, 2, 0)])
def test_an_output_counts_the_guesses_that_came_true(taken, accepted, rejected):
    logprobs = tuple(TokenLogprob(token_id, -1.0) for token_id in (4, 5, 6))
    output = output_of(sequence([1, 2], computed=4), Sampled((4, 5, 6), logprobs), taken, drafts=2)
    assert output.token_ids == (4, 5, 6)[:taken]
    assert output.logprobs == logprobs[:taken]
    assert (output.accepted_drafts, output.rejected_drafts) == (accepted, rejected)
    assert output.read_tokens == 2


def test_an_output_without_an_answer_tells_how_much_was_read():
    each = sequence(range(9), computed=6)
    each.cached_tokens = 4
    assert output_of(each) == output_of(each, None, 0, 0)
    assert (output_of(each).token_ids, output_of(each).read_tokens, output_of(each).cached_tokens) == ((), 6, 4)
