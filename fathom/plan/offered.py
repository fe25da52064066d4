"""A replica that requests reach at random: how late the last of a hundred gets its first token, how slow its others.

A benchmark of a server sends requests at a rate, not a number at a time, and counts the largest rate at which nearly
all answers keep limits on both. The sequences that are decoded change little while a prompt is read, so the steps of
their mean number stand for all; what is followed is who comes during which step.
"""

from __future__ import annotations

import math
import random
from collections import deque
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np

from fathom.plan.flight import GOLDEN, Seconds

FOLLOWED = 1000  # requests
SEED = 5
LAST = 0.99  # of the requests keep the limits
ROUNDS = 3  # the number that is decoded depends on how long prompts hold it up, and the other way


@dataclass(frozen=True)
class Load:
    """What reaches a replica.

    Fields: rate: requests a second. prompt, output: tokens, means. variation: squared, of the tokens of answers.
            accepted: tokens of a step, for each sequence. lanes: dp ranks, of which each reads its own prompts.
            chunk: tokens of prompts that a step reads at most, of all lanes.
    """

    rate: float
    prompt: float
    output: float
    variation: float = 0.0
    accepted: float = 1.0
    lanes: int = 1
    chunk: float = 8192


@dataclass(frozen=True)
class Tails:
    """first_s, token_s: of the last of a hundred. mean_s: time per token. running: sequences decoded at a time."""

    first_s: float
    token_s: float
    mean_s: float
    running: float


def tails(load: Load, step_s: Seconds, read_s: Seconds) -> Tails:
    """What requests wait for under a load; `running` is infinite where it cannot be kept up.

    Args: step_s: seconds of a decode step of so many sequences. read_s: of a step that reads so many tokens, beyond it.
    """
    held = 0.0
    for _ in range(ROUNDS):
        running = _running(load, step_s, held)
        if running == math.inf:
            return Tails(math.inf, math.inf, math.inf, math.inf)
        found = _follow(load, step_s(running), read_s)
        held = found.mean_s * load.accepted - step_s(running)
    return Tails(found.first_s, found.token_s, found.mean_s, running)


def _running(load: Load, step_s: Seconds, held: float) -> float:
    """Sequences that are decoded at a time: those that come while one is answered (Little)."""
    running, each = 1.0, load.rate * load.output / load.accepted
    for _ in range(200):
        new = max(1.0, each * (step_s(running) + held))
        if new > 1e6:
            return math.inf
        if new - running < 1e-3 * running:
            break
        running = new
    return running


def _follow(load: Load, step: float, read_s: Seconds) -> Tails:
    """Requests that come at random, and the steps in which their prompts are read."""
    now, steps, waiting = 0.0, 0.0, deque[list[float]]()
    at, marks, firsts, begun = _arrivals(load.rate), [(0.0, 0.0)], list[float](), list[float]()
    for come in (*at, math.inf):
        while now < come and (waiting or come < math.inf):
            if not waiting:
                ahead = math.ceil((come - now) / step)
                now, steps = now + ahead * step, steps + ahead
                break
            taken, ready = _take(waiting, load)
            now += step + read_s(max(taken, load.lanes * min(taken, load.prompt)))
            steps += 1
            marks.append((steps, now))
            firsts += [now - one for one in ready]
            begun += [steps] * len(ready)
        if come < math.inf:
            waiting.append([come, load.prompt])
            marks.append((steps, now))
    return _summed(load, marks, firsts, begun)


def _take(waiting: deque[list[float]], load: Load) -> tuple[float, list[float]]:
    """(tokens that the next step reads, when those came whose prompts it completes)."""
    room, ready = load.chunk, list[float]()
    while waiting and room > 0:
        read = min(room, waiting[0][1])
        waiting[0][1] -= read
        room -= read
        if waiting[0][1] <= 0:
            ready.append(waiting.popleft()[0])
    return load.chunk - room, ready


def _summed(load: Load, marks: list[tuple[float, float]], firsts: list[float], begun: list[float]) -> Tails:
    """Tails, where the time that was followed repeats itself."""
    counted, clock = (np.array(column) for column in zip(*marks, strict=True))
    began = np.array(begun)
    ends = began + np.maximum(1.0, lengths(load.output, load.variation, len(begun)) / load.accepted)

    def time(step: np.ndarray) -> np.ndarray:
        laps = np.floor(step / counted[-1])
        return laps * clock[-1] + np.interp(step - laps * counted[-1], counted, clock)

    token = (time(ends) - time(began)) / (ends - began) / load.accepted
    mean = float(clock[-1] / counted[-1]) / load.accepted
    return Tails(float(np.quantile(firsts, LAST)), float(np.quantile(token, LAST)), mean, 0.0)


@lru_cache(maxsize=64)
def _arrivals(rate: float) -> tuple[float, ...]:
    chance, at, found = random.Random(SEED), 0.0, []
    for _ in range(FOLLOWED):
        at += chance.expovariate(rate)
        found.append(at)
    return tuple(found)


def lengths(mean: float, variation: float, count: int) -> np.ndarray:
    """Log-normal lengths with this mean and squared variation, evenly spread and in no order."""
    sigma = math.sqrt(math.log1p(variation))
    normal = NormalDist()
    return np.array([
        mean * math.exp(sigma * normal.inv_cdf(((n + 1) * GOLDEN % 1.0) or 0.5) - sigma * sigma / 2)
        for n in range(count)
    ])  # fmt: skip
