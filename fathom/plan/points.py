"""What a replica does at a load: how many requests pass, and how fast, by queueing formulas on its curves.

Three roles. decode and prefill: of a split service, where some replicas only read prompts and the others only write
replies. both: each replica reads prompts in chunks between its decodes.

    waiting for a prompt's turn: M/D/c by Sakasegawa's approximation; its percentile by an exponential tail
    requests in a replica: Poisson around their mean, so seats = mean + z sqrt(mean)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from fathom.plan.pools import CHUNKS, Replica, Workload

FULL = 0.97  # of the cache: lengths differ, and a request that finds no page waits or loses its place
LOADS = (0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)  # of what a pool that prefills could do

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
    """Sequences of a replica to try: the grid of its curve, and a full cache."""
    yield from (load for load in one.decode.grid if load < FULL * one.seats)
    yield FULL * one.seats


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
    """The most sequences, from one per lane to a full cache, that `keeps` the targets; None: none does."""
    low, high = float(one.lanes), max(FULL * one.seats, float(one.lanes))
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
    adds, own = one.mixed * one.prefill.seconds(tokens), one.own_prefill

    def settled(sequences: float) -> tuple[float, float, float]:
        """(seconds of a step of decodes, time per token, share of a lane's steps with a chunk) of so many."""
        asked = sequences * workload.computed / (workload.output * tokens)  # chunks for each token of all
        gained = drafted / (1.0 + (drafted - 1.0) * asked)  # a full chunk leaves no room to verify drafts
        share = asked * gained
        any_lane = 1.0 - max(0.0, 1.0 - share) ** one.lanes
        read = tokens * (own + (1.0 - own) * share / any_lane)
        alone = one.decode.seconds(sequences)
        return alone, (alone + any_lane * one.mixed * one.prefill.seconds(read)) / gained, share

    mean = occupied(seats, workload.sigmas)
    (_, late, _), (alone, tpot, share) = settled(seats), settled(mean)
    if share >= LOADS[0]:
        return None
    step = alone + one.mixed * one.prefill.seconds(tokens * (own + (1.0 - own) * share))
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
