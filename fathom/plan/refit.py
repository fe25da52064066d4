"""Fits the knobs to measured points: robust regression on logarithms, deviations held by priors (partial pooling).

A time per token is  layers x layer + sequences x host + prompts x prompt + rest(memory),  where each word is the
exponential of a sum of parameters; for `memory` a few values are tried. Groups left out: a group is one system, model
and layout family, so that the error is that on a system never seen.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fathom.plan import rates
from fathom.plan.hardware import Catalogue
from fathom.plan.knobs import MEANS, Knobs, years
from fathom.plan.latency import decode_step
from fathom.plan.predict import predict_serving
from fathom.plan.quantity import Quantity
from fathom.plan.rows import Case, case

MEMORY = (0.85, 0.9, 0.95)  # shares of the bandwidth that are tried
START = Knobs(math.log(110e-6), math.log(0.9), math.log(15e-6), math.log(1.2), -0.5,
              first={"start": math.log(0.05), "steps": math.log(4.0), "waits": 0.0, "text": 0.0})  # fmt: skip
#: Standard deviations of the parameters, in logarithm, around START (means) or 0 (what a key adds).
WIDE = {"layer": 0.7, "host": 0.5, "prompt": 0.7, "drift": 0.5, "start": 1.0, "steps": 1.0, "waits": 0.3, "text": 1.0}
NARROW = {
    ("layer", "family"): 0.25, ("layer", "engine"): 0.25, ("layer", "device"): 0.25, ("layer", "precision"): 0.25,
    ("prompt", "engine"): 0.12, ("prompt", "device"): 0.12, ("prompt", "precision"): 0.15,
    ("start", "first"): 0.7, ("steps", "first"): 0.7, ("waits", "first"): 0.3, ("text", "first"): 0.7,
}  # fmt: skip
#: Scale of Student's t of single points, in logarithm, and its degrees of freedom: some runs met a fault, and say
#: little.
NOISE = {"tpot": (0.12, 4.0), "ttft": (0.15, 2.0)}
FEW = 30  # points of a family that weigh as much as all others in its spread
PASSES = 2  # what prompts cost depends on the knobs themselves

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Point:
    """One measured time [s]: a sum of terms, each multiplied by the exponential of parameters, and an offset.

    loads: (term, parameter, how much of it) for all that move a term.
    """

    name: str
    group: str
    value: float
    terms: tuple[float, ...]
    loads: tuple[tuple[int, str, float], ...]
    offset: float = 0.0


def cases(rows: Iterable[Mapping[str, str]], catalogue: Catalogue) -> list[Case]:
    """The cases with a known number of requests in flight, of rows that can be read."""
    found = (case(row, catalogue) for row in rows)
    return [one for one in found if isinstance(one, Case) and one.way in ("aggregated", "split")]


def tpot_point(one: Case, knobs: Knobs) -> Point:
    """A time per token, with `layer`, `host` and `prompt` as terms, around what `knobs` say."""
    setup, service = one.setup, one.service
    found = rates.measured(service, knobs)
    knob = knobs.of(setup.keys, setup.date)
    step, accepted = found.step.seconds / setup.accepted, setup.accepted
    layers = setup.shape.layers * (1 + 2 * setup.mtp / max(1, setup.shape.layers) if setup.shape.mtp else 1) / accepted
    lane = found.running / setup.layout.dp / accepted
    rest = max(0.0, step - layers * knob.layer_s - lane * knob.host_s)
    prompts = max(0.0, found.tpot_s - step) / knob.prompt if service.reads is None else 0.0
    loads = [(0, "layer", 1.0), (0, "drift", years(setup.date)), (1, "host", 1.0), (2, "prompt", 1.0)]
    for key in setup.keys:
        kind = key.split(" ")[0]
        loads += [(at, f"{key}/{name}", 1.0) for at, name in ((0, "layer"), (2, "prompt")) if (name, kind) in NARROW]
    return Point(one.id, one.group, one.value / 1e3, (layers, lane, prompts), tuple(loads), rest)


def ttft_point(one: Case, knobs: Knobs) -> Point:
    """A time to a first token, with rates.FIRST as terms."""
    service = one.service
    waited = rates.fly(service, knobs).first_s
    step = decode_step(one.setup, max(1.0, service.each), service.context, knobs).seconds
    loads = [(at, name, 1.0) for at, name in enumerate(rates.FIRST)]
    loads += [(at, f"{key}/{name}", 1.0) for key in rates.first_keys(service) for at, name in enumerate(rates.FIRST)]
    return Point(one.id, one.group, one.value / 1e3, rates.first_terms(service, waited, step), tuple(loads))


class Pool:
    """Points, and the parameters that they share. noise: scale of their errors, and degrees of freedom of its t."""

    def __init__(self, points: Sequence[Point], noise: tuple[float, float], start: Knobs = START) -> None:
        self.points, (self.noise, self.freedom) = list(points), noise
        self.parameters = sorted({name for point in points for _, name, _ in point.loads})
        self.place = {name: at for at, name in enumerate(self.parameters)}
        self.names = [p.name for p in points]
        self.terms = np.array([p.terms for p in points])
        self.offset = np.array([p.offset for p in points])
        self.value = np.array([p.value for p in points])
        self.groups = np.array([p.group for p in points])
        self.select = np.zeros((*self.terms.shape, len(self.parameters)))
        for row, point in enumerate(points):
            for term, name, share in point.loads:
                self.select[row, term, self.place[name]] += share
        self.zero = np.array([0.0 if "/" in name else start.total(name, ()) for name in self.parameters])
        self.prior = np.array([_width(name) for name in self.parameters])

    def predict(self, found: Array, rows: Array) -> Array:
        """Times of some of the points [s]."""
        return np.asarray((self.terms[rows] * np.exp(self.select[rows] @ found)).sum(1) + self.offset[rows])

    def fit(self, rows: Array | None = None) -> tuple[Array, Array]:
        """(parameters, their covariance) by damped Gauss-Newton steps on some of the points."""
        rows = np.arange(len(self.points)) if rows is None else rows
        found, damping = self.zero.copy(), 1e-3
        precision = (self.noise / self.prior) ** 2
        cost, hessian = self._cost(found, rows, precision), np.eye(len(found))
        for _ in range(60):
            shares = self.terms[rows] * np.exp(self.select[rows] @ found)
            times = shares.sum(1) + self.offset[rows]
            residual = np.log(times / self.value[rows])
            slope = np.einsum("pt,ptk->pk", shares / times[:, None], self.select[rows])
            weight = (self.freedom + 1) / self.freedom / (1 + residual**2 / (self.freedom * self.noise**2))
            hessian = slope.T @ (slope * weight[:, None]) + np.diag(precision)
            gradient = slope.T @ (weight * residual) + precision * (found - self.zero)
            tried = found - np.linalg.solve(hessian + damping * np.eye(len(found)), gradient)
            now = self._cost(tried, rows, precision)
            if now < cost:
                done = cost - now < 1e-7 * cost
                found, cost, damping = tried, now, max(damping / 4, 1e-8)
                if done:
                    break
            else:
                damping *= 8
        return found, np.linalg.inv(hessian) * self.noise**2

    def _cost(self, found: Array, rows: Array, precision: Array) -> float:
        residual = np.log(self.predict(found, rows) / self.value[rows])
        scale = self.freedom * self.noise**2
        loss = (self.freedom + 1) / 2 * self.noise**2 * np.log1p(residual**2 / scale).sum()
        return float(loss + (precision * (found - self.zero) ** 2).sum() / 2)

    def without(self, group: str) -> Array:
        """The parameters from all groups but one."""
        return self.fit(np.flatnonzero(self.groups != group))[0]

    def left_out(self) -> Array:
        """The times of all points, each by parameters that its group had no part in [s]."""
        found = np.zeros(len(self.points))
        for group in np.unique(self.groups):
            inside = np.flatnonzero(self.groups == group)
            found[inside] = self.predict(self.without(str(group)), inside)
        return found


def _width(name: str) -> float:
    key, _, parameter = name.rpartition("/")
    return NARROW[parameter, key.split(" ")[0]] if key else WIDE[parameter]


def tpot_pool(found: Sequence[Case], knobs: Knobs) -> Pool:
    """The pool of the times per token, linear around `knobs`."""
    return Pool([tpot_point(one, knobs) for one in found if one.metric.startswith("tpot")], NOISE["tpot"])


def ttft_pool(found: Sequence[Case], knobs: Knobs) -> Pool:
    """The pool of the times to a first token."""
    return Pool([ttft_point(one, knobs) for one in found if one.metric.startswith("ttft")], NOISE["ttft"])


def into(knobs: Knobs, pool: Pool, found: Array) -> Knobs:
    """`knobs` with the parameters of a pool."""
    added = {key: dict(table) for key, table in knobs.added.items()}
    means: dict[str, Any] = {}
    for name, value in zip(pool.parameters, (round(float(v), 4) for v in found), strict=True):
        key, _, parameter = name.rpartition("/")
        if key:
            added.setdefault(key, {})[parameter] = value
        else:
            means[parameter] = value
    first = knobs.first | {name: value for name, value in means.items() if name not in MEANS}
    return replace(knobs, added=added, first=first, **{k: v for k, v in means.items() if k in MEANS})


def refit(rows: Sequence[Mapping[str, str]], catalogue: Catalogue) -> Knobs:
    """The knobs for all rows that have a known number of requests in flight, with the spread on groups left out."""
    found = cases(rows, catalogue)
    best, error = START, math.inf
    for share in MEMORY:
        tried = replace(START, memory=round(math.log(share), 4))
        pool = tpot_pool(found, tried)
        now = float(np.median(np.abs(np.log(pool.left_out() / pool.value))))
        if now < error:
            best, error = into(tried, pool, pool.fit()[0]), now
    for _ in range(PASSES):
        pool = tpot_pool(found, best)
        best = into(best, pool, pool.fit()[0])
    covariance = {
        f"{a} {b}": round(float(pool.fit()[1][pool.place[a], pool.place[b]]), 6)
        for n, a in enumerate(MEANS) for b in MEANS[n:] if a in pool.place and b in pool.place
    }  # fmt: skip
    first = ttft_pool(found, best)
    spread: dict[str, float] = {}
    for metric, of in (("tpot", pool), ("ttft", first)):
        families = [one.setup.shape.family for one in found if one.metric.startswith(metric)]
        spread |= {f"{metric} {name}".strip(): value for name, value in spread_of(of, families).items()}
    made = replace(into(best, first, first.fit()[0]), covariance=covariance, spread=spread)
    return replace(made, spread=spread | spreads(rows, catalogue, made))


def spreads(rows: Sequence[Mapping[str, str]], catalogue: Catalogue, knobs: Knobs) -> dict[str, float]:
    """The same of what is predicted without a fit of its own: saturated replicas, prompts, large decoding replicas."""
    found: dict[str, list[float]] = {}
    for row in rows:
        one = case(row, catalogue)
        kind = {"saturated": "most", "prefill": "prefill", "decode": "large"}.get(getattr(one, "way", ""))
        if kind:
            said = predict_serving(row, catalogue, knobs)
            if isinstance(said, Quantity):
                found.setdefault(kind, []).append(abs(math.log(said.value / float(row["value"]))))
    return {kind: round(float(np.quantile(error, 0.8)), 3) for kind, error in found.items()}


def spread_of(pool: Pool, families: Sequence[str] = ()) -> dict[str, float]:
    """Half of an 80 % interval in logarithm: the error that 80 % of the points left out stay below; "" of all, and of
    each family as far as its points outweigh FEW of all.

    Args: families: of the points, in their order.
    """
    error = np.abs(np.log(pool.left_out() / pool.value))
    whole = float(np.quantile(error, 0.8))
    found = {"": round(whole, 3)}
    for family in sorted(set(families)):
        own = error[np.array([one == family for one in families])]
        weight = len(own) / (len(own) + FEW)
        found[family] = round(float(weight * np.quantile(own, 0.8) + (1 - weight) * whole), 3)
    return found


def toml(knobs: Knobs) -> str:
    """The file data/knobs.toml."""
    notes = {
        "layer": f"time of a layer of a decode step: {math.exp(knobs.layer) * 1e6:.0f} us",
        "memory": f"share of the memory bandwidth: {math.exp(knobs.memory):.2f}",
        "host": f"of a step, for each sequence of a rank: {math.exp(knobs.host) * 1e6:.0f} us",
        "prompt": f"prompts between decode steps, over what kernels take: {math.exp(knobs.prompt):.2f}",
        "drift": "of `layer`, a year",
    }
    lines = ["# Knobs of the serving model: `fathom plan validate --refit fathom/plan/data/knobs.toml`. Logarithms."]
    lines += [f"{name} = {getattr(knobs, name)}  # {notes[name]}" for name in MEANS]
    for title in ("first", "covariance", "spread"):
        table = getattr(knobs, title)
        lines += ["", f"[{title}]", *(f"{_key(name)} = {value}" for name, value in sorted(table.items()))]
    for name, table in sorted(knobs.added.items()):
        lines += ["", f'[added."{name}"]', *(f"{key} = {value}" for key, value in sorted(table.items()))]
    return "\n".join(lines) + "\n"


def _key(name: str) -> str:
    return f'"{name}"' if " " in name else name
