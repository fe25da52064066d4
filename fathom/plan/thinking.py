"""What longer thought costs, and where it stops being worth it.

A generated token costs more the longer its context is: the cache of a sequence takes room that another sequence could
have had (a smaller batch shares the reading of the weights), and it is read at every step. Both grow in proportion to
the context, so that the cost of a token is a straight line in it,

    cost(context) = cost(0) x (1 + context / doubling)

and an answer of n tokens after a prompt of p costs n x cost(p + n / 2). `doubling` comes from systems that were
measured at several lengths (published.py); measured accuracy comes from curves.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fathom.config import nearest, read_toml
from fathom.config.recipe import override
from fathom.errors import ConfigError
from fathom.plan.curves import Cell, joined
from fathom.plan.flow import DAY_S
from fathom.plan.inputs import Array, Input, Term, check_sampling, read_inputs
from fathom.plan.published import systems
from fathom.plan.quantity import Quantity

FILE = Path(__file__).parent / "data" / "thinking.toml"
TERMS = {
    "answers.prompt": Term("tokens", "read before an answer"),
    "answers.per_day": Term("1/day", "answers"),
    "answers.lifetime": Term("1", "answers that the model gives in its life"),
    "answers.value": Term("money", "what a right answer is worth"),
    "fleet.prefill": Term("tok/s/GPU", "input tokens that an accelerator reads", least=1e-9),
    "fleet.decode": Term("tok/s/GPU", "output tokens that it generates, at `fleet.context`", least=1e-9),
    "fleet.context": Term("tokens", "mean context that fleet.decode is said of"),
    "fleet.doubling": Term("tokens", "of context that double the cost of a token without any", least=1.0),
    "fleet.peak_to_average": Term("1", "load to be met over mean load", least=1.0),
    "fleet.active_parameters": Term("1", "that a token meets, of the model that the rates are said of", least=1.0),
    "money.gpu_hour": Term("money/h", "an accelerator"),
    "training.per_exaflop": Term("money/EFLOP", "of training, 1e18 FLOP", least=1e-18),
}
NEEDED = ("answers.prompt", "answers.per_day", "fleet.prefill", "fleet.decode", "fleet.context", "money.gpu_hour")
LENGTHS = (0, 300, 1_000, 3_750, 8_000, 32_000)  # 300 and 3,750: mean answers of Llama-2 and of R1 in MLPerf


@dataclass(frozen=True)
class Rates:
    """What tokens cost. inputs: of TERMS. currency: of the money in them."""

    title: str
    inputs: Mapping[str, Input]
    currency: str = "USD"

    def __getitem__(self, name: str) -> float:
        return self.inputs[name].value

    @property
    def doubling(self) -> float:
        """Tokens of context that double the cost of a token without any."""
        return self["fleet.doubling"] if "fleet.doubling" in self.inputs else doubling_context().value

    def read_seconds(self, prompt: float) -> float:
        """Seconds of an accelerator to read a prompt [GPU s]."""
        return prompt / self["fleet.prefill"]

    def write_seconds(self, prompt: float, tokens: float, *, flat: bool = False) -> float:
        """Seconds of an accelerator to generate so many tokens after a prompt [GPU s].

        Args: flat: every token costs what one costs at fleet.context.
        """
        longer = (1.0 + (prompt + tokens / 2.0) / self.doubling) / (1.0 + self["fleet.context"] / self.doubling)
        return tokens / self["fleet.decode"] * (1.0 if flat else longer)

    def seconds(self, tokens: float, samples: int = 1) -> float:
        """Seconds of an accelerator for an answer of `samples` samples of so many tokens each [GPU s]."""
        prompt = self["answers.prompt"]
        return self.read_seconds(prompt) + samples * self.write_seconds(prompt, tokens)

    def money(self, seconds: float) -> float:
        """Of seconds of an accelerator."""
        return seconds * self["money.gpu_hour"] / 3600.0

    def fleet(self, seconds: float) -> float:
        """Accelerators that give all answers of a day at so many seconds each [GPU]."""
        peak = self["fleet.peak_to_average"] if "fleet.peak_to_average" in self.inputs else 1.0
        return seconds * self["answers.per_day"] / DAY_S * peak


def read_rates(path: str | Path | None = None, overrides: Sequence[str] = ()) -> Rates:
    """The rates of a TOML file; None: those of a V3-class model as published."""
    return from_table(override(read_toml(path or FILE), list(overrides)), str(path or FILE))


def from_table(table: Mapping[str, Any], where: str = "rates") -> Rates:
    """The rates of a table, as a TOML file holds it. Raises: ConfigError: they cannot be."""
    texts, sections = ("title", "currency"), {name.partition(".")[0] for name in TERMS}
    for key in table:
        if key not in (*texts, *sections):
            raise ConfigError(f"{where}: unknown key {key!r}{nearest(str(key), (*texts, *sections))}.")
    for key in texts:
        if not isinstance(table.get(key, ""), str):
            raise ConfigError(f"{where}: {key} is {table[key]!r}; it must be a text.")
    inputs = read_inputs({name: inner for name, inner in table.items() if name in sections}, TERMS, where)
    missing = [name for name in NEEDED if name not in inputs]
    if missing:
        raise ConfigError(f"{where}: {', '.join(missing)} must be given; add {'it' if len(missing) == 1 else 'them'}.")
    return Rates(str(table.get("title", where)), inputs, str(table.get("currency", "USD")))


def doubling_context() -> Quantity:
    """Context that doubles the cost of a token, from systems measured at several lengths [tokens].

    For each device: the straight line of cost against mean context with the least relative error. The value is the
    median over devices, the interval their range.
    """
    lines: dict[str, list[tuple[float, float]]] = {}
    for one in systems():
        if one.mixed and one.input == 1024:
            lines.setdefault(one.device, []).append((one.mean_context, 1.0 / one.mixed))
    found = []
    for points in lines.values():
        if len(points) > 1:
            context, cost = np.array(points).T
            offset, slope = np.linalg.lstsq(np.stack([1.0 / cost, context / cost], 1), np.ones_like(cost), rcond=None)[
                0
            ]
            found.append(float(offset / slope))
    return Quantity(
        float(np.median(found)), "tokens", "of context that double the cost of a token", min(found), max(found),
        "memory for the cache", "fitted", "TensorRT-LLM, DeepSeek-R1 on H200, B200 and GB200, outputs of 1K to 32K",
    )  # fmt: skip


@dataclass(frozen=True)
class Length:
    """What an answer of `tokens` generated tokens costs. flat: at one price for every token."""

    tokens: int
    flat: Quantity
    cost: Quantity
    accelerators: Quantity


def lengths(rates: Rates, tokens: Sequence[int] = LENGTHS) -> tuple[Length, ...]:
    """Answer cost and fleet for several lengths, with and without the cost of a growing context."""
    found, prompt = [], rates["answers.prompt"]
    for count in tokens:
        reading = rates.read_seconds(prompt)
        flat, seconds = reading + rates.write_seconds(prompt, count, flat=True), rates.seconds(count)
        found.append(
            Length(
                count, Quantity(rates.money(flat), rates.currency, "an answer, every token at one price"),
                Quantity(rates.money(seconds), rates.currency, "an answer, its context growing"),
                Quantity(rates.fleet(seconds), "GPU", "for all answers of a day, at the peak"),
            )
        )  # fmt: skip
    return tuple(found)


@dataclass(frozen=True)
class Priced:
    """A way of thinking with what it costs. frontier: none that costs less is right as often."""

    cell: Cell
    cost: Quantity
    accuracy: Quantity
    accelerators: Quantity
    frontier: bool = False

    @property
    def per_right(self) -> float | None:
        """Cost of a right answer; None: there is none."""
        return self.cost.value / self.cell.accuracy if self.cell.accuracy > 0.0 else None

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        named = {name: getattr(self, name).to_dict() for name in ("cost", "accuracy", "accelerators")}
        cell = {"mode": self.cell.label, "thinking_tokens": self.cell.thinking, "answer_tokens": self.cell.answer}
        return {**cell, "samples": self.cell.samples, "n": self.cell.n, **named, "frontier": self.frontier}


def priced(cells: Sequence[Cell], rates: Rates) -> tuple[Priced, ...]:
    """Each way of thinking with its cost, the cheapest first."""
    made = []
    for cell in joined(cells):
        seconds = rates.seconds(cell.thinking + cell.answer, cell.samples)
        low, high = cell.interval() or (None, None)
        note = "Wilson, over problems" if low is not None else ""
        accuracy = Quantity(cell.accuracy, "1", "share of answers that are right", low, high, "", "measured", note)
        cost = Quantity(rates.money(seconds), rates.currency, "an answer")
        made.append(Priced(cell, cost, accuracy, Quantity(rates.fleet(seconds), "GPU", "at the peak")))
    made.sort(key=lambda one: (one.cost.value, -one.cell.accuracy))
    best, found = -1.0, []
    for one in made:
        found.append(Priced(one.cell, one.cost, one.accuracy, one.accelerators, one.cell.accuracy > best))
        best = max(best, one.cell.accuracy)
    return tuple(found)


def knee(costs: Sequence[float] | Array, accuracies: Sequence[float] | Array) -> int:
    """Which point of a rising curve lies farthest above the line from its first to its last (cost in doublings).

    After it a doubling of the cost buys less than it did on average, before it more. Points are in order of cost.
    """
    x, y = np.log(np.asarray(costs, dtype=np.float64)), np.asarray(accuracies, dtype=np.float64)
    if len(x) < 3 or x[-1] == x[0]:
        return int(np.argmax(y))
    return int(np.argmax(y - y[0] - (y[-1] - y[0]) * (x - x[0]) / (x[-1] - x[0])))


@dataclass(frozen=True)
class Advice:
    """Which way of thinking to choose, and how sure that is.

    Fields: knee: after it thought buys less. cheapest: per right answer. best: with answers.value; None: not said.
            sure: share of the resampled evaluations in which the knee was the same; None: nothing to resample.
    """

    knee: Priced
    cheapest: Priced | None
    best: Priced | None
    sure: float | None

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        named = {name: getattr(self, name) for name in ("knee", "cheapest", "best")}
        return {**{name: one.to_dict() if one else None for name, one in named.items()}, "sure": self.sure}


def advise(ways: Sequence[Priced], rates: Rates, count: int = 2_000, seed: int = 0) -> Advice:
    """The knee, the cheapest right answer and the best for what a right answer is worth."""
    check_sampling(count, seed)
    frontier = [one for one in ways if one.frontier]
    at = knee([one.cost.value for one in frontier], [one.cell.accuracy for one in frontier])
    right = [one for one in ways if one.per_right is not None]
    cheapest = min(right, key=lambda one: one.per_right or 0.0, default=None)
    best = None
    if "answers.value" in rates.inputs:
        best = max(ways, key=lambda one: rates["answers.value"] * one.cell.accuracy - one.cost.value)
    return Advice(frontier[at], cheapest, best, _sure(ways, frontier[at], count, seed))


def _sure(ways: Sequence[Priced], chosen: Priced, count: int, seed: int) -> float | None:
    """How often the knee is the same, with other problems of the same kinds.

    All modes answer the same problems, so problems are drawn for all of them at once where each answer is known; else
    each accuracy is drawn on its own.
    """
    random = np.random.default_rng(seed)
    sizes = {len(one.cell.right) for one in ways}
    if len(sizes) == 1 and min(sizes) > 1:
        right = np.array([one.cell.right for one in ways])
        drawn = random.multinomial(right.shape[1], np.full(right.shape[1], 1 / right.shape[1]), count)
        accuracies = drawn @ right.T / right.shape[1]
    elif all(one.cell.n for one in ways):
        n = np.array([one.cell.n for one in ways])
        accuracies = random.binomial(n, [one.cell.accuracy for one in ways], (count, len(ways))) / n
    else:
        return None
    same, costs = 0, np.array([one.cost.value for one in ways])
    place = next(i for i, one in enumerate(ways) if one is chosen)
    for row in accuracies:
        frontier = np.flatnonzero(row > np.concatenate(([-1.0], np.maximum.accumulate(row)[:-1])))
        same += frontier[knee(costs[frontier], row[frontier])] == place
    return float(same / count)
