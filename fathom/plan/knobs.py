"""The few parameters that published serving measurements identify, and how sure they are.

    layer     time of a layer of a decode step beside its bytes and sums: launches, small kernels, quantisation [s]
    memory    share of the memory bandwidth
    host      of a step, for each sequence of a rank: scheduling, sampling, text [s]
    prompt    steps that read prompts, over what the laws of kernels.py say
    drift     how `layer` changes with the date of the engine [1/year]

A family of models, an engine, a device and a precision move `layer` and `prompt`, each as far as its measurements
outweigh a prior (partial pooling); a new one starts at the mean. refit.py fits them to data/measured.csv and writes
data/knobs.toml.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from fathom.config import build, read_toml
from fathom.errors import ConfigError

FILE = Path(__file__).parent / "data" / "knobs.toml"
MIDDLE = 2026 + 1 / 12  # the date that `layer` is of: about the middle of those measured
REACH = 0.3  # of `drift`, before and after it [years]: what the measurements span
MEANS = ("layer", "memory", "host", "prompt", "drift")


@dataclass(frozen=True)
class Knob:
    """For one family, engine, device, precision and date. sd: relative, of one prediction."""

    layer_s: float
    memory: float
    host_s: float
    prompt: float
    sd: float


@dataclass(frozen=True)
class Knobs:
    """Logarithms (`drift` aside): means of all, and what a key adds, such as added["engine sglang"]["layer"].

    first: see rates.first_token_s. covariance: of two means, by their names ("layer prompt"). spread: half of an 80 %
    interval of a prediction whose group had no part in the fit, in logarithm, by what is predicted ("tpot", or for a
    family "tpot deepseek").
    """

    layer: float
    memory: float
    host: float
    prompt: float
    drift: float = 0.0
    added: dict[str, dict[str, float]] = field(default_factory=dict)
    first: dict[str, float] = field(default_factory=dict)
    covariance: dict[str, float] = field(default_factory=dict)
    spread: dict[str, float] = field(default_factory=dict)

    def __hash__(self) -> int:
        return hash((self.layer, self.memory, self.host, self.prompt, self.drift))  # tables are compared, not hashed

    def of(self, keys: tuple[str, ...], date: str = "") -> Knob:
        """The knobs for what `keys` name; an unknown one adds nothing."""
        layer = self.total("layer", keys) + self.drift * years(date)
        return Knob(
            math.exp(layer), math.exp(self.memory), math.exp(self.host), math.exp(self.total("prompt", keys)),
            self.spread.get("tpot", 0.2) / 1.2816,
        )  # fmt: skip

    def total(self, name: str, keys: tuple[str, ...]) -> float:
        """A mean with what keys add to it."""
        mean = self.first[name] if name in self.first else float(getattr(self, name))
        return mean + sum(self.added.get(key, {}).get(name, 0.0) for key in keys)


def years(date: str) -> float:
    """From MIDDLE to a date [years], within REACH; 0 if it is not said.

    Raises: ConfigError: it does not begin like 2026-02.
    """
    if not date:
        return 0.0
    found = re.match(r"(\d{4})-(\d\d)", date)
    if found is None or not 1 <= int(found[2]) <= 12:
        raise ConfigError(f"date is {date!r}; write a year and a month, such as 2026-02.")
    return max(-REACH, min(REACH, int(found[1]) + (int(found[2]) - 0.5) / 12 - MIDDLE))


@lru_cache(maxsize=1)
def shipped() -> Knobs:
    """The knobs that come with the package."""
    return build(Knobs, read_toml(FILE), str(FILE))
