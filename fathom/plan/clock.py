"""A point of the search as the scheduler meets it: the limits its engines get, and what each of their steps takes."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from fathom.batching import Plan, SchedulerConfig
from fathom.errors import ConfigError
from fathom.plan.memory import cache_bytes
from fathom.plan.points import Point
from fathom.plan.pools import Workload, decode_curve
from fathom.plan.simulate import pages

PAGE_TOKENS = 64
NETWORK = 0.8  # of a link's rate for one large copy: 40 of 50 GB/s on ConnectX-7 (DeepSeek-V3, arXiv:2412.19437, 3.2)
SPARE = 1.05  # places over those that are used at the percentile: better slower for a moment than a queue


class Steps:
    """The clock: what the model of latency says that a step of a replica takes, when these lanes stand for all.

    Args: free: prompts cost nothing when they first come, since another pool has computed them. pace: 1.1 makes every
          step a tenth longer.
    """

    def __init__(self, point: Point, workload: Workload, lanes: int, *, free: bool = False, pace: float = 1.0) -> None:
        one = point.replica
        self._one, self._free, self._known, self._pace = one, free, set[str](), pace
        self._scale, self._lanes = one.lanes / lanes, lanes
        self._least, self._span = workload.input, max(1.0, workload.output)
        most = max(one.seats, one.lanes)
        self._short = decode_curve(one.setup, workload.input, most)
        self._long = decode_curve(one.setup, workload.input + self._span, most)
        self._own_decode, self._own_prefill = one.own_decode, one.own_prefill

    def __call__(self, plans: Sequence[Plan]) -> float:
        """Seconds until the slowest lane is done."""
        found = [self._lane(plan) for plan in plans]
        rows, keys = sum(row for row, _, _ in found), sum(key for _, key, _ in found)
        read = [tokens for _, _, tokens in found]
        seconds = 0.0
        if rows:
            load = self._uneven(rows, max(row for row, _, _ in found), self._own_decode)
            share = (keys / rows - self._least) / self._span
            short, long = self._short.seconds(load), self._long.seconds(load)
            seconds += max(0.0, short + (long - short) * share)
        if any(read):
            alone = self._reading(self._uneven(sum(read), max(read), self._own_prefill))
            seconds += alone * (self._one.mixed if rows else 1.0)
        return seconds * self._pace

    def _uneven(self, total: float, most: float, own: float) -> float:
        """The load of a replica: what lanes do for themselves takes as long as the fullest, the rest the sum."""
        return own * most * self._one.lanes + (1.0 - own) * total * self._scale

    def _reading(self, tokens: float) -> float:
        curve = self._one.prefill
        least = curve.grid[0]
        return curve.seconds(tokens) if tokens >= least else curve.seconds(least) * tokens / least

    def _lane(self, plan: Plan) -> tuple[int, int, int]:
        """(decodes, their keys, prompt tokens that take time) of one lane."""
        rows = keys = tokens = 0
        for row in plan.rows:
            count = len(row.token_ids) - row.drafts
            if count == 1 and row.sampling is not None:
                rows, keys = rows + 1, keys + row.start + 1
            elif self._free and row.request_id not in self._known:
                rows, keys = rows + 1, keys + row.start + count
            else:
                tokens += count
            if self._free and row.sampling is not None:
                self._known.add(row.request_id)
        return rows, keys, tokens


def transfer_s(point: Point, workload: Workload) -> float:
    """What the cache of a prompt takes from one replica to another [s]; ranks send side by side."""
    setup = point.replica.setup
    speed = setup.device.network_gbs or setup.device.link_gbs or setup.device.pcie_gbs
    if speed is None:
        raise ConfigError(f"device {setup.device.name}: no link is known; a split service needs network_gbs.")
    token, state = cache_bytes(setup)
    return (workload.input * token + state) / (speed * 1e9 * NETWORK)


def limits(point: Point, workload: Workload) -> SchedulerConfig:
    """What the engine of a replica is told, for each of its lanes: see fathom.batching.SchedulerConfig."""
    one = point.replica
    seats = max(1, min(round(SPARE * point.seats / one.lanes) + 1, int(one.seats / one.lanes)))
    if point.role == "prefill":
        seats = max(8, point.chunk // 256)
    drafts = one.setup.mtp + 1
    return SchedulerConfig(
        max_batch_tokens=max(point.chunk + (seats * drafts if point.role == "both" else 0), seats * drafts),
        max_sequences=seats,
        page_tokens=PAGE_TOKENS,
        num_pages=pages(one.room / one.lanes, PAGE_TOKENS),
        max_stretch=inf,  # the size of chunks is chosen so that replies keep their speed; one limit is enough
    )
