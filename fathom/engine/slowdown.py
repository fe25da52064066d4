"""Who serves on this machine, and how much slower plain torch is than native kernels: measured, not estimated.

One token at a time of the shipped model, through the whole engine. Where there are no kernels they cannot be timed:
then the factor is the one that was kept here while there were, or else another machine's, which is named.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from typing import Any

import torch

from fathom.config import cache_dir
from fathom.engine.bench import Bench
from fathom.engine.load import load_model
from fathom.engine.machine import Neighbours, processor
from fathom.ops import describe, use
from fathom.ops.speed import native_name

log = logging.getLogger(__name__)

MODEL, TOKENS, REPEATS = "nano", 16, 3
MOST_SHARE = 0.1  # of the processors that others may take during a measurement that is kept


@dataclass(frozen=True)
class Slowdown:
    """Both measured on one machine. kernels: which. kernels_s, reference_s: a token of nano, one at a time."""

    processor: str
    kernels: str
    kernels_s: float
    reference_s: float

    @property
    def times(self) -> float:
        """How much slower the reference is."""
        return self.reference_s / self.kernels_s


# Median of three on two calm cores of Zen 4, torch 2.13 (tests/engine/test_slowdown.py says how to take it again).
ELSEWHERE = Slowdown("AMD EPYC (Zen 4)", "avx512", kernels_s=0.18e-3, reference_s=5.8e-3)


@dataclass(frozen=True)
class Served:
    """answers: a variant of the kernels, or "reference" and `why`. token_s: what a token takes with them, here.

    here: whether `slowdown` was measured on this machine.
    """

    answers: str
    why: str
    token_s: float
    slowdown: Slowdown
    here: bool

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        facts = {"answers": self.answers, "why": self.why, "token_ms": round(1e3 * self.token_s, 3)}
        return facts | {"times_slower": round(self.slowdown.times, 1), "measured_on": self.where}

    @property
    def where(self) -> str:
        """The machine of the slowdown."""
        return "this machine" if self.here else f"another ({self.slowdown.processor})"


def served() -> Served:
    """Who serves here. Takes a second where something is still to be measured."""
    row, kept = describe()[-1], _kept()
    if row["answers"] == "reference":
        found = kept or ELSEWHERE
        return Served("reference", row["why"], _token_s(), found, here=kept is not None)
    if kept is None or kept.kernels != native_name():
        kept = _measured()
    return Served(row["answers"], "", kept.kernels_s, kept, here=True)


def _measured() -> Slowdown:
    """Both, now; kept unless others took so much of the processors that neither means much."""
    with Neighbours() as neighbours:
        with use("reference"):
            reference_s = _token_s()
        found = Slowdown(processor(), native_name(), _token_s(), reference_s)
    if neighbours.share > MOST_SHARE:
        log.info("others took %.0f %% of the processors: the slowdown is not kept", 100 * neighbours.share)
        return found
    path = cache_dir() / "slowdown.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(asdict(found), indent=1) + "\n", encoding="utf-8")
    fresh.replace(path)
    return found


def _token_s() -> float:
    """Median time of a token with whoever serves now [s]."""
    threads = torch.get_num_threads()
    try:
        return Bench(load_model(MODEL), tokens=TOKENS).decode(REPEATS).ms_per_step.median / 1e3
    finally:
        torch.set_num_threads(threads)


def _kept() -> Slowdown | None:
    """What was measured on this processor, if anything."""
    try:
        found = Slowdown(**json.loads((cache_dir() / "slowdown.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return found if found.processor == processor() else None
