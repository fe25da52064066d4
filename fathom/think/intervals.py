"""How sure a measured proportion is, alone and against another on the same problems."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy

from fathom.errors import InputError

Z_95 = 1.959964  # two-sided 95 % of the normal distribution
RESAMPLES = 10_000


def wilson(correct: float, n: int) -> tuple[float, float]:
    """95 % interval of a proportion (Wilson 1927): honest at 0 %, at 100 % and for few trials.

    Args: correct: whole for single answers; the sum of the problems' own rates where each was sampled several times,
          which errs on the wide side.
    """
    if n < 1 or not 0 <= correct <= n:
        raise InputError(f"correct is {correct} of {n}; n must be at least 1 and correct between 0 and n.")
    rate, z2 = correct / n, Z_95**2
    centre = (rate + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 / (1 + z2 / n) * math.sqrt(rate * (1 - rate) / n + z2 / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


@dataclass(frozen=True)
class Paired:
    """Two models on the same n problems. difference: accuracy of b less that of a, with its 95 % interval.

    a_only, b_only: problems that one of them got right more often. p: of McNemar's exact test that neither is better;
    None where problems were sampled several times.
    """

    n: int
    a: float
    b: float
    difference: float
    low: float
    high: float
    a_only: int
    b_only: int
    p: float | None


def paired(a: Sequence[float], b: Sequence[float]) -> Paired:
    """Compare the rates, 0 to 1, at which a and b solved each of the same problems, in the same order.

    Single answers have Newcombe's interval (1998, paired data, method 10), which stays honest with few or no
    disagreements; several samples a problem have a bootstrap over problems.
    """
    if not a or len(a) != len(b):
        raise InputError(f"{len(a)} results are paired with {len(b)}; both must be of the same problems, at least one.")
    n, rates = len(a), (math.fsum(a) / len(a), math.fsum(b) / len(b))
    a_only = sum(x > y for x, y in zip(a, b, strict=True))
    b_only = sum(y > x for x, y in zip(a, b, strict=True))
    if {*a, *b} <= {0, 1}:
        both = sum(x == y == 1 for x, y in zip(a, b, strict=True))
        low, high = newcombe(both, a_only, b_only, n - both - a_only - b_only)
        p = mcnemar(a_only, b_only)
    else:
        low, high = bootstrap([y - x for x, y in zip(a, b, strict=True)])
        p = None
    return Paired(n, *rates, rates[1] - rates[0], low, high, a_only, b_only, p)


def mcnemar(a_only: int, b_only: int) -> float:
    """Exact two-sided p: how often a fair coin splits the disagreements so unevenly."""
    m, least = a_only + b_only, min(a_only, b_only)
    return min(1.0, 2 * sum(math.comb(m, i) for i in range(least + 1)) / 2**m)


def newcombe(both: int, a_only: int, b_only: int, neither: int) -> tuple[float, float]:
    """95 % interval of rate b less rate a, from the four counts of paired answers.

    Source: Newcombe 1998, Statistics in Medicine 17:2635, method 10: the two Wilson intervals, joined by the
    correlation phi of the pairs, its numerator brought nearer to 0 by n/2 where it is positive.
    """
    n = both + a_only + b_only + neither
    p_a, p_b = (both + a_only) / n, (both + b_only) / n
    (low_a, high_a), (low_b, high_b) = wilson(both + a_only, n), wilson(both + b_only, n)
    product = (both + a_only) * (b_only + neither) * (both + b_only) * (a_only + neither)
    numerator: float = both * neither - a_only * b_only
    if numerator > 0:
        numerator = max(0.0, numerator - n / 2)
    phi = numerator / math.sqrt(product) if product else 0.0

    def distance(down: float, up: float) -> float:
        return math.sqrt(max(0.0, down**2 - 2 * phi * down * up + up**2))

    difference = p_b - p_a
    return difference - distance(p_b - low_b, high_a - p_a), difference + distance(high_b - p_b, p_a - low_a)


def bootstrap(values: Sequence[float]) -> tuple[float, float]:
    """95 % percentile interval of the mean, over resamples of the values; the same values give the same interval."""
    counts = Counter(values)
    chance = [count / len(values) for count in counts.values()]
    drawn = numpy.random.default_rng(0).multinomial(len(values), chance, RESAMPLES)
    means = drawn @ numpy.array(list(counts)) / len(values)
    low, high = numpy.quantile(means, (0.025, 0.975))
    return float(low), float(high)
