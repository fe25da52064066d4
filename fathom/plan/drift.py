"""A profile against steps that were measured: how well it foresaw them, and whether the machine has changed since."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import mean, median

import numpy as np

from fathom.errors import ConfigError
from fathom.plan.calibrate import Point, Profile, predict
from fathom.plan.ownstep import Choice, Step
from fathom.plan.posterior import student_quantile
from fathom.plan.quantity import COVERAGE, Quantity
from fathom.plan.report import table

DRIFT_QUANTILE = 0.975  # both ways: of a hundred checks of a machine that has not changed, five ring
FEWEST_STEPS = 8  # of a kind, for a judgement


# ---- how well -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Compared:
    """A measured step and its prediction. error: predicted over measured, less 1. inside: the interval holds it."""

    sequences: int
    tokens: int
    context: int
    measured: Quantity
    predicted: Quantity
    error: float
    inside: bool
    sampling: Choice = "greedy"

    @property
    def words(self) -> str:
        """The step as people say it."""
        return said(self.sequences, self.tokens, self.sampling)


@dataclass(frozen=True)
class Comparison:
    """Steps and their predictions, the median and largest error, and the share of intervals that hold the truth."""

    rows: tuple[Compared, ...]
    median_error: float
    largest_error: float
    inside_share: float


def compare(profile: Profile, points: Sequence[Point]) -> Comparison:
    """How well a profile foresees measured steps."""
    if not points:
        raise ConfigError("there are no steps to compare; measure at least one.")
    rows = []
    for point in points:
        expected = predict(profile, point.step)
        assert expected.low is not None and expected.high is not None, "a prediction has an interval"
        rows.append(
            Compared(
                point.sequences, point.tokens, point.context,
                Quantity(point.seconds, "s", expected.meaning, source="measured"), expected,
                expected.value / point.seconds - 1, expected.low <= point.seconds <= expected.high, point.sampling,
            )
        )  # fmt: skip
    errors = [abs(row.error) for row in rows]
    return Comparison(tuple(rows), median(errors), max(errors), mean(row.inside for row in rows))


def said(sequences: int, tokens: int, sampling: Choice = "greedy") -> str:
    """A step of one kind, as people say it."""
    what = f"{tokens} prompt tokens" if tokens > 1 else f"{sequences} sequence{'s' if sequences > 1 else ''}"
    return what if sampling == "greedy" else f"{what}, {sampling}"


def compared(title: str, found: Comparison) -> Iterator[str]:
    """Measured beside predicted."""
    head = (title, "context [tokens]", "measured [ms]", "predicted [ms]", "80 % interval [ms]", "error")
    yield from table(head, [
        (
            row.words, f"{row.context:,}", f"{1e3 * row.measured.value:,.3f}", f"{1e3 * row.predicted.value:,.3f}",
            f"{1e3 * (row.predicted.low or 0):,.3f} to {1e3 * (row.predicted.high or 0):,.3f}", f"{row.error:+.1%}",
        )
        for row in found.rows
    ])  # fmt: skip
    inside = f"{found.inside_share:.0%} in their interval"
    yield f"  median error {found.median_error:.1%}, largest {found.largest_error:.1%}; {inside}"


# ---- drift ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shift:
    """Steps of one kind against their predictions. ratio: the median of measured over predicted; limit_low, limit_high:
    between them nothing has changed. inside: the share of steps in their intervals.
    """

    kind: str
    steps: int
    ratio: float
    limit_low: float
    limit_high: float
    inside: float

    @property
    def rings(self) -> bool:
        return not self.limit_low <= self.ratio <= self.limit_high


@dataclass(frozen=True)
class Finding:
    """What `drift` found. few: kinds of which there were too few steps to say."""

    shifts: tuple[Shift, ...]
    few: dict[str, int] = field(default_factory=dict)

    @property
    def rings(self) -> bool:
        """Whether some kind of step takes longer, or shorter, than this profile allows."""
        return any(shift.rings for shift in self.shifts)


def drift(profile: Profile, measured: Iterable[tuple[Step, float]], *, logged: bool = True) -> Finding:
    """Whether steps still take what the profile says.

    A step alone proves nothing on a machine that does other things too, so each kind is judged by its median: it may
    lie as far from 1 as the posterior is wide, and as its own noise moves it.

    Args: measured: steps and their times [s]. logged: the times are those of a step log, not of whole steps.
    """
    posterior = profile.logged if logged else profile.whole
    kinds: dict[str, list[tuple[Step, float]]] = {}
    for step, seconds in measured:
        if step and seconds > 0:
            kinds.setdefault("generating" if all(g.tokens == 1 for g in step) else "with prompts", []).append(
                (step, seconds)
            )
    shifts, few = [], {}
    for name, steps in sorted(kinds.items()):
        if len(steps) < FEWEST_STEPS:
            few[name] = len(steps)
            continue
        mean, sd = posterior.log_seconds(profile.work([step for step, _ in steps]))
        missed = np.log([seconds for _, seconds in steps]) - mean
        middle = float(np.median(missed))
        noise = 1.4826 * float(np.median(np.abs(missed - middle))) * math.sqrt(math.pi / 2 / len(steps))
        allowed = student_quantile(DRIFT_QUANTILE, posterior.dof) * math.hypot(median(sd.tolist()), noise)
        width = student_quantile((1 + COVERAGE) / 2, posterior.dof) * sd
        inside = float(np.mean(np.abs(missed) <= width))
        shifts.append(Shift(name, len(steps), math.exp(middle), math.exp(-allowed), math.exp(allowed), inside))
    return Finding(tuple(shifts), few)
