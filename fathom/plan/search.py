"""The search: which replicas, how many, and how full, meet the targets at the least cost.

Every replica is worked out in every role (points.py), so that thousands of services are compared in seconds; trial.py
then drives the real scheduler through the one that is chosen.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from fathom.errors import ConfigError
from fathom.plan.points import (
    Point,
    batches,
    best_both,
    best_decode,
    both_point,
    chunks,
    decode_point,
    prefill_points,
)
from fathom.plan.pools import Replica, Workload


@dataclass(frozen=True)
class Service:
    """Replicas that serve together: of one pool, or of one that decodes and one that prefills."""

    decode: Point
    prefill: Point | None = None
    decodes: int = 1
    prefills: int = 0

    @property
    def gpus(self) -> int:
        """All of them."""
        return self.decodes * self.decode.gpus + (self.prefills * self.prefill.gpus if self.prefill else 0)

    @property
    def rate(self) -> float:
        """Requests that it can take [1/s]."""
        of_decode = self.decodes * self.decode.rate
        return min(of_decode, self.prefills * self.prefill.rate) if self.prefill else of_decode

    @property
    def rate_per_gpu(self) -> float:
        """With pools in exact proportion, whatever whole replicas come to [1/s/GPU]."""
        each = 1 / self.decode.rate_per_gpu + (1 / self.prefill.rate_per_gpu if self.prefill else 0.0)
        return 1 / each

    @property
    def ttft_s(self) -> float:
        """Time to first token, at the percentile asked for."""
        return (self.prefill or self.decode).ttft_s

    @property
    def key(self) -> tuple[object, ...]:
        """Its pools' layouts."""
        return self.decode.key, self.prefill.key if self.prefill else None

    @property
    def usd_per_hour(self) -> float | None:
        """Of all its GPUs; None: one has no price."""
        prices = [(self.decode, self.decodes), *([(self.prefill, self.prefills)] if self.prefill else [])]
        each = [(one.replica.setup.device.usd_per_hour, count * one.gpus) for one, count in prices]
        return None if any(price is None for price, _ in each) else sum((price or 0.0) * n for price, n in each)


@dataclass(frozen=True)
class Pools:
    """The best point of every replica that keeps the targets, by role."""

    decode: tuple[Point, ...]
    prefill: tuple[Point, ...]
    both: tuple[Point, ...]


def pools(found: Sequence[Replica], workload: Workload, split: Iterable[bool] = (False, True)) -> Pools:
    """Work out every replica in every role that it may have."""
    decode, prefill, both = [], [], []
    for one in found:
        if True in split:
            decode += [point] if (point := best_decode(one, workload)) else []
            if not one.setup.mtp:  # drafts are of no use to a prompt, and their module takes room
                prefill += [max(points, key=lambda p: p.rate)] if (points := [*prefill_points(one, workload)]) else []
        if False in split:
            both += [point] if (point := best_both(one, workload)) else []
    return Pools(tuple(decode), tuple(prefill), tuple(both))


def price(point: Point) -> float:
    """What an hour of a replica costs [USD]; its GPUs where no price is known."""
    return (point.replica.setup.device.usd_per_hour or 1.0) * point.gpus


def services(made: Pools, workload: Workload) -> list[Service]:
    """Every service that meets the targets, the cheapest for its rate first.

    With `rps` each is as large as it must be; with `gpus` as large as it may be; otherwise as small as whole replicas
    of two pools match within 5 %.
    """
    if workload.rps is not None:
        found = _for_rate(made, workload.rps * workload.peak)
        return sorted(found, key=lambda one: (cost(one), -one.rate, one.decode.tpot_s))
    if workload.gpus is not None:
        return sorted(_for_gpus(made, workload.gpus), key=lambda one: (-one.rate, cost(one), one.decode.tpot_s))
    return sorted(_matched(made), key=lambda one: (cost(one) / one.rate, one.gpus, one.decode.tpot_s))


def cost(one: Service) -> float:
    """Of an hour [USD], or GPUs where no price is known."""
    own = one.decodes * price(one.decode)
    return own + (one.prefills * price(one.prefill) if one.prefill else 0.0)


def _for_rate(made: Pools, rate: float) -> Iterator[Service]:
    """As many replicas as a rate takes. The two pools of a split are independent: each pairs with the best other."""
    for point in made.both:
        yield Service(point, decodes=needed(rate, point))
    prefills = sorted(made.prefill, key=lambda p: (needed(rate, p) * price(p), p.ttft_s))
    decodes = sorted(made.decode, key=lambda p: (needed(rate, p) * price(p), p.tpot_s))
    for point in decodes if prefills else ():
        yield Service(point, prefills[0], needed(rate, point), needed(rate, prefills[0]))
    for point in prefills[1:] if decodes else ():
        yield Service(decodes[0], point, needed(rate, decodes[0]), needed(rate, point))


def needed(rate: float, point: Point) -> int:
    """Replicas for a rate [1/s]."""
    return max(1, math.ceil(rate / point.rate - 1e-9))


def leading(points: Iterable[Point]) -> list[Point]:
    """For each device and number of GPUs, the point with the highest rate."""
    best: dict[tuple[str, int], Point] = {}
    for point in points:
        key = (point.replica.setup.device.name, point.gpus)
        if key not in best or point.rate > best[key].rate:
            best[key] = point
    return list(best.values())


def _for_gpus(made: Pools, gpus: int) -> Iterator[Service]:
    for point in made.both:
        if point.gpus <= gpus:
            yield Service(point, decodes=gpus // point.gpus)
    for decode in leading(made.decode):
        for prefill in leading(made.prefill):
            sizes = range(1, (gpus - prefill.gpus) // decode.gpus + 1)
            made_of = [Service(decode, prefill, n, (gpus - n * decode.gpus) // prefill.gpus) for n in sizes]
            if made_of:
                best = max(made_of, key=lambda one: (one.rate, -one.gpus))
                spare = math.ceil(best.rate / prefill.rate - 1e-9)
                yield replace(best, prefills=spare, decodes=math.ceil(best.rate / decode.rate - 1e-9))


def _matched(made: Pools) -> Iterator[Service]:
    for point in made.both:
        yield Service(point)
    for decode in leading(made.decode):
        for prefill in leading(made.prefill):
            yield matched(decode, prefill)


def matched(decode: Point, prefill: Point, most: int = 16) -> Service:
    """The smallest numbers of replicas whose rates differ by at most 5 %, or by least."""
    made = []
    for n in range(1, most + 1):
        count = max(1, round(n * decode.rate / prefill.rate))
        one = Service(decode, prefill, n, count)
        waste = 1.0 - one.rate / max(n * decode.rate, count * prefill.rate)
        if waste <= 0.05:
            return one
        made.append((waste, one))
    return min(made, key=lambda each: each[0])[1]


@dataclass(frozen=True)
class Pareto:
    """One point of the curve: speed of a user [tok/s], throughput [tok/s/GPU], and what gives it."""

    speed: float
    throughput: float
    service: Service


def pareto(found: Sequence[Replica], made: Pools, workload: Workload, split: Iterable[bool]) -> list[Pareto]:
    """Output tokens per GPU against speed per user where neither can be had without less of the other.

    The time to first token is kept; the time per token is what is varied.
    """
    prefill = max(made.prefill, key=lambda p: p.rate / price(p), default=None)
    points: list[Pareto] = []
    for one in found:
        for seats in batches(one):
            if prefill is not None and True in split:
                points.append(_tradeoff(Service(decode_point(one, seats, workload), prefill), workload))
            for chunk in chunks(workload) if False in split else ():
                point = both_point(one, seats, chunk, workload)
                if point is not None and point.ttft_s <= workload.ttft_s:
                    points.append(_tradeoff(Service(point), workload))
    best: list[Pareto] = []
    for each in sorted(points, key=lambda p: (-p.speed, -p.throughput)):
        if not best or each.throughput > best[-1].throughput * 1.0001:
            best.append(each)
    return best


def _tradeoff(one: Service, workload: Workload) -> Pareto:
    return Pareto(1.0 / one.decode.tpot_mean_s, one.rate_per_gpu * workload.output, one)


def check_found(found: Sequence[Service], made: Pools, fitting: int, workload: Workload) -> None:
    """Raise ConfigError, with what would help, if nothing meets the targets."""
    if found:
        return
    if not fitting:
        raise ConfigError("no layout has room for the weights and one request; allow more GPUs, or lower precision.")
    lacking = []
    if not made.decode and not made.both:
        lacking.append(f"a time per token of {workload.tpot_s * 1e3:g} ms")
    if not made.prefill and not made.both:
        lacking.append(f"a first token within {workload.ttft_s:g} s")
    what = " and ".join(lacking) or f"both targets on {workload.gpus} GPUs"
    raise ConfigError(f"none of {fitting:,} layouts that fit reaches {what}; loosen it, or allow more or other GPUs.")
