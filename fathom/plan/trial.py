"""A plan tried out: its pools as lanes of real schedulers, its latency model as their clock, for a few seconds of work.

One replica of each pool is tried, and of a large one some of its lanes. Replies that are half written when the window
begins are there from the start, so that it shows a service under load and not one that is just starting.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from fathom.batching import Request, SchedulerConfig
from fathom.errors import ConfigError
from fathom.plan.arrivals import PARTS, Arrival, length, level, mean_rate, poisson, thinned
from fathom.plan.clock import PAGE_TOKENS, Steps, limits, transfer_s
from fathom.plan.points import Point, at_rate
from fathom.plan.pools import Workload
from fathom.plan.search import Service
from fathom.plan.simulate import (
    Drive,
    Lane,
    Prompts,
    answers,
    drive,
    first_tokens,
    pages,
    percentile,
    settle,
    token_times,
)

MOST_SPREAD = 3.0  # of lengths: beyond it, one request in a thousand is most of the work
PERCENTS = (50.0, 90.0, 99.0)
ROWS, STEPS = 100_000, 5_000  # rows and steps of one window, at most: some three seconds of the scheduler's own work
PROMPTS, MOST_LANES = 800, 16
LIKELY_STEPS = 300  # of one window, with which the number of lanes is chosen

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Percentiles:
    """Of a time: p50, p90 and p99 [s], over so many requests."""

    p50: float
    p90: float
    p99: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Percentiles:
        """Of these values."""
        p50, p90, p99 = (percentile(values, at) for at in PERCENTS)
        return cls(p50, p90, p99, len(values))

    @classmethod
    def weighted(cls, values: Sequence[tuple[float, float]]) -> Percentiles:
        """Of (value, weight): the first value at which the weights before it and its own come to so many percent."""
        ordered, total, found = sorted(values), sum(weight for _, weight in values), []
        for at in PERCENTS:
            passed = 0.0
            for value, weight in ordered:
                passed += weight
                if passed >= at / 100.0 * total * (1.0 - 1e-12):
                    found.append(value)
                    break
        return cls(found[0], found[1], found[2], len(ordered)) if len(found) == len(PERCENTS) else cls(0.0, 0.0, 0.0, 0)

    def at(self, percent: float) -> float:
        """The nearest of them from above [s]."""
        return self.p50 if percent <= 50 else self.p90 if percent <= 90 else self.p99


@dataclass(frozen=True)
class Trial:
    """What a plan did at its busiest.

    Fields: rate: requests that were offered to all of it [1/s]. ttft, tpot: of the busiest hour. tokens_per_s: output
            tokens of all of it. lanes: tried of `all_lanes` of a replica that decodes. seconds, steps: of simulated
            work. transfer_s: of a prompt's cache between pools. day: (ttft, tpot) over all hours, if they differ.
    """

    rate: float
    ttft: Percentiles
    tpot: Percentiles
    tokens_per_s: float
    lanes: int
    all_lanes: int
    seconds: float
    steps: int
    preemptions: int
    transfer_s: float = 0.0
    day: tuple[Percentiles, Percentiles] | None = None


@dataclass(frozen=True)
class Asked:
    """What is to be tried, and how. rate: requests for the whole service [1/s]. rows: to plan, at most. pace: of steps,
    over what is predicted.
    """

    service: Service
    workload: Workload
    rate: float
    seed: int = 0
    trace: tuple[Arrival, ...] = ()
    spread: float = 0.2
    rows: int = ROWS
    pace: float = 1.0
    progress: Progress = lambda what, share: None

    def arrivals(self, share: float, chance: random.Random) -> Iterator[Arrival]:
        """Those that reach this share of a pool."""
        if self.trace:
            return thinned(self.trace, share)
        ask = self.workload
        return poisson(self.rate * share, ask.input, ask.output, chance, spread=self.spread, turns=1.0 / share)


def trial(
    service: Service,
    workload: Workload,
    *,
    seed: int = 0,
    trace: Sequence[Arrival] = (),
    spread: float = 0.2,
    rows: int = ROWS,
    pace: float = 1.0,
    progress: Progress = lambda what, share: None,
) -> Trial:
    """Try a plan at its busiest hour, and at other hours where the day has a shape; or on a trace.

    Args: seed: the same one gives the same result. spread: of lengths, see arrivals.poisson. rows: to plan at most.
          pace: 1.1 makes every step a tenth longer than predicted.
    """
    if not 0.0 <= spread <= MOST_SPREAD:
        raise ConfigError(f"spread is {spread:g}; it must be at least 0 and at most {MOST_SPREAD:g}, such as 0.2.")
    rate = mean_rate(trace) if trace else workload.rps * workload.peak if workload.rps is not None else service.rate
    asked = Asked(service, workload, rate, seed, tuple(trace), spread, rows, pace, progress)
    busiest = _window(asked)
    day = None
    if not trace and workload.peak > 1.0 and pace == 1.0:
        day = _day(asked, busiest)
    seen = busiest.seen
    return Trial(
        rate, Percentiles.of(busiest.first), Percentiles.of(busiest.each), busiest.tokens_per_s(service), busiest.lanes,
        service.decode.replica.lanes, seen.now_s, seen.steps, busiest.preemptions, busiest.transfer_s, day,
    )  # fmt: skip


@dataclass(frozen=True)
class _Window:
    """What was seen at one rate. first, each: seconds to the first token, and per token after it."""

    first: list[float]
    each: list[float]
    seen: Drive
    lanes: int
    share: float
    preemptions: int
    transfer_s: float = 0.0

    def tokens_per_s(self, service: Service) -> float:
        """Of the whole service, if all its lanes do what these did."""
        return self.seen.tokens / max(self.seen.now_s, 1e-9) / self.share * service.decodes


def _day(asked: Asked, busiest: _Window) -> tuple[Percentiles, Percentiles]:
    """Percentiles over a day, each hour's requests counting as often as they come."""
    peak = asked.workload.peak
    first: list[tuple[float, float]] = []
    each: list[tuple[float, float]] = []
    for hours, quarters in PARTS:
        part = level(hours, peak)
        there = replace(asked, rate=asked.rate / peak * part, rows=asked.rows // 3)
        one = busiest if hours == 0.0 else _window(there)
        for values, into in ((one.first, first), (one.each, each)):
            into += [(value, part * quarters / len(values)) for value in values]
    return Percentiles.weighted(first), Percentiles.weighted(each)


def _window(asked: Asked) -> _Window:
    if asked.service.prefill is None:
        return _decoding(asked, ())
    waits = _prefilling(asked, asked.service.prefill)
    return replace(_decoding(asked, waits), first=waits)


def _lanes(count: int, limits_of: SchedulerConfig, prompts: Prompts, tokens: int) -> list[Lane]:
    """Lanes that hold the beginnings that hits are made of."""
    lanes = [Lane(limits_of) for _ in range(count)]
    for index, lane in enumerate(lanes):
        settle([lane], prompts.beginnings(2 * tokens, f"lane-{index}"), Drive())
    return lanes


def _prefilling(asked: Asked, point: Point) -> list[float]:
    """Times to first token of a pool that prefills: each request ends with its first token."""
    service, workload, one = asked.service, asked.workload, point.replica
    chance, count = random.Random(asked.seed), min(one.lanes, MOST_LANES)
    prompts = Prompts(hit=workload.hit, page_tokens=PAGE_TOKENS, chance=chance)
    lanes = _lanes(count, limits(point, workload), prompts, workload.input)
    most = max(PROMPTS, 40 * count) * asked.rows // ROWS
    come = islice(asked.arrivals(count / one.lanes / service.prefills, chance), most)

    def enough(now: Drive) -> bool:
        if now.steps % 64 == 0:
            asked.progress("prefill", now.prompts / most)
        return now.prompts >= most or now.steps >= 4 * STEPS

    seen = drive(
        lanes, ((each.at_s, prompts.request(each, output=1)) for each in come),
        Steps(point, workload, count, pace=asked.pace), answers(0.0, chance), enough=enough,
    )  # fmt: skip
    return first_tokens(seen, 0.1 * seen.now_s, seen.now_s)


def _decoding(asked: Asked, waits: Sequence[float]) -> _Window:
    """The pool that decodes; it prefills too, unless `waits` says how long that takes elsewhere."""
    service, workload, point = asked.service, asked.workload, asked.service.decode
    one, split, chance = point.replica, service.prefill is not None, random.Random(asked.seed + 1)
    busy = min(point.seats, at_rate(point, asked.rate / service.decodes, workload).mean * asked.pace)  # in a replica
    count = int(min(one.lanes, MOST_LANES, max(1, asked.rows / (max(1.0, busy / one.lanes) * LIKELY_STEPS))))
    prompts = Prompts(hit=0.0 if split else workload.hit, page_tokens=PAGE_TOKENS, chance=chance)
    lanes = _lanes(count, _limits(asked, prompts), prompts, workload.input)
    seen, held = Drive(), round(busy * count / one.lanes)
    settle(lanes, _under_way(asked, prompts, 0 if asked.trace else held, chance), seen)
    late = transfer_s(service.prefill, workload) if service.prefill else 0.0
    sampled = count < one.lanes and not asked.trace
    found = _delayed(asked, count / one.lanes / service.decodes, late, waits, chance)
    come = ((each.at_s, prompts.request(each)) for each in (() if sampled else found))

    def enough(now: Drive) -> bool:
        if now.steps % 16 == 0:
            asked.progress("decode", max(now.row_steps / asked.rows, now.steps / STEPS))
        return now.row_steps >= asked.rows or now.steps >= STEPS

    def refill(now: Drive) -> Iterator[tuple[float, Request]]:
        """With very many lanes and a router that gives to the emptiest, each lane keeps its number of requests."""
        for _ in range(held - sum(len(lane.scheduler.live) for lane in lanes) if sampled else 0):
            at_s = now.now_s - (0.0 if split else chance.random() * now.step_s)
            yield at_s, prompts.request(replace(next(found), at_s=at_s))

    drive(
        lanes, come, Steps(point, workload, count, free=split, pace=asked.pace),
        answers(one.setup.acceptance, chance), drafts=one.setup.mtp, enough=enough, more=refill, seen=seen,
    )  # fmt: skip
    each = token_times(seen, waiting=split, late_s=late)
    begin = 0.0 if asked.trace else 0.2 * seen.now_s
    end = seen.now_s - (0.0 if asked.trace else min(workload.ttft_s, seen.now_s / 2))
    preemptions = sum(lane.scheduler.preemptions for lane in lanes)
    return _Window(first_tokens(seen, begin, end), each, seen, count, count / one.lanes, preemptions, late)


def _limits(asked: Asked, prompts: Prompts) -> SchedulerConfig:
    """Of the lanes that decode. Prompts that another pool has computed join the next step whole."""
    own = limits(asked.service.decode, asked.workload)
    if asked.service.prefill is not None:
        return replace(own, max_batch_tokens=1 << 30)
    return _apart(own, prompts, asked)


def _delayed(
    asked: Asked, share: float, late_s: float, waits: Sequence[float], chance: random.Random
) -> Iterator[Arrival]:
    """Arrivals at a pool that decodes: of a trace, after a wait as the other pool has them and the transfer."""
    found = asked.arrivals(share, chance)
    if not (asked.trace and waits):
        return found
    moved = (replace(each, at_s=each.at_s + chance.choice(waits) + late_s) for each in found)
    return iter(sorted(moved, key=lambda each: each.at_s))


def _apart(own: SchedulerConfig, prompts: Prompts, asked: Asked) -> SchedulerConfig:
    """Pages for as many requests as there are places, now that their beginnings are the same pages.

    Hits of a service are mostly of different texts; here they are of few, which must not make the cache larger.
    """
    shared = prompts.shared(asked.workload.input) // PAGE_TOKENS
    if not shared:
        return own
    held = own.num_pages * PAGE_TOKENS / asked.workload.context
    least = pages(4 * asked.workload.input + asked.workload.output, PAGE_TOKENS)
    return replace(own, num_pages=max(least, round(own.num_pages - held * shared) + prompts.families * 2 * shared))


def _under_way(asked: Asked, prompts: Prompts, count: int, chance: random.Random) -> Iterator[Request]:
    """Requests somewhere in the middle of their replies."""
    workload = asked.workload
    for _ in range(count):
        tokens, output = (length(mean, asked.spread, chance, least=2) for mean in (workload.input, workload.output))
        yield prompts.request(Arrival(0.0, tokens, output), emitted=chance.randrange(1, output))
