"""What the page asks: every input with its words, unit, default and limits, and how its text is read.

A number is written as people do (14.8T, 600k, 50, 1e9). An input that is not sure is three of them, "6M..10M..15M":
P10, the value, P90; or one, which is then exact. An empty text leaves the choice to the planner.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from fathom.config import nearest
from fathom.errors import RequestError
from fathom.plan.families import known
from fathom.plan.hardware import Catalogue
from fathom.plan.precision import PRECISIONS

Kind = Literal["choice", "number", "sure"]
NUMBER = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)\s*(k|m|bn|b|g|t|%)?", re.IGNORECASE)
SUFFIX = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "bn": 1e9, "g": 1e9, "t": 1e12, "%": 0.01}
LONGEST = 60  # characters of an input


@dataclass(frozen=True)
class Field:
    """One input. kind: one of `choices`, a number, or one that is not sure. low, high: what a number may be."""

    name: str
    label: str
    default: str = ""
    unit: str = ""
    kind: Kind = "number"
    hint: str = ""
    low: float = 0.0
    high: float = 1e18
    whole: bool = False
    empty: str = ""  # what an empty text means; "" where it may not be empty
    choices: tuple[tuple[str, str], ...] = ()  # value, words

    def to_dict(self) -> dict[str, Any]:
        """As JSON, without what is empty."""
        facts = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {name: value for name, value in facts.items() if value not in ("", ()) or name == "default"}


@lru_cache(maxsize=1)
def groups() -> tuple[tuple[str, tuple[Field, ...]], ...]:
    """All inputs, in groups as the page shows them."""
    return (("Model and machines", _machines()), ("Requests and targets", _REQUESTS), ("Training", _TRAINING),
            ("Demand and money", _DEMAND))  # fmt: skip


def _machines() -> tuple[Field, ...]:
    devices = tuple((name, device.title) for name, device in Catalogue.read().items())
    models = tuple((name, name) for name in known() if name not in ("nano",))
    stored = (("", "as the checkpoint"), *((name, name) for name in PRECISIONS))
    return (
        Field("model", "Model", "deepseek-v3", kind="choice", choices=models),
        Field("gpu", "Device", "h800_sxm", kind="choice", choices=devices),
        Field("gpus", "Devices", "16", "GPU", hint="of one replica: does it fit?", low=1, high=1024, whole=True),
        Field("precision", "Weights", "", kind="choice", choices=stored),
        Field("cache", "Cache", "bf16", kind="choice", choices=(("bf16", "BF16"), ("fp8", "FP8"))),
    )  # fmt: skip


_REQUESTS = (
    Field("in", "Prompt", "4096", "tokens", low=1, high=1e7, whole=True),
    Field("out", "Reply", "1024", "tokens", hint="reasoning included", low=2, high=1e6, whole=True),
    Field("hit", "Found in a cache", "0", "of the prompt", hint="0.56 or 56%", high=0.99),
    Field("ttft", "First token within", "2", "s", low=0.01, high=3600),
    Field("tpot", "Then a token every", "50", "ms", low=0.5, high=1e5),
    Field("percentile", "Kept for", "90", "% of requests", low=50, high=99.9),
    Field("mtp", "Drafts", "1", kind="choice", hint="tokens guessed ahead in a step, where the model can",
          choices=(("0", "none"), ("1", "one, or none"), ("2", "two or fewer"))),
    Field("acceptance", "Drafts accepted", "0.8", "of them", high=1),
    Field("largest", "Largest replica", "160", "GPU", hint="of the search; more take longer", low=1, high=512,
          whole=True),
)  # fmt: skip
_TRAINING = (
    Field("tokens", "Tokens", "14.8T", "tokens", low=1e6, high=1e16),
    Field("trained_on", "Devices", "2048", "GPU", low=1, high=1e6, whole=True),
    Field("train_price", "Price", "", "USD/GPU/h", low=0.001, high=1e4, empty="the catalogue's"),
    Field("rl", "Reinforcement learning", "294k", "USD", hint="counted in the crossover; R1: 147K GPU-hours"),
    Field("rd", "Final run in all research", "0.05..0.10..0.25", "share", "sure", low=0.001, high=1,
          hint="Epoch AI: about a tenth in 2024; the ends are inferred"),
)  # fmt: skip
_DEMAND = (
    Field("users", "Daily users", "6M..10M..15M", "users", "sure", low=1, high=1e11),
    Field("answers", "Replies each", "6..10..16", "a day", "sure", low=1e-3, high=1e5),
    Field("lengths", "Lengths within", "1.3", "times, either way", hint="of prompts and replies: P10 and P90", low=1,
          high=100),
    Field("peak", "Busiest hour", "1.2..1.5..2.0", "times the mean", "sure", low=1, high=100),
    Field("growth", "Growth", "20%..60%..120%", "a year", "sure", low=-0.99, high=100),
    Field("cheaper", "Tokens per dollar", "20%..35%..50%", "more a year", "sure", low=-0.9, high=100),
    Field("years", "Years", "5", "years", low=1, high=15, whole=True),
    Field("price", "Price", "", "USD/GPU/h", low=0.001, high=1e4, empty="the catalogue's"),
    Field("server", "Server of 8", "300k", "USD", hint="for capital", low=1, high=1e8),
    Field("of", "What moves", "bill", kind="choice", choices=(("bill", "the bill"), ("capital", "capital"))),
)  # fmt: skip


@dataclass(frozen=True)
class Sure:
    """A value, and the ends that hold it four times of five; both or neither."""

    value: float
    low: float | None = None
    high: float | None = None

    def table(self, note: str = "") -> dict[str, Any]:
        """As a demand's file has it."""
        ends = {} if self.low is None else {"low": self.low, "high": self.high}
        return {"value": self.value, **ends, **({"note": note} if note else {})}


class Asked:
    """The inputs of a question. Raises: RequestError: one is unknown, or cannot be; `param` says which."""

    def __init__(self, query: Mapping[str, str]) -> None:
        self._fields = {field.name: field for _, fields in groups() for field in fields}
        for name in query:
            if name not in self._fields:
                raise RequestError(
                    f"{name[:LONGEST]!r} is no input{nearest(name, self._fields)}.", param=name[:LONGEST]
                )
        self._query = query

    def text(self, name: str) -> str:
        """A choice, or the text of a number."""
        field = self._fields[name]
        said = self._query.get(name, field.default).strip()
        if len(said) > LONGEST:
            raise RequestError(f"{name} has {len(said)} characters; it may have {LONGEST}.", param=name)
        allowed = [value for value, _ in field.choices]
        if allowed and said not in allowed:
            names = ", ".join(filter(None, allowed))
            raise RequestError(f"{name} is {said!r}{nearest(said, allowed)}; use one of {names}.", param=name)
        return said

    def number(self, name: str) -> float:
        """A number that must be there."""
        return _number(self._fields[name], self.text(name))

    def whole(self, name: str) -> int:
        """A whole number."""
        return int(self.number(name))

    def maybe(self, name: str) -> float | None:
        """A number, or None where the planner shall choose."""
        return self.number(name) if self.text(name) else None

    def sure(self, name: str) -> Sure:
        """A value with its ends."""
        field, parts = self._fields[name], [part.strip() for part in self.text(name).split("..")]
        if len(parts) not in (1, 3):
            raise RequestError(f"{name} is {self.text(name)!r}; write P10..value..P90, or one number.", param=name)
        values = [_number(field, part) for part in parts]
        if len(values) == 1 or values[0] == values[2]:
            return Sure(values[len(values) // 2])
        if not values[0] <= values[1] <= values[2]:
            raise RequestError(f"{name} is {self.text(name)!r}; P10, value and P90 must rise.", param=name)
        return Sure(values[1], values[0], values[2])


def _number(field: Field, text: str) -> float:
    match = NUMBER.fullmatch(text.replace(",", ""))
    if match is None:
        said = repr(text) if text else "empty"
        raise RequestError(f"{field.name} is {said}; it must be a number, such as {_example(field)}.", param=field.name)
    value = float(match[1]) * SUFFIX[(match[2] or "").lower()]
    if not (math.isfinite(value) and field.low <= value <= field.high):
        unit = f" {field.unit}" if field.unit else ""
        raise RequestError(
            f"{field.name} is {value:g}{unit}; it must be from {field.low:g} to {field.high:g}.", param=field.name
        )
    if field.whole and value != int(value):
        raise RequestError(f"{field.name} is {value:g}; it must be a whole number.", param=field.name)
    return value


def _example(field: Field) -> str:
    return field.default.split("..")[0] or "2"
