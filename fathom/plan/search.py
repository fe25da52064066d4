"""The search: which replicas, how many, and how full, meet the targets at the least cost.

Two kinds of service. Aggregated: each replica reads prompts in chunks between its decodes. Split: some replicas only
read prompts, the others only decode. Both come from the same curves (pools.py) by queueing formulas, so that thousands
of plans are compared in seconds; simulate.py then drives the real scheduler through the one that is chosen.

    waiting for a prompt's turn: M/D/c by Sakasegawa's approximation; its percentile by an exponential tail
    requests in a replica: Poisson around their mean, so seats = mean + z sqrt(mean)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from fathom.errors import ConfigError
from fathom.plan.pools import CHUNKS, Replica, Workload

LOADS = (0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)  # of what a pool that prefills could do
NODE = 8

Role = Literal["both", "prefill", "decode"]


@dataclass(frozen=True)
class Point:
    """One replica at work in one way.

    Fields: rate: requests that pass through it [1/s]. seats: requests in it at most; mean: on average. chunk: prompt
            tokens of a lane in a step. ttft_s, tpot_s: at the percentile asked for, 0 where the role has none;
            tpot_mean_s: at `mean`. busy: share of the time, or of the places for chunks, that is used. step_s: a step
            of decodes; chunk_s: what a full chunk takes, or adds to it.
    """

    role: Role
    replica: Replica
    rate: float
    seats: float = 0.0
    mean: float = 0.0
    chunk: int = 0
    ttft_s: float = 0.0
    tpot_s: float = 0.0
    tpot_mean_s: float = 0.0
    busy: float = 0.0
    step_s: float = 0.0
    chunk_s: float = 0.0

    @property
    def gpus(self) -> int:
        """Ranks of the replica."""
        return self.replica.gpus

    @property
    def rate_per_gpu(self) -> float:
        """Requests per second and GPU."""
        return self.rate / self.gpus

    @property
    def key(self) -> tuple[object, ...]:
        """What makes it another layout, not the same with other settings."""
        setup = self.replica.setup
        return self.role, setup.layout, setup.device.name


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


def wait_s(service_s: float, slots: float, busy: float, percentile: float | None = None) -> float:
    """Waiting for one of `slots` that each take `service_s`, at random arrivals: the mean, or a percentile [s].

    Source: Sakasegawa 1977 for M/M/c, halved as services are alike (Allen-Cunneen); waiting times of those who wait at
    all fall off exponentially.
    """
    if busy <= 0.0:
        return 0.0
    waits = busy ** (math.sqrt(2.0 * (slots + 1.0)) - 1.0)  # share of the requests
    mean = 0.5 * service_s * waits / (slots * (1.0 - busy))
    if percentile is None:
        return mean
    rest = 1.0 - percentile / 100.0
    return mean / waits * math.log(waits / rest) if waits > rest else 0.0


def occupied(seats: float, sigmas: float) -> float:
    """Requests on average, where `seats` are enough at so many standard deviations (Poisson)."""
    root = (-sigmas + math.sqrt(sigmas * sigmas + 4.0 * seats)) / 2.0
    return root * root


def batches(one: Replica) -> Iterator[float]:
    """Sequences of a replica to try: the grid of its curve, and all its seats."""
    yield from (load for load in one.decode.grid if load < one.seats)
    yield one.seats


def decode_point(one: Replica, seats: float, workload: Workload) -> Point:
    """A replica that only decodes, with so many requests in it at the percentile asked for."""
    gained, mean = one.setup.accepted, occupied(seats, workload.sigmas)
    at_mean = one.decode.seconds(mean) / gained
    return Point(
        "decode", one, rate=mean / (workload.output * at_mean), seats=seats, mean=mean,
        tpot_s=one.decode.seconds(seats) / gained, tpot_mean_s=at_mean, busy=mean / one.seats,
        step_s=one.decode.seconds(mean),
    )  # fmt: skip


def best_decode(one: Replica, workload: Workload) -> Point | None:
    """As many requests at once as keep the time per token; None: not even one for each lane."""
    most = fullest(lambda n: decode_point(one, n, workload).tpot_s <= workload.tpot_s, one)
    if most is None:
        return None
    kinks = (mean + workload.sigmas * math.sqrt(mean) for mean in one.decode.grid)  # between them the rate has no peak
    return max((decode_point(one, n, workload) for n in (*(n for n in kinks if n < most), most)), key=lambda p: p.rate)


def fullest(keeps: Callable[[float], bool], one: Replica) -> float | None:
    """The largest number of sequences from one per lane to all seats that `keeps` the targets; None: none does."""
    low, high = float(one.lanes), max(one.seats, float(one.lanes))
    if not keeps(low):
        return None
    if keeps(high):
        return high
    while high - low > max(1.0, low / 100):
        middle = (low + high) / 2
        low, high = (middle, high) if keeps(middle) else (low, middle)
    return low


def prefill_points(one: Replica, workload: Workload) -> Iterator[Point]:
    """A replica that only prefills, for each size of chunk at the highest load that keeps the time to first token."""
    for chunk in CHUNKS:
        tokens = chunk * one.lanes
        if tokens * (workload.input / workload.computed) > one.room:
            return  # its prompts would not fit into the cache
        full = one.prefill.seconds(tokens)
        most = tokens / full / workload.computed
        for load in LOADS:
            ttft = prompt_s(one, chunk, full, load, workload)
            if ttft <= workload.ttft_s:
                yield Point("prefill", one, load * most, chunk=chunk, ttft_s=ttft, busy=load, chunk_s=full)
                break


def prompt_s(one: Replica, chunk: int, full_s: float, load: float, workload: Workload) -> float:
    """From arrival to first token where prompts are all there is to do, at the percentile asked for [s].

    Prompts that fit into a chunk join the next step, which takes as long as what came during the one before it; others
    take several steps. Args: full_s: a step with full chunks. load: share of what those could do.
    """
    rest = workload.percentile / 100.0  # of the step that is under way
    if chunk >= workload.computed:
        step = balanced(one, load * chunk * one.lanes / full_s, chunk, workload.computed)
        late = wait_s(full_s, one.lanes * chunk / workload.computed, load, workload.percentile)
        return (1.0 + rest) * step + late
    served = math.ceil(workload.computed / chunk) * full_s
    return served + rest * full_s + wait_s(served, one.lanes, load, workload.percentile)


def balanced(one: Replica, tokens_per_s: float, chunk: int, computed: float) -> float:
    """The step that reads just what arrives while it runs [s]: the least x with x / seconds(x) = tokens_per_s."""
    low, high = one.prefill.grid[0], float(chunk * one.lanes)

    def seconds(tokens: float) -> float:
        fullest = max(computed, tokens / one.lanes + computed / 2) * one.lanes  # prompts are dealt out whole
        return one.prefill.seconds(one.own_prefill * fullest + (1.0 - one.own_prefill) * tokens)

    for _ in range(12):
        middle = (low + high) / 2
        low, high = (low, middle) if middle / seconds(middle) >= tokens_per_s else (middle, high)
    return seconds(high)


def both_point(one: Replica, seats: float, chunk: int, workload: Workload) -> Point | None:
    """A replica that decodes and reads prompts in chunks; None: it would read more than it has places for.

    All lanes step together, so what a lane does for a chunk of its own holds up all: the share of such steps is that
    in which any of them has one. What experts and network do for it is shared out.
    """
    drafted, tokens = one.setup.accepted, min(chunk, workload.computed) * one.lanes
    adds, own = one.prefill.seconds(tokens), one.own_prefill

    def settled(sequences: float) -> tuple[float, float, float]:
        """(seconds of a step of decodes, time per token, share of a lane's steps with a chunk) of so many."""
        asked = sequences * workload.computed / (workload.output * tokens)  # chunks for each token of all
        gained = drafted / (1.0 + (drafted - 1.0) * asked)  # a full chunk leaves no room to verify drafts
        share = asked * gained
        any_lane = 1.0 - max(0.0, 1.0 - share) ** one.lanes
        read = tokens * (own + (1.0 - own) * share / any_lane)
        alone = one.decode.seconds(sequences)
        return alone, (alone + any_lane * one.prefill.seconds(read)) / gained, share

    mean = occupied(seats, workload.sigmas)
    (_, late, _), (alone, tpot, share) = settled(seats), settled(mean)
    if share >= LOADS[0]:
        return None
    step = alone + one.prefill.seconds(tokens * (own + (1.0 - own) * share))
    served = math.ceil(workload.computed / chunk) * step
    first = served + workload.percentile / 100.0 * step
    rate = mean / (first + wait_s(served, one.lanes, share) + workload.output * tpot)
    return Point(
        "both", one, rate, seats, mean, chunk,
        ttft_s=first + wait_s(served, one.lanes, share, workload.percentile), tpot_s=late, tpot_mean_s=tpot,
        busy=share, step_s=alone, chunk_s=adds,
    )  # fmt: skip


def best_both(one: Replica, workload: Workload) -> Point | None:
    """The chunk and the batch with which an aggregated replica takes most requests within both targets."""

    def within(point: Point | None) -> bool:
        return point is not None and point.tpot_s <= workload.tpot_s and point.ttft_s <= workload.ttft_s

    found: list[Point] = []
    for chunk in chunks(workload):
        most = fullest(lambda n, c=chunk: within(both_point(one, n, c, workload)), one)  # type: ignore[misc]
        if most is not None:
            tried = (both_point(one, n, chunk, workload) for n in (*(n for n in one.decode.grid if n < most), most))
            found += [point for point in tried if point is not None]
    return max(found, key=lambda point: point.rate, default=None)


def chunks(workload: Workload) -> Iterator[int]:
    """Sizes of chunks of which a prompt fills at least half of the last one."""
    yield from (chunk for chunk in CHUNKS if chunk < 2 * workload.computed or chunk == CHUNKS[0])


def at_rate(point: Point, rate: float, workload: Workload) -> Point:
    """The same replica with fewer requests than it could take [1/s]: as many as come."""
    if rate >= point.rate or point.role == "prefill":
        return point
    one = point.replica

    def made(seats: float) -> Point:
        if point.role == "decode":
            return decode_point(one, seats, workload)
        return both_point(one, seats, point.chunk, workload) or point

    low, high = 1e-3, point.seats
    for _ in range(24):
        middle = (low + high) / 2
        low, high = (middle, high) if made(middle).rate < rate else (low, middle)
    return made(high)


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
