"""The two fitted numbers of a training run: what a step and what a whole run reach of what the parts add up to."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from fathom.config import build, read_toml
from fathom.errors import InputError
from fathom.plan.quantity import COVERAGE

FILE = Path(__file__).parents[1] / "data" / "training.toml"


@dataclass(frozen=True)
class Share:
    """A share with the ends that hold COVERAGE of the measured runs, as ratios to it. runs, groups: in the fit."""

    value: float
    low: float
    high: float
    runs: int
    groups: int

    def to_toml(self) -> str:
        """As lines of a TOML file."""
        return "\n".join(f"{name} = {value:.4g}" for name, value in asdict(self).items())


@dataclass(frozen=True)
class Knobs:
    """step: measured over computed speed of a step. run: speed over days, with restarts, evaluations and idle hours."""

    step: Share
    run: Share


@lru_cache(maxsize=1)
def shipped() -> Knobs:
    """The knobs of data/training.toml."""
    return read(FILE)


def read(path: Path) -> Knobs:
    """Knobs from a TOML file."""
    table = read_toml(path)
    return Knobs(*(build(Share, table.get(name, {}), f"{path}: {name}") for name in ("step", "run")))


def pooled(ratios: Iterable[tuple[str, float]]) -> Share:
    """One share of (group, measured over computed): each group counts as the root of its runs.

    Logarithms, because errors are factors; medians, because a few groups ran far below what their parts reach.
    """
    logs = [(group, math.log(ratio)) for group, ratio in ratios]
    if not logs:
        raise InputError("no training run can be compared; give rows with known models and devices.")
    sizes = {group: sum(one == group for one, _ in logs) for group, _ in logs}
    weighted = [(value, sizes[group] ** -0.5) for group, value in logs]
    middle = quantile(weighted, 0.5)
    ends = [quantile([(value - middle, 1.0) for value, _ in weighted], 0.5 + side * COVERAGE / 2) for side in (-1, 1)]
    return Share(math.exp(middle), math.exp(ends[0]), math.exp(ends[1]), len(logs), len(sizes))


def quantile(weighted: Sequence[tuple[float, float]], share: float) -> float:
    """The value below which that share of the weight lies."""
    ordered = sorted(weighted)
    total, passed = sum(weight for _, weight in ordered), 0.0
    for value, weight in ordered:
        passed += weight
        if passed >= share * total - 1e-12:
            return value
    return ordered[-1][0]


def left_out(ratios: Sequence[tuple[str, float]]) -> list[tuple[str, float, Share]]:
    """(group, ratio, the share fitted without that group) of each run."""
    fitted = {group: pooled([one for one in ratios if one[0] != group]) for group in {group for group, _ in ratios}}
    return [(group, ratio, fitted[group]) for group, ratio in ratios]


def errors(ratios: Sequence[tuple[str, float]], of: Callable[[float], float] = abs) -> dict[str, Any]:
    """Median and p90 of the leave-one-group-out error, its bias, and how many runs lie in their interval."""
    found = [(ratio, share) for _, ratio, share in left_out(ratios)]
    misses = sorted(of(share.value / ratio - 1) for ratio, share in found)
    inside = [share.value * share.low <= ratio <= share.value * share.high for ratio, share in found]
    signed = sorted(share.value / ratio - 1 for ratio, share in found)
    return {
        "runs": len(found), "median": misses[len(misses) // 2], "p90": misses[int(0.9 * (len(misses) - 1))],
        "bias": signed[len(signed) // 2], "coverage": sum(inside) / len(inside),
    }  # fmt: skip
