"""What an estimate is told: a value, how sure it is, and whether it was published, measured, inferred or given.

In a TOML file an input is a number, which is then exactly that, or a table:

    [users.dau]
    value = 9e6
    low = 7e6        # nine of ten truths lie above: P10
    high = 12e6      # and nine of ten below: P90
    source = "published"
    note = "where it was read"

The value is the median. Between and beyond the two ends the input is normal on a scale where that makes sense: the
logarithm of a quantity, the log-odds of a share, ln(1 + x) of a rate per year; each side has its own width.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fathom.config import nearest
from fathom.errors import ConfigError
from fathom.plan.quantity import Quantity

Scale = Literal["amount", "share", "rate"]
Tag = Literal["published", "measured", "computed", "inferred", "given"]
TAGS = ("published", "measured", "computed", "inferred", "given")
Array = NDArray[np.float64]
Z90 = 1.2815515655446004  # standard normal deviate that a tenth of all lie beyond
LARGEST = 1e30  # of an amount: beyond it products overflow, and no fleet or bill is that large


@dataclass(frozen=True)
class Term:
    """An input that a model knows. scale: amount (0 or more), share (0 to 1), rate (per year, above -1)."""

    unit: str
    meaning: str
    scale: Scale = "amount"
    least: float = 0.0

    def check(self, value: float, what: str) -> float:
        """The value. Raises: ConfigError: it cannot be one."""
        unit = "" if self.unit == "1" else f" {self.unit}"
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ConfigError(f"{what} is {value!r}; it must be a finite number{f' [{self.unit}]' if unit else ''}.")
        if self.scale == "share" and not 0.0 <= value <= 1.0:
            raise ConfigError(f"{what} is {value}; it must be a share from 0 to 1.")
        if self.scale == "rate" and not -1.0 < value <= 100.0:
            raise ConfigError(f"{what} is {value}; it must be a change per year above -1 (-0.5 is half), at most 100.")
        if self.scale == "amount" and not self.least <= value <= LARGEST:
            raise ConfigError(f"{what} is {value}{unit}; it must be from {self.least:g} to {LARGEST:g}{unit}.")
        return float(value)


@dataclass(frozen=True)
class Input:
    """One input. low, high: P10 and P90; None: exactly the value. tag: how it was come by; note: from where."""

    name: str
    term: Term
    value: float
    low: float | None = None
    high: float | None = None
    tag: Tag = "given"
    note: str = ""

    @property
    def spread(self) -> str:
        """Its distribution, in words."""
        if self.low is None:
            return "exact"
        return {"amount": "log-normal", "share": "logit-normal", "rate": "normal in ln(1 + x)"}[self.term.scale]

    def quantity(self) -> Quantity:
        """For a table or JSON."""
        return Quantity(
            self.value, self.term.unit, self.term.meaning, self.low, self.high, source=self.tag, note=self.note
        )

    def sample(self, count: int, seed: int) -> Array:
        """Draws of it: its own stream of numbers, the same whatever other inputs there are."""
        if self.low is None or self.high is None:
            return np.full(count, self.value)
        normal = np.random.default_rng([seed, zlib.crc32(self.name.encode())]).standard_normal(count)
        middle, low, high = (_there(self.term.scale, end) for end in (self.value, self.low, self.high))
        return _back(self.term.scale, middle + normal / Z90 * np.where(normal < 0, middle - low, high - middle))


def _there(scale: Scale, value: float) -> float:
    if scale == "share":
        return math.log(value / (1.0 - value))
    return math.log(value) if scale == "amount" else math.log1p(value)


def _back(scale: Scale, values: Array) -> Array:
    if scale == "share":
        return 1.0 / (1.0 + np.exp(-values))
    return np.exp(values) if scale == "amount" else np.expm1(values)


def read_input(name: str, term: Term, found: Any, where: str) -> Input:
    """The input that a TOML value describes. Raises: ConfigError: it describes none."""
    what = f"{where}: {name}"
    if not isinstance(found, Mapping):
        return Input(name, term, term.check(found, what))
    known = ("value", "low", "high", "source", "note")
    for key in found:
        if key not in known:
            raise ConfigError(f"{what}: unknown key {key!r}{nearest(str(key), known)}; known: {', '.join(known)}.")
    if "value" not in found:
        raise ConfigError(f"{what} has no value; add value = ... [{term.unit}].")
    tag, note = found.get("source", "given"), found.get("note", "")
    if tag not in TAGS:
        raise ConfigError(f"{what}: source is {tag!r}; it must be one of {', '.join(TAGS)}.")
    if tag in ("published", "measured", "inferred") and not (isinstance(note, str) and note):
        raise ConfigError(f"{what} is {tag} and does not say from where; add note = '...'.")
    value = term.check(found["value"], what)
    low, high = (None if found.get(e) is None else term.check(found[e], f"{what}: {e}") for e in ("low", "high"))
    return _spread(Input(name, term, value, low, high, tag, str(note)), what)


def _spread(one: Input, what: str) -> Input:
    if (one.low is None) != (one.high is None):
        raise ConfigError(f"{what} has one end of an interval; give low and high (P10 and P90), or none.")
    if one.low is None or one.high is None:
        return one
    if not one.low <= one.value <= one.high:
        raise ConfigError(f"{what}: low {one.low}, value {one.value}, high {one.high}; they must rise.")
    if one.term.scale != "rate" and (one.low <= 0.0 or one.term.scale == "share" and one.high >= 1.0):
        raise ConfigError(f"{what} reaches from {one.low} to {one.high}; an end at 0, or a share of 1, has no width.")
    return one


def read_inputs(table: Mapping[str, Any], terms: Mapping[str, Term], where: str) -> dict[str, Input]:
    """Every input of a table of tables, by its dotted name. Raises: ConfigError: one is unknown or cannot be."""
    return {name: read_input(name, terms[name], found, where) for name, found in _leaves(table, terms, where)}


def _leaves(table: Mapping[str, Any], terms: Mapping[str, Term], where: str) -> Iterator[tuple[str, Any]]:
    sections = {name.partition(".")[0] for name in terms}
    for section, inner in table.items():
        if section not in sections:
            raise ConfigError(f"{where}: unknown section {section!r}{nearest(str(section), sections)}.")
        if not isinstance(inner, Mapping):
            raise ConfigError(f"{where}: {section} is {inner!r}; it must be a table, [{section}].")
        for key, found in inner.items():
            name = f"{section}.{key}"
            if name not in terms:
                raise ConfigError(f"{where}: unknown input {name!r}{nearest(name, terms)}.")
            yield name, found


def values(inputs: Mapping[str, Input]) -> dict[str, float]:
    """Every input as it was said."""
    return {name: one.value for name, one in inputs.items()}


def samples(inputs: Mapping[str, Input], count: int, seed: int) -> dict[str, Array]:
    """`count` draws of every input, independent of each other."""
    return {name: one.sample(count, seed) for name, one in inputs.items()}


def check_sampling(count: int, seed: int) -> None:
    """Raises: ConfigError: too few or too many draws, or a seed below 0."""
    if not 100 <= count <= 1_000_000:
        raise ConfigError(f"samples is {count}; it must be from 100 to 1,000,000, such as 10,000.")
    if seed < 0:
        raise ConfigError(f"seed is {seed}; it must be at least 0.")


def spoken(value: float, significant: int = 4) -> str:
    """A number as people say it: 113.9 bn, 30 T, 87,072, 226.8; digits before the point are kept below ten million."""
    size = abs(value)
    if size >= 1e16 or 0 < size < 1e-4:
        return f"{value:.{significant - 1}e}"
    scale, word = next(
        ((s, w) for s, w in ((1e12, " T"), (1e9, " bn"), (1e6, " M")) if size >= s and size >= 1e7), (1, "")
    )
    value /= scale
    before = max(1, math.floor(math.log10(abs(value))) + 1) if value else 1
    after = max(0, significant - before) if size >= 1 or not size else significant - math.floor(math.log10(size)) - 1
    text = f"{value:,.{after}f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text) + word


@dataclass(frozen=True)
class Spread:
    """P10, P50 and P90 of what was sampled, all in `unit`."""

    p10: float
    p50: float
    p90: float
    unit: str
    meaning: str = ""

    @classmethod
    def of(cls, drawn: Array | Sequence[float], unit: str, meaning: str = "") -> Spread:
        """Of draws."""
        p10, p50, p90 = (float(end) for end in np.quantile(np.asarray(drawn, dtype=np.float64), (0.1, 0.5, 0.9)))
        return cls(p10, p50, p90, unit, meaning)

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__ if getattr(self, name) != ""}
