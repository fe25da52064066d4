"""When requests come and how long they are: at random with the shape of a day, or from a trace of your own.

A trace is a file of JSON lines: {"arrival_s": 0.25, "in": 4000, "out": 700}.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fathom.errors import InputError

PARTS = ((0.0, 1), (6.0, 2), (12.0, 1))  # hours from the busiest, and how many quarters of a day are like that


@dataclass(frozen=True)
class Arrival:
    """One request. at_s: since the beginning. input, output: tokens."""

    at_s: float
    input: int
    output: int


def level(hours: float, peak: float) -> float:
    """The rate so many hours from the busiest one, over the day's mean: a cosine [1].

    Args: peak: of the busiest hour. At twice the mean and more, the quietest hour has next to nothing.
    """
    return max(0.05, 1.0 + (peak - 1.0) * math.cos(2.0 * math.pi * hours / 24.0))


def poisson(
    rate: float,
    input_tokens: float,
    output_tokens: float,
    chance: random.Random,
    *,
    spread: float = 0.2,
    turns: float = 1.0,
) -> Iterator[Arrival]:
    """Requests without end at `rate` [1/s]; lengths are log-normal around their means.

    Args: spread: standard deviation of a length over its mean. turns: they are every so-many-th of those that come at
          random, as a router deals them out; 1: all of them.
    """  # fmt: skip
    at = 0.0
    while True:
        at += chance.gammavariate(turns, 1.0 / (rate * turns))
        yield Arrival(at, length(input_tokens, spread, chance), length(output_tokens, spread, chance, least=2))


def length(mean: float, spread: float, chance: random.Random, *, least: int = 1) -> int:
    """A number of tokens, log-normal with this mean and relative standard deviation."""
    if spread <= 0.0:
        return max(least, round(mean))
    sigma = math.sqrt(math.log1p(spread * spread))
    return max(least, round(mean * chance.lognormvariate(-sigma * sigma / 2, sigma)))


def read_trace(path: Path) -> tuple[Arrival, ...]:
    """The requests of a trace, in order of arrival. Raises: InputError: with the line that cannot be used."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}); a trace is a file of JSON lines.") from error
    found = [_arrival(line, f"{path}:{n}") for n, line in enumerate(lines, 1) if line.strip()]
    if len(found) < 2:
        raise InputError(f"{path} holds {len(found)} requests; a trace needs at least 2.")
    return tuple(sorted(found, key=lambda one: one.at_s))


def _arrival(line: str, where: str) -> Arrival:
    try:
        table = json.loads(line)
    except ValueError as error:
        raise InputError(f"{where} is no JSON ({error}).") from error
    if not isinstance(table, dict):
        raise InputError(f'{where} is no object; write {{"arrival_s": 0.25, "in": 4000, "out": 700}}.')
    at = _number(table, "arrival_s", 0.0, where)
    return Arrival(at, int(_number(table, "in", 1, where)), int(_number(table, "out", 1, where)))


def _number(table: dict[str, Any], key: str, least: float, where: str) -> float:
    value = table.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < least:
        raise InputError(f"{where}: {key} is {value!r}; it must be a number of {least:g} or more.")
    return float(value)


def thinned(trace: Sequence[Arrival], share: float) -> Iterator[Arrival]:
    """Every 1/share-th request, as a router that takes turns gives them to that share of the replicas."""
    taken = 0.0
    for one in trace:
        taken += share
        if taken >= 1.0 - 1e-9:
            taken -= 1.0
            yield one


def mean_rate(trace: Sequence[Arrival]) -> float:
    """Requests per second over the whole trace; the last one ends it."""
    span = trace[-1].at_s - trace[0].at_s
    return (len(trace) - 1) / span if span > 0 else float(len(trace))


def means(trace: Iterable[Arrival]) -> tuple[float, float]:
    """(input, output) tokens of a request, on average."""
    found = list(trace)
    return sum(one.input for one in found) / len(found), sum(one.output for one in found) / len(found)
