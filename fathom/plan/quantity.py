"""A number that the planner says, never bare: its unit, what it means, how sure it is and where it is from."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

from fathom.errors import ConfigError

Source = Literal["published", "measured", "computed", "fitted", "inferred", "given"]
COVERAGE = 0.8  # share of the truths that lie within an interval


@dataclass(frozen=True)
class Quantity:
    """A value and what it rests on.

    Fields: unit: such as "ms", "tok/s/GPU", "USD". meaning: the metric's definition, where there are several. low,
            high: an interval that holds the truth in COVERAGE of all cases; None: exact arithmetic. bound: the resource
            that sets it ("memory bandwidth", "compute", ...). source: how it was come by; note: from where.
    """

    value: float
    unit: str
    meaning: str = ""
    low: float | None = None
    high: float | None = None
    bound: str = ""
    source: Source = "computed"
    note: str = ""

    def __post_init__(self) -> None:
        if not self.unit:
            raise ConfigError(f"{self.meaning or self.value!r} has no unit; say one, such as 'ms', or '1' for a ratio.")
        for name in ("value", "low", "high"):
            number = getattr(self, name)
            if number is not None and not math.isfinite(number):
                raise ConfigError(f"{self.meaning or 'a quantity'}: {name} is {number}; it must be a finite number.")
        if (self.low is None) != (self.high is None):
            raise ConfigError(f"{self.meaning or 'a quantity'} has one end of an interval; give low and high, or none.")

    def times(self, factor: float, unit: str = "") -> Quantity:
        """The same, in another scale [unit]."""
        ends = [None if end is None else end * factor for end in (self.low, self.high)]
        low, high = ends if factor >= 0 else reversed(ends)
        return replace(self, value=self.value * factor, low=low, high=high, unit=unit or self.unit)

    def to_dict(self) -> dict[str, Any]:
        """As JSON, without what is empty."""
        facts = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {name: value for name, value in facts.items() if value not in (None, "")}

    def __str__(self) -> str:
        interval = "" if self.low is None or self.high is None else f" ({digits(self.low)} to {digits(self.high)})"
        return f"{digits(self.value)} {self.unit}{interval}" if self.unit != "1" else f"{digits(self.value)}{interval}"


def digits(value: float) -> str:
    """A number as people read it: three significant digits, thousands separated, none lost before the point."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    before = math.floor(math.log10(abs(value))) + 1
    if before > 15 or before < -3:
        return f"{value:.3g}"
    return f"{value:,.{max(0, 3 - before)}f}"
