"""Fits the knobs to measured points: robust least squares on logarithms, deviations held by priors (partial pooling).

A time per token is  layers x layer_s + rest(memory) + prompt x reading:  linear in what is fitted but for `memory`, for
which a few values are tried. Groups left out: a group is one system, model and layout family, so that the error is that
on a system never seen.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fathom.plan import rates
from fathom.plan.hardware import Catalogue
from fathom.plan.knobs import Knobs
from fathom.plan.latency import Setup, decode_step
from fathom.plan.rows import Case, case

MEMORY = (0.7, 0.75, 0.8, 0.85)  # shares of the bandwidth that are tried
START = Knobs(math.log(110e-6), math.log(0.7), math.log(1.0))
#: Standard deviations, in logarithm: of the means around START, of what a family, engine or device adds, of one point.
WIDE, ADDED, NOISE = 0.7, 0.25, 0.12
HUBER = 0.6  # beyond, a residual counts linearly
KINDS = ("family", "engine", "device")

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Point:
    """One measured time, split into what is multiplied by a knob."""

    group: str
    keys: tuple[str, ...]
    value: float
    coefficients: tuple[float, ...]
    offset: float = 0.0


def cases(rows: Iterable[Mapping[str, str]], catalogue: Catalogue) -> list[Case]:
    """The cases in flight at a known number of requests, of rows that can be read."""
    found = (case(row, catalogue) for row in rows)
    return [one for one in found if isinstance(one, Case) and one.way in ("aggregated", "split")]


def keys_of(setup: Setup) -> tuple[str, ...]:
    """What the knobs of a setup are named by."""
    return f"family {setup.shape.family}", f"engine {setup.engine}", f"device {setup.device.name}"


def tpot_points(found: Sequence[Case], memory: float) -> list[Point]:
    """The times per token, with `layer` and `prompt` as coefficients."""
    knobs = Knobs(START.layer, math.log(memory), 0.0)
    return [_tpot_point(one, knobs) for one in found if one.metric.startswith("tpot")]


def _tpot_point(one: Case, knobs: Knobs) -> Point:
    each = one.concurrency / one.replicas[1]
    step = decode_step(one.setup, each, one.prompt + one.output / 2, knobs)
    layers = one.setup.shape.layers
    rest = (step.seconds - layers * math.exp(knobs.layer)) / one.setup.accepted
    reading = 0.0
    if one.way == "aggregated":
        reading = rates.prompt_s(one.setup, each, one.prompt, knobs) * each / one.output
    return Point(one.group, keys_of(one.setup), one.value / 1e3, (layers / one.setup.accepted, reading), max(0.0, rest))


def ttft_points(found: Sequence[Case], knobs: Knobs) -> list[Point]:
    """The times to a first token, with `start`, `queue` and `steps` as coefficients."""
    points = []
    for one in found:
        if one.metric.startswith("ttft") and one.way == "aggregated":
            reading = rates.prompt_s(one.setup, one.concurrency, one.prompt, knobs)
            step = decode_step(one.setup, one.concurrency, one.prompt + one.output / 2, knobs)
            queued = step.seconds * one.concurrency**rates.STEPS_POWER
            terms = (1.0, reading * math.sqrt(one.concurrency), queued)
            points.append(Point(one.group, keys_of(one.setup), one.value / 1e3, terms, reading))
    return points


class Pool:
    """Means of the knobs, and what each key adds to some of them."""

    def __init__(self, points: Sequence[Point], start: Sequence[float], moved: Mapping[str, Sequence[int]]) -> None:
        self.points, self.start, self.moved = list(points), np.array(start), moved
        kinds = {kind: at for at, kind in enumerate(KINDS)}
        names = sorted({p.keys[kinds[kind]] for p in points for kind in moved})
        self.slots = {
            (name, at): len(start) + n
            for n, (name, at) in enumerate((n, at) for n in names for at in moved[n.split(" ")[0]])
        }
        size = len(start) + len(self.slots)
        self.select = np.zeros((len(points), len(start), size))
        for row, point in enumerate(points):
            for at in range(len(start)):
                self.select[row, at, at] = 1.0
            for key in point.keys:
                for at in moved.get(key.split(" ")[0], ()):
                    self.select[row, at, self.slots[key, at]] = 1.0
        self.terms = np.array([p.coefficients for p in points])
        self.offset = np.array([p.offset for p in points])
        self.value = np.array([p.value for p in points])
        self.prior = np.concatenate([np.full(len(start), WIDE), np.full(len(self.slots), ADDED)])
        self.zero = np.concatenate([self.start, np.zeros(len(self.slots))])

    def predict(self, knobs: Array, rows: Array) -> Array:
        """Times of some of the points [s]."""
        shares = np.exp(self.select[rows] @ knobs)
        return np.asarray((self.terms[rows] * shares).sum(1) + self.offset[rows])

    def fit(self, rows: Array) -> tuple[Array, Array]:
        """(knobs, their covariance) by Gauss-Newton with Huber's weights on some of the points."""
        knobs, damping = self.zero.copy(), 1e-3
        precision = (NOISE / self.prior) ** 2
        cost = self._cost(knobs, rows, precision)
        hessian = np.eye(len(knobs))
        for _ in range(40):
            shares = self.terms[rows] * np.exp(self.select[rows] @ knobs)
            times = shares.sum(1) + self.offset[rows]
            residual = np.log(times / self.value[rows])
            slope = np.einsum("pt,ptk->pk", shares / times[:, None], self.select[rows])
            weight = np.minimum(1.0, HUBER / np.maximum(np.abs(residual), 1e-9))
            hessian = slope.T @ (slope * weight[:, None]) + np.diag(precision)
            gradient = slope.T @ (weight * residual) + precision * (knobs - self.zero)
            tried = knobs - np.linalg.solve(hessian + damping * np.eye(len(knobs)), gradient)
            now = self._cost(tried, rows, precision)
            if now < cost:
                done = cost - now < 1e-7 * cost
                knobs, cost, damping = tried, now, max(damping / 4, 1e-7)
                if done:
                    break
            else:
                damping *= 8
        return knobs, np.linalg.inv(hessian) * NOISE**2

    def _cost(self, knobs: Array, rows: Array, precision: Array) -> float:
        residual = np.abs(np.log(self.predict(knobs, rows) / self.value[rows]))
        loss = np.where(residual < HUBER, residual**2 / 2, HUBER * (residual - HUBER / 2)).sum()
        return float(loss + (precision * (knobs - self.zero) ** 2).sum() / 2)

    def left_out(self) -> Array:
        """The times of all points, each by knobs that its group had no part in [s]."""
        groups = np.array([p.group for p in self.points])
        found = np.zeros(len(self.points))
        for group in sorted(set(groups)):
            inside = np.flatnonzero(groups == group)
            knobs, _ = self.fit(np.flatnonzero(groups != group))
            found[inside] = self.predict(knobs, inside)
        return found


MOVED = {"family": (0, 1), "engine": (0, 1), "device": (0, 1)}
MOVED_FIRST: dict[str, tuple[int, ...]] = {"engine": ()}  # pooling by engine made the error on groups left out larger
TTFT = (math.log(0.05), math.log(0.4), math.log(6.0))


def tpot_pool(found: Sequence[Case], memory: float) -> Pool:
    """The pool of the times per token at a share of the memory bandwidth."""
    return Pool(tpot_points(found, memory), (START.layer, START.prompt), MOVED)


def ttft_pool(found: Sequence[Case], knobs: Knobs) -> Pool:
    """The pool of the times to a first token."""
    return Pool(ttft_points(found, knobs), TTFT, MOVED_FIRST)


def refit(rows: Sequence[Mapping[str, str]], catalogue: Catalogue) -> Knobs:
    """The knobs for all rows that have a known number of requests in flight, with the spread on groups left out."""
    found = cases(rows, catalogue)
    memory = min(MEMORY, key=lambda share: _error(tpot_pool(found, share)))
    pool = tpot_pool(found, memory)
    knobs, _ = pool.fit(np.arange(len(pool.points)))
    added: dict[str, dict[str, float]] = {}
    for (name, at), slot in pool.slots.items():
        added.setdefault(name, {})[("layer", "prompt")[at]] = round(float(knobs[slot]), 3)
    made = Knobs(round(float(knobs[0]), 3), round(math.log(memory), 4), round(float(knobs[1]), 3), added)
    first = ttft_pool(found, made)
    means, _ = first.fit(np.arange(len(first.points)))
    ttft = {name: round(math.exp(means[at]), 4) for at, name in enumerate(("start", "queue", "steps"))}
    spread = {"tpot": spread_of(pool), "ttft": spread_of(first)}
    return Knobs(made.layer, made.memory, made.prompt, added, ttft, spread)


def spread_of(pool: Pool) -> float:
    """Half of an 80 % interval in logarithm: the error that 80 % of the points left out stay below."""
    error = np.abs(np.log(pool.left_out() / pool.value))
    return round(float(np.quantile(error, 0.8)), 3)


def _error(pool: Pool) -> float:
    return float(np.median(np.abs(np.log(pool.left_out() / pool.value))))


def toml(knobs: Knobs) -> str:
    """The file data/knobs.toml."""
    lines = [
        "# Knobs of the serving model: written by `fathom plan validate --refit`, from data/measured.csv. Logarithms.",
        f"layer = {knobs.layer}    # time of a layer of a decode step: {math.exp(knobs.layer) * 1e6:.0f} us",
        f"memory = {knobs.memory}  # share of the memory bandwidth: {math.exp(knobs.memory):.2f}",
        f"prompt = {knobs.prompt}  # prompts, over what kernels take: {math.exp(knobs.prompt):.2f}",
    ]
    for title, table in (("ttft", knobs.ttft), ("spread", knobs.spread)):
        lines += ["", f"[{title}]", *(f"{name} = {value}" for name, value in sorted(table.items()))]
    for name, table in sorted(knobs.added.items()):
        lines += ["", f'[added."{name}"]', *(f"{key} = {value}" for key, value in sorted(table.items()))]
    return "\n".join(lines) + "\n"
