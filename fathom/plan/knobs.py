"""The few parameters that published serving measurements identify: time of a layer, share of the memory bandwidth, and
share of the peak while prompts are read beside decoding.

A family of models, an engine and a device move the first and the last of them from the mean of all, each as far as its
measurements outweigh the prior (partial pooling); a new engine or device starts at the mean. refit.py fits them to
data/measured.csv and writes data/knobs.toml.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from fathom.config import build, read_toml

FILE = Path(__file__).parent / "data" / "knobs.toml"


@dataclass(frozen=True)
class Knob:
    """For one family, engine and device. layer_s: of a decode step [s/layer]. memory: share of the bandwidth. prompt:
    share of the peak while prompts are read between decode steps. sd: relative, of one prediction."""

    layer_s: float
    memory: float
    prompt: float
    sd: float


@dataclass(frozen=True)
class Knobs:
    """Logarithms: means of all, and what family, engine and device add ("layer", "prompt").

    memory: share of the bandwidth. ttft: start [s], queue, steps: see rates.first_token_s. spread: of single
    predictions left out of the fit, half of an 80 % interval in logarithm.
    """

    layer: float
    memory: float
    prompt: float
    added: dict[str, dict[str, float]] = field(default_factory=dict)
    ttft: dict[str, float] = field(default_factory=dict)
    spread: dict[str, float] = field(default_factory=dict)

    def of(self, family: str, engine: str, device: str) -> Knob:
        """The knobs for a family of models on an engine and a device; an unknown one adds nothing."""
        keys = (f"family {family}", f"engine {engine}", f"device {device}")
        layer = self.layer + sum(self.added.get(key, {}).get("layer", 0.0) for key in keys)
        prompt = self.prompt + sum(self.added.get(key, {}).get("prompt", 0.0) for key in keys)
        return Knob(math.exp(layer), math.exp(self.memory), math.exp(prompt), self.spread.get("tpot", 0.2) / 1.2816)


@lru_cache(maxsize=1)
def shipped() -> Knobs:
    """The knobs that come with the package."""
    return build(Knobs, read_toml(FILE), str(FILE))
