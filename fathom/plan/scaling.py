"""Laws fitted to a handful of runs: loss against compute, against parameters and tokens; accuracy against thought.

    loss = floor + a / C^alpha                         one term: compute
    loss = floor + a / N^alpha + b / D^beta            two: parameters that a token meets, and tokens
    accuracy = ceiling - (ceiling - start) e^(-T / scale)   tokens of thought

Exponents are searched on a grid that closes in, everything else follows from linear least squares of relative errors
with no coefficient below zero. Intervals are of a bootstrap over residuals; held-out error is of the largest run, left
out.
Source of the forms: Hoffmann et al. 2022, arXiv:2203.15556, section 3.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from fathom.errors import InputError
from fathom.plan.inputs import Array, Spread
from fathom.plan.quantity import Quantity

EXPONENTS = (0.01, 2.0)
GRID, ZOOMS = 14, 5
DRAWS = 100


@dataclass(frozen=True)
class Law:
    """loss = floor + sum of coefficient x (x / scale)^-exponent, over the terms.

    Fields: names: of the terms. error: relative, root mean square over the runs. held_out: of the largest run, which
            the fit of the others predicts; None: too few. draws: of the bootstrap.
    """

    names: tuple[str, ...]
    floor: float
    coefficients: tuple[float, ...]
    exponents: tuple[float, ...]
    scale: tuple[float, ...]
    error: float
    held_out: float | None
    draws: tuple[Fitted, ...] = ()

    def at(self, *x: float) -> float:
        """The loss at these compute, or parameters and tokens."""
        return Fitted(self.floor, self.coefficients, self.exponents, self.scale).at(*x)

    def interval(self, *x: float) -> Spread:
        """Of the loss there."""
        return Spread.of([one.at(*x) for one in self.draws] or [self.at(*x)], "nats/token", "loss")

    def gain(self, term: int, factor: float, *x: float) -> Quantity:
        """Loss that `factor` times as much of a term takes away there, all else kept [nats/token]."""
        value = Fitted(self.floor, self.coefficients, self.exponents, self.scale).gain(term, factor, *x)
        drawn = Spread.of([one.gain(term, factor, *x) for one in self.draws] or [value], "nats/token")
        low, high, meaning = min(drawn.p10, value), max(drawn.p90, value), f"loss less by more {self.names[term]}"
        return Quantity(value, "nats/token", meaning, low, high, "", "fitted")

    def quantities(self) -> dict[str, Quantity]:
        """Floor and exponents, with their intervals."""
        found = {
            "floor": self._quantity([one.floor for one in self.draws], self.floor, "nats/token", "loss without end")
        }
        for i, name in enumerate(self.names):
            drawn = [one.exponents[i] for one in self.draws]
            found[f"exponent of {name}"] = self._quantity(drawn, self.exponents[i], "1", f"of {name}")
        return found

    def _quantity(self, drawn: Sequence[float], value: float, unit: str, meaning: str) -> Quantity:
        if not drawn:
            return Quantity(value, unit, meaning, source="fitted")
        spread = Spread.of(drawn, unit)
        return Quantity(value, unit, meaning, min(spread.p10, value), max(spread.p90, value), "", "fitted")

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        named = {name: one.to_dict() for name, one in self.quantities().items()}
        return {"terms": self.names, **named, "relative_error": self.error, "held_out_error": self.held_out}


@dataclass(frozen=True)
class Fitted:
    """One fit of a law."""

    floor: float
    coefficients: tuple[float, ...]
    exponents: tuple[float, ...]
    scale: tuple[float, ...]

    def parts(self, *x: float) -> list[float]:
        """What each term adds to the floor."""
        terms = zip(self.coefficients, x, self.scale, self.exponents, strict=True)
        return [a * (value / scale) ** -power for a, value, scale, power in terms]

    def at(self, *x: float) -> float:
        """The loss."""
        return self.floor + sum(self.parts(*x))

    def gain(self, term: int, factor: float, *x: float) -> float:
        """Loss that `factor` times as much of a term takes away."""
        return self.parts(*x)[term] * (1.0 - factor ** -self.exponents[term])


def least_runs(terms: int) -> int:
    """Runs that a law of so many terms needs: as many as it has parameters."""
    return 2 * terms + 1


def fit_law(names: Sequence[str], x: Array, loss: Array, seed: int = 0, draws: int = DRAWS) -> Law:
    """The law of these runs: x has a row per run and a column per term.

    Raises: InputError: there are fewer runs than parameters, or a term is the same in all of them.
    """
    x, loss = np.asarray(x, dtype=np.float64), np.asarray(loss, dtype=np.float64)
    least = least_runs(len(names))
    if len(loss) < least:
        raise InputError(f"{len(loss)} runs for a law of {' and '.join(names)}; it takes {least}.")
    for name, column in zip(names, x.T, strict=True):
        if np.ptp(np.log(column)) < 1e-6:
            raise InputError(f"{name} is {column[0]:.4g} in all runs; a law needs runs that differ in it.")
    scale = np.exp(np.mean(np.log(x), axis=0))
    best = _fit(x / scale, loss[None, :])
    fitted = _fitted(best, 0, scale)
    predicted = np.array([fitted.at(*row) for row in x])
    residuals = loss / predicted - 1.0
    held_out = None
    if len(loss) > least:
        largest = int(np.argmax(np.prod(x, axis=1)))
        rest = np.arange(len(loss)) != largest
        held_out = _fitted(_fit(x[rest] / scale, loss[None, rest]), 0, scale).at(*x[largest]) / loss[largest] - 1.0
    random = np.random.default_rng(seed)
    wider = np.sqrt(len(loss) / max(1, len(loss) - least))  # residuals of a fit are smaller than the noise
    resampled = predicted * (1.0 + wider * random.choice(residuals, (draws, len(loss))))
    drawn = _fit(x / scale, resampled)
    return Law(
        tuple(names), fitted.floor, fitted.coefficients, fitted.exponents, fitted.scale,
        float(np.sqrt(np.mean(residuals**2))), None if held_out is None else float(held_out),
        tuple(_fitted(drawn, i, scale) for i in range(draws)),
    )  # fmt: skip


def _fitted(found: tuple[Array, Array], draw: int, scale: Array) -> Fitted:
    powers, linear = found
    return Fitted(
        float(linear[draw, 0]), tuple(float(a) for a in linear[draw, 1:]), tuple(float(p) for p in powers[draw]),
        tuple(float(s) for s in scale),
    )  # fmt: skip


def _fit(x: Array, losses: Array) -> tuple[Array, Array]:
    """Exponents (a row per set of losses) and [floor, coefficients] of the best law for each set of losses."""
    sets, terms = len(losses), x.shape[1]
    low, high = (np.full((sets, terms), np.log(edge)) for edge in EXPONENTS)
    for _ in range(ZOOMS):
        steps = np.linspace(0.0, 1.0, GRID)
        grid = np.array(list(product(steps, repeat=terms)))  # (grid, terms)
        powers = np.exp(low[:, None, :] + grid[None] * (high - low)[:, None, :])  # (sets, grid, terms)
        error, linear = _linear(x, powers, losses)
        at = np.argmin(error, axis=1)
        chosen = powers[np.arange(sets), at]
        wide = (high - low) / (GRID - 1)
        low = np.maximum(np.log(EXPONENTS[0]), np.log(chosen) - wide)
        high = np.minimum(np.log(EXPONENTS[1]), np.log(chosen) + wide)
    return chosen, linear[np.arange(sets), at]


def _linear(x: Array, powers: Array, losses: Array) -> tuple[Array, Array]:
    """Least squares of relative errors with coefficients from 0: the best of all choices of which are not 0."""
    terms = np.exp(-powers[:, :, None, :] * np.log(x)[None, None])  # (sets, grid, runs, terms)
    design = np.concatenate([np.ones((*terms.shape[:3], 1)), terms], axis=3) / losses[:, None, :, None]
    gram, target = np.einsum("sgri,sgrj->sgij", design, design), design.sum(axis=2)
    count = design.shape[3]
    best = np.full(gram.shape[:2], np.inf)
    linear = np.zeros((*gram.shape[:2], count))
    for mask in product((False, True), repeat=count):
        used = np.flatnonzero(mask)
        if not len(used):
            continue
        part = gram[..., used[:, None], used]
        size = np.trace(part, axis1=-2, axis2=-1)[..., None, None]
        part = part + (1e-13 + 1e-13 * size) * np.eye(len(used))  # terms that are alike are no reason to fail
        solved = np.linalg.solve(part, target[..., used, None])[..., 0]
        error = design.shape[2] - np.einsum("sgi,sgi->sg", solved, target[..., used])
        error = np.where((solved >= 0.0).all(axis=2), error, np.inf)
        better = error < best - 1e-15
        best = np.where(better, error, best)
        full = np.zeros_like(linear)
        full[..., used] = solved
        linear = np.where(better[..., None], full, linear)
    return best, linear


@dataclass(frozen=True)
class Saturation:
    """accuracy = ceiling - (ceiling - start) e^(-tokens / scale). held_out: error of the longest thought."""

    start: float
    ceiling: float
    scale: float
    error: float
    held_out: float | None
    draws: tuple[tuple[float, float, float], ...] = ()

    def at(self, tokens: float) -> float:
        """Accuracy with so many tokens of thought."""
        return self.ceiling - (self.ceiling - self.start) * float(np.exp(-tokens / self.scale))

    def gain(self, tokens: float, more: float) -> Quantity:
        """Accuracy that `more` tokens of thought buy beyond so many [1]."""

        def of(start: float, top: float, scale: float) -> float:
            return (top - start) * float(np.exp(-tokens / scale) * -np.expm1(-more / scale))

        value = of(self.start, self.ceiling, self.scale)
        spread = Spread.of([of(*one) for one in self.draws] or [value], "1")
        low, high = min(spread.p10, value), max(spread.p90, value)
        return Quantity(value, "1", "accuracy by longer thought", low, high, "", "fitted")

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        scales = Spread.of([scale for _, _, scale in self.draws] or [self.scale], "tokens")
        scale = Quantity(
            self.scale, "tokens", "of thought to come closer to the ceiling by e", min(scales.p10, self.scale),
            max(scales.p90, self.scale), "", "fitted",
        )  # fmt: skip
        start, ceiling = (
            Quantity(v, "1", w, source="fitted") for v, w in ((self.start, "start"), (self.ceiling, "ceiling"))
        )
        return {
            "start": start.to_dict(), "ceiling": ceiling.to_dict(), "scale": scale.to_dict(), "error": self.error,
            "held_out_error": self.held_out,
        }  # fmt: skip


def fit_thinking(
    tokens: Sequence[float], accuracy: Sequence[float], n: Sequence[int] = (), seed: int = 0, draws: int = DRAWS
) -> Saturation:
    """Accuracy against tokens of thought. n: problems of each point; empty: alike, and no intervals.

    Raises: InputError: there are fewer than three lengths of thought.
    """
    t, y = np.asarray(tokens, dtype=np.float64), np.asarray(accuracy, dtype=np.float64)
    if len(np.unique(t)) < 3:
        raise InputError(f"{len(np.unique(t))} lengths of thought; accuracy against thought takes three, better five.")
    weights = np.asarray(n, dtype=np.float64) if len(n) and min(n) > 0 else np.ones_like(t)
    start, ceiling, scale = _saturate(t, y[None], weights)[0]
    fitted = Saturation(start, ceiling, scale, 0.0, None)
    error = float(np.sqrt(np.average((np.array([fitted.at(v) for v in t]) - y) ** 2, weights=weights)))
    held_out = None
    if len(np.unique(t)) > 3:
        rest = t < t.max()
        other = Saturation(*_saturate(t[rest], y[None, rest], weights[rest])[0], 0.0, None)
        held_out = other.at(float(t.max())) - float(np.mean(y[~rest]))
    drawn: tuple[tuple[float, float, float], ...] = ()
    if len(n) and min(n) > 0:
        again = np.random.default_rng(seed).binomial(np.asarray(n), np.clip(y, 0, 1), (draws, len(t))) / np.asarray(n)
        drawn = tuple(_saturate(t, again, weights))
    return Saturation(start, ceiling, scale, error, held_out, drawn)


def _saturate(t: Array, rows: Array, weights: Array) -> list[tuple[float, float, float]]:
    """(start, ceiling, scale) of each row of accuracies: the scale on a grid, the rest linear, in 0 to 1."""
    positive = t[t > 0]
    scales = np.geomspace(positive.min() / 20.0, positive.max() * 5.0, 400)
    faded = np.exp(-t[None, :] / scales[:, None])  # (scales, points)
    w = weights / weights.sum()
    mean_f, mean_y = faded @ w, rows @ w
    spread = ((faded - mean_f[:, None]) ** 2) @ w
    shared = (rows * w) @ faded.T - mean_y[:, None] * mean_f[None, :]  # (rows, scales)
    slope = np.minimum(0.0, shared / np.maximum(spread, 1e-12))  # thought does not harm in this law
    ceiling = np.clip(mean_y[:, None] - slope * mean_f, 0.0, 1.0)
    start = np.clip(ceiling + slope, 0.0, 1.0)
    predicted = ceiling[..., None] + (start - ceiling)[..., None] * faded[None]
    error = ((predicted - rows[:, None, :]) ** 2) @ w
    at = np.argmin(error, axis=1)
    return [(float(start[i, j]), float(ceiling[i, j]), float(scales[j])) for i, j in enumerate(at)]
