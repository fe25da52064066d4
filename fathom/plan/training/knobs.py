"""The two fitted numbers of a training run: what a step and what a whole run reach of what the parts add up to."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from fathom.config import build, read_toml
from fathom.errors import InputError
from fathom.plan.quantity import COVERAGE
from fathom.plan.training.job import Job

FEW = 8  # runs with experts that give ends of their own
FILE = Path(__file__).parents[1] / "data" / "training.toml"


class Ratio(NamedTuple):
    """Measured over computed speed of a run. experts: its model has some."""

    group: str
    value: float
    experts: bool = False


@dataclass(frozen=True)
class Share:
    """A share with the ends that hold COVERAGE of the measured runs, as ratios to it. runs, groups: in the fit.

    Fields: experts_*: ends for models with experts, whose runs differ more; 0: as the others.
    """

    value: float
    low: float
    high: float
    runs: int
    groups: int
    experts_low: float = 0.0
    experts_high: float = 0.0

    def of(self, experts: bool) -> Share:
        """The share with the ends that hold for a model with or without experts."""
        if not experts or not self.experts_low:
            return self
        return replace(self, low=self.experts_low, high=self.experts_high)

    def to_toml(self) -> str:
        """As lines of a TOML file."""
        return "\n".join(f"{name} = {value:.4g}" for name, value in asdict(self).items())


@dataclass(frozen=True)
class Knobs:
    """step: measured over computed speed of a step. run: speed over days, with restarts, evaluations and idle hours."""

    step: Share
    run: Share

    def of(self, job: Job) -> Share:
        """The share of a step, with the ends that hold for a job."""
        return self.step.of(job.shape.moe is not None)


@lru_cache(maxsize=1)
def shipped() -> Knobs:
    """The knobs of data/training.toml."""
    return read(FILE)


def read(path: Path) -> Knobs:
    """Knobs from a TOML file."""
    table = read_toml(path)
    return Knobs(*(build(Share, table.get(name, {}), f"{path}: {name}") for name in ("step", "run")))


def pooled(ratios: Iterable[Ratio]) -> Share:
    """One share of all: each group counts as the root of its runs.

    Logarithms, because errors are factors; medians, because a few groups ran far below what their parts reach.
    """
    found = list(ratios)
    if not found:
        raise InputError("no training run can be compared; give rows with known models and devices.")
    sizes = Counter(one.group for one in found)
    middle = quantile([(math.log(one.value), sizes[one.group] ** -0.5) for one in found], 0.5)
    plain = [one for one in found if not one.experts] or found
    others = [one for one in found if one.experts]
    wide = _ends(others, middle) if len(others) >= FEW else (0.0, 0.0)
    return Share(math.exp(middle), *_ends(plain, middle), len(found), len(sizes), *wide)


def _ends(ratios: Sequence[Ratio], middle: float) -> tuple[float, float]:
    """Ratios to exp(middle) that hold COVERAGE of the runs, and one group's worth more, since the next one is new."""
    level = min(1.0, COVERAGE * (1 + 1 / len({one.group for one in ratios})))
    away = [(math.log(one.value) - middle, 1.0) for one in ratios]
    low, high = (quantile(away, 0.5 + side * level / 2) for side in (-1, 1))
    return math.exp(min(low, 0.0)), math.exp(max(high, 0.0))


def quantile(weighted: Sequence[tuple[float, float]], share: float) -> float:
    """The value below which that share of the weight lies."""
    ordered = sorted(weighted)
    total, passed = sum(weight for _, weight in ordered), 0.0
    for value, weight in ordered:
        passed += weight
        if passed >= share * total - 1e-12:
            return value
    return ordered[-1][0]


def left_out(ratios: Sequence[Ratio]) -> list[tuple[Ratio, Share]]:
    """Each run with the share fitted without its group, with the ends for its kind of model."""
    fitted = {group: pooled(one for one in ratios if one.group != group) for group in {one.group for one in ratios}}
    return [(one, fitted[one.group].of(one.experts)) for one in ratios]


def errors(ratios: Sequence[Ratio]) -> dict[str, Any]:
    """Median and p90 of the leave-one-group-out error, its bias, and how many runs lie in their interval."""
    found = left_out(ratios)
    signed = sorted(share.value / one.value - 1 for one, share in found)
    misses = sorted(map(abs, signed))
    inside = [share.value * share.low <= one.value <= share.value * share.high for one, share in found]
    return {
        "runs": len(found), "median": misses[len(misses) // 2], "p90": misses[int(0.9 * (len(misses) - 1))],
        "bias": signed[len(signed) // 2], "coverage": sum(inside) / len(inside),
    }  # fmt: skip
