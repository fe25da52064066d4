"""What k samples are worth, estimated from n: one is right (pass@k), or the most frequent answer is (majority@k).

Both are means over all subsets of k of the n samples, without drawing any: unbiased, and of less variance than trying.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy

from fathom.errors import InputError


def pass_at(n: int, right: int, k: int) -> float:
    """Chance that k of n samples, of which so many are right, hold a right one: 1 - C(n - right, k) / C(n, k).

    A checker that knows a right answer when it sees one picks it, so this is also the accuracy of best-of-k with it.
    Source: Chen et al. 2021, arXiv:2107.03374, equation 1.
    """
    if not (1 <= k <= n and 0 <= right <= n):
        raise InputError(f"pass@{k} of {right} right among {n} samples; k must be 1 to n, and right 0 to n.")
    return 1 - math.comb(n - right, k) / math.comb(n, k)


def majority_at(right: Sequence[int], wrong: Sequence[int], abstained: int, ks: Sequence[int]) -> list[float]:
    """Chance, for each k, that the answer given most often by k of the samples is right.

    A tie goes to each of its answers alike, as it does to the one given first. If all k abstain, that is wrong.

    Args: right, wrong: how many samples gave each distinct answer. abstained: samples without an answer, with no vote.
    """
    n, most = sum(right) + sum(wrong) + abstained, max(ks)
    if min(ks) < 1 or most > n:
        raise InputError(f"majority@{min(ks)} to @{most} of {n} samples; k must be 1 to {n}.")
    chances = [0.0] * len(ks)
    for votes in range(1, min(most, max((*right, *wrong), default=0)) + 1):
        ways, winning = _won_with(votes, right, wrong, abstained, most)
        tied = numpy.arange(1, ways.shape[1])
        for i, k in enumerate(ks):
            chances[i] += float((winning[k, 1:] / tied).sum()) / math.comb(n, k)
    return chances


def _won_with(
    votes: int, right: Sequence[int], wrong: Sequence[int], abstained: int, most: int
) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Subsets in which no answer has more than so many votes, by size and by how many answers have just so many: their
    number, and the sum over them of how many of those answers are right. Both [sizes up to most, ties]."""
    ways = numpy.zeros((most + 1, most // votes + 1))
    ways[0, 0] = 1.0
    winning = numpy.zeros_like(ways)
    classes = [(count, True) for count in right] + [(count, False) for count in wrong]
    for count, is_right in classes:
        next_ways, next_winning = numpy.zeros_like(ways), numpy.zeros_like(ways)
        for taken in range(min(count, votes, most) + 1):
            among = float(math.comb(count, taken))
            rows = most + 1 - taken
            if taken < votes:
                next_ways[taken:] += among * ways[:rows]
                next_winning[taken:] += among * winning[:rows]
            else:
                next_ways[taken:, 1:] += among * ways[:rows, :-1]
                next_winning[taken:, 1:] += among * (winning[:rows, :-1] + (ways[:rows, :-1] if is_right else 0.0))
        ways, winning = next_ways, next_winning
    alone = [float(math.comb(abstained, taken)) for taken in range(min(abstained, most) + 1)]
    return _spread(ways, alone), _spread(winning, alone)


def _spread(table: numpy.ndarray, alone: Sequence[float]) -> numpy.ndarray:
    """The table once abstaining samples have joined, in every number."""
    joined = numpy.zeros_like(table)
    for taken, among in enumerate(alone):
        joined[taken:] += among * table[: len(table) - taken]
    return joined
