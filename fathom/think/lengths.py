"""How well the length that was used follows the length that was asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import StatisticsError, correlation

from fathom.errors import InputError


@dataclass(frozen=True)
class Obedience:
    """Asked against used, over n thoughts. spearman: None if all were asked, or used, alike.

    relative_error: mean of |used - asked| / asked.
    """

    n: int
    spearman: float | None
    relative_error: float


def obedience(asked: Sequence[float], used: Sequence[float]) -> Obedience:
    """Rank correlation and mean relative error of pairs of lengths [tokens]."""
    if not asked or len(asked) != len(used) or min(asked) <= 0:
        raise InputError(f"{len(asked)} lengths asked for, {len(used)} used; there must be pairs, all asked above 0.")
    error = math.fsum(abs(u - a) / a for a, u in zip(asked, used, strict=True)) / len(asked)
    return Obedience(len(asked), spearman(asked, used), error)


def spearman(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Correlation of ranks, equal values sharing the mean of theirs; None if it is not defined."""
    try:
        return correlation(ranks(x), ranks(y))
    except StatisticsError:
        return None


def ranks(values: Sequence[float]) -> list[float]:
    """1 for the smallest; equal values have the mean of the ranks they take up."""
    order = sorted(range(len(values)), key=values.__getitem__)
    found = [0.0] * len(values)
    begin = 0
    while begin < len(order):
        end = begin
        while end < len(order) and values[order[end]] == values[order[begin]]:
            end += 1
        for i in order[begin:end]:
            found[i] = (begin + 1 + end) / 2
        begin = end
    return found
