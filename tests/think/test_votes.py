"""The vote's result depends on the samples alone: not on the order in which they end, nor on stopping early."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fathom.batching.request import TokenLogprob
from fathom.errors import InputError
from fathom.think.votes import Best, Vote, mean_logprob, normalised


def plainly_elected(keys: list[str | None]) -> int:
    """Most votes; of equals, whoever was named first; the first of all if nobody voted."""
    counts = Counter(key for key in keys if key is not None)
    if not counts:
        return 0
    best = max(counts.values())
    return next(i for i, key in enumerate(keys) if key is not None and counts[key] == best)


ballots = st.lists(st.sampled_from(["a", "b", "c", None]), min_size=1, max_size=9)


@settings(max_examples=150)
@given(ballots, st.randoms(use_true_random=False))
def test_stopping_early_never_changes_the_winner(keys: list[str | None], rng) -> None:
    """Samples end in any order; those that are not wanted never do."""
    vote, running = Vote(len(keys)), set(range(len(keys)))
    while running:
        ended = rng.choice(sorted(running))
        vote.add(ended, keys[ended])
        running = set(vote.wanted)
    assert vote.winner == plainly_elected(keys)


@settings(max_examples=80)
@given(ballots, st.randoms(use_true_random=False))
def test_it_is_decided_exactly_when_no_ending_could_change_the_answer(keys: list[str | None], rng) -> None:
    """Against all endings there are, tried one by one, for as many open samples as that takes no time."""
    order = rng.sample(range(len(keys)), len(keys))
    over = order[: max(0, len(keys) - 3)]
    vote = Vote(len(keys))
    for index in over:
        vote.add(index, keys[index])
    still_open = [index for index in range(len(keys)) if index not in over]

    def endings(at: int, filled: list[str | None]) -> set[str | None]:
        if at == len(still_open):
            return {filled[plainly_elected(filled)]}
        found: set[str | None] = set()
        for key in ("a", "b", "c", "none of them", None):
            filled[still_open[at]] = key
            found |= endings(at + 1, filled)
        return found

    assert vote.decided == (len(endings(0, [keys[i] if i in over else None for i in range(len(keys))])) == 1)


def test_three_of_five_are_enough() -> None:
    vote = Vote(5)
    for index, key in ((4, "7"), (2, "7"), (3, "7")):
        assert not vote.decided and set(vote.wanted) == set(range(5)) - set(vote._keys)
        vote.add(index, key)
    assert vote.decided and vote.wanted == (0, 1), "they might give the same answer, and the first with it is shown"
    vote.add(1, "7")
    assert (vote.winner, vote.wanted, vote.counts) == (1, (0,), {"7": 4})


def test_who_has_no_answer_does_not_vote() -> None:
    vote = Vote(3)
    for index, key in enumerate((None, None, "x")):
        vote.add(index, key)
    assert (vote.winner, vote.counts) == (2, {"x": 1})
    silent = Vote(2)
    silent.add(1, None)
    assert (silent.winner, silent.decided, silent.wanted) == (1, False, (0,))


@pytest.mark.parametrize("election", [Vote, Best])
def test_bad_counting_is_refused(election: type[Vote] | type[Best]) -> None:
    with pytest.raises(InputError, match="at least 1"):
        election(0)
    two = election(2)
    two.add(0, None)
    for index in (0, 2, -1):
        with pytest.raises(InputError, match="0 to 1"):
            two.add(index, None)


def test_the_best_is_the_first_with_the_highest_score() -> None:
    best = Best(4)
    for index, score in ((3, 0.5), (1, 0.5), (2, None)):
        best.add(index, score)
        assert not best.decided
    assert (best.winner, best.wanted) == (1, (0,))
    best.add(0, 0.25)
    assert best.winner == 1 and best.decided


def test_a_perfect_score_ends_the_search_but_for_earlier_ones() -> None:
    best = Best(4, target=1.0)
    best.add(2, True)
    assert best.decided and best.wanted == (0, 1)
    best.add(0, False)
    best.add(1, 1.0)
    assert (best.winner, best.wanted) == (1, ())


@pytest.mark.parametrize(
    ("texts", "key"),
    [
        (["3341", " 3341. ", "**3341**", "3341。", "`3341`", "３３４１"], "3341"),
        (["Yes", "yes.", "YES"], "yes"),
        (["The answer is \\boxed{1  2}.", "\\boxed{9}, no: \\boxed{1 2}"], "1 2"),
        (["-5", "-5."], "-5"),
        (["0.5"], "0.5"),
        (["", " \n", "**"], None),
    ],
)
def test_answers_that_say_the_same_are_one(texts: list[str], key: str | None) -> None:
    assert {normalised(text) for text in texts} == {key}


def test_the_mean_leaves_markers_out() -> None:
    items = [TokenLogprob(5, -1.0), TokenLogprob(6, -9.0), TokenLogprob(7, -2.0)]
    assert mean_logprob(items, {6}) == -1.5
    assert mean_logprob(items[1:2], {6}) is None
