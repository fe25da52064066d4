"""A sum of parts, each of whose speeds is uncertain, fitted to a few measured sums; and where to measure next.

    log seconds = log(sum of exp(factor) * part) + what the sum misses

Factors are logarithms around 0, where a part takes what kernels say. All errors are relative: a long step is not worth
more than a short one. The fit is the mode of the posterior; its covariance is Laplace's. What the sum misses is judged
at each point as if it had been left out. As the parts grow with the work, so does every prediction.

Points to measure are chosen for the largest entropy of what they would show. That is D-optimal in the factors; and as
what the sum misses is taken to be alike for steps that are alike, it keeps points apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fathom.errors import ConfigError

Array = NDArray[np.float64]
SPREAD, SPREAD_DOF = 0.06, 4.0  # of what a sum misses, as on an EPYC, and the measurements that this guess is worth
# For a choice of points only, what the sum itself may miss: how much, the part of that variance which is alike for
# steps that are alike, and within how many octaves they are.
MISSED, SHARED, REACH = 0.15, 0.8, 2.0
ROUNDS, LARGEST_MOVE, SMALL = 200, 0.7, 1e-9  # of Newton's method on the factors
LEAST_FREE = 0.05  # that a point leaves open of itself: what fits one point alone shows nothing of misfit


@dataclass(frozen=True)
class Fit:
    """The posterior. mean, covariance: of the factors. spread: standard deviation of what the sum misses, as a part of
    it; dof: degrees of freedom that it rests on.
    """

    mean: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]
    spread: float
    dof: float

    def __post_init__(self) -> None:
        size = len(self.mean)
        if len(self.covariance) != size or any(len(row) != size for row in self.covariance):
            raise ConfigError(f"the covariance of {size} factors is not {size} rows of {size} numbers.")
        if not (self.spread > 0 and self.dof > 0):
            raise ConfigError(f"spread is {self.spread} and dof is {self.dof}; both must be above 0.")

    def log_seconds(self, parts: Array) -> tuple[Array, Array]:
        """(mean, standard deviation) of the logarithms of sums to come, each of its parts at the kernels' speed [s]."""
        sums, slopes = _sums(parts, np.array(self.mean))
        variance = np.einsum("ij,jk,ik->i", slopes, np.array(self.covariance), slopes) + self.spread**2
        return np.log(sums), np.sqrt(variance)

    def shares(self, parts: Array) -> Array:
        """What share of each sum each part is."""
        return _sums(parts, np.array(self.mean))[1]


def fit(parts: Array, seconds: Sequence[float], prior: Array, swing: float = 0.0) -> Fit:
    """The posterior after measured sums.

    Args: parts: each sum's parts at the speed of the kernels [s]. prior: the covariance of the factors. swing: how far
          all sums move together from one time to another; one standard deviation.
    """
    measured, precision = np.log(np.array(seconds)), np.linalg.inv(prior)
    mean, spread, dof = np.zeros(parts.shape[1]), SPREAD, SPREAD_DOF
    covariance = prior
    for _ in range(ROUNDS):
        sums, slopes = _sums(parts, mean)
        missed = measured - np.log(sums)
        shown = slopes.T @ slopes / spread**2
        covariance = np.linalg.inv(shown + precision)
        move = covariance @ (slopes.T @ missed / spread**2 - precision @ mean)
        mean = mean + np.clip(move, -LARGEST_MOVE, LARGEST_MOVE)
        own = np.einsum("ij,jk,ik->i", slopes, covariance, slopes) / spread**2  # what each says of itself
        free = len(measured) - float(own.sum())
        dof = SPREAD_DOF + free
        left_out = float(np.mean(missed**2 / np.maximum(1.0 - own, LEAST_FREE)))
        found = math.sqrt((SPREAD_DOF * SPREAD**2 + free * left_out) / dof)
        settled = np.abs(move).max() < SMALL and abs(found - spread) < SMALL
        spread = found
        if settled:
            break
    spread = math.hypot(spread, swing)
    return Fit(tuple(mean.tolist()), tuple(tuple(row) for row in covariance.tolist()), spread, dof)


def choose(parts: Array, places: Array, prior: Array, count: int) -> list[int]:
    """The `count` candidates to measure: greedily, then exchanged one by one while that shows more.

    Args: parts, prior: as in `fit`. places: where each candidate lies among the others, in octaves.
    """
    _, slopes = _sums(parts, np.zeros(parts.shape[1]))
    expected = slopes @ prior @ slopes.T
    apart = np.square((places[:, None] - places[None]) / REACH).sum(-1)
    expected += MISSED**2 * (SHARED * np.exp(-0.5 * apart) + (1 - SHARED) * np.eye(len(parts)))
    chosen: list[int] = []
    while len(chosen) < min(count, len(parts)):
        chosen.append(_best(expected, chosen))
    for _ in range(len(chosen)):
        before = sorted(chosen)
        for _ in range(len(chosen)):
            chosen = [*chosen[1:], _best(expected, chosen[1:])]
        if sorted(chosen) == before:
            break
    return sorted(chosen)


def _best(expected: Array, chosen: list[int]) -> int:
    """The candidate about which the chosen ones say least."""
    left = np.diag(expected).copy()
    if chosen:
        known = expected[:, chosen]
        left -= np.einsum("ij,ij->i", known @ np.linalg.inv(expected[np.ix_(chosen, chosen)]), known)
        left[chosen] = -1.0
    return int(left.argmax())


def _sums(parts: Array, mean: Array) -> tuple[Array, Array]:
    """(sums [s], what part of its sum each part is)."""
    taken = parts * np.exp(mean)
    sums = taken.sum(1)
    return sums, taken / sums[:, None]


@lru_cache(maxsize=1024)
def student_quantile(share: float, dof: float) -> float:
    """The value that `share` (above 0.5) of Student's distribution lies below."""
    scale = math.exp(math.lgamma((dof + 1) / 2) - math.lgamma(dof / 2)) / math.sqrt(dof * math.pi)
    low, high = 0.0, 1.0
    while _below(high, dof, scale) < share:
        low, high = high, 2 * high
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if _below(middle, dof, scale) < share else (low, middle)
    return (low + high) / 2


def _below(value: float, dof: float, scale: float) -> float:
    """Simpson's rule from 0 on."""
    x = np.linspace(0.0, value, 401)
    density = scale * (1.0 + x**2 / dof) ** (-(dof + 1) / 2)
    weights = np.full(401, 2.0)
    weights[1::2], weights[[0, -1]] = 4.0, 1.0
    return 0.5 + float(density @ weights) * value / 1200.0
