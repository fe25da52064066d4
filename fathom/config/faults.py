"""Faults that are made on purpose, to see what is done about them: what happens, to whom, and when. One TOML file.

    [[fault]]
    kind = "kill"
    rank = 1
    op = "combine"
    step = 9

Without a condition a fault strikes at the first moment that there is. See docs/faults.md.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Literal

from fathom.config.recipe import build, read_toml
from fathom.errors import ConfigError

Kind = Literal["kill", "stop", "exit", "raise", "memory", "delay", "drop", "corrupt"]
Op = Literal[
    "any", "load", "meet", "open", "compute", "begin", "columns", "rows", "dispatch", "combine", "send", "receive",
    "experts", "wait for orders",
]  # fmt: skip
SENDING = ("begin", "columns", "rows", "dispatch", "combine", "send")
"""Operations that send tensors."""


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong in a rank.

    Fields: kind: kill and stop are signals, exit and raise ends of its own, memory an allocation that fails; delay,
            drop and corrupt happen to what it sends. op, rank, layer, step: where; None is anywhere. token_id: in steps
            that compute this token. every: only each so many such moments. probability: of each that is left. seed: of
            that chance. times: it strikes so often in one life of the rank; 0: without end. delay_s: of a delay [s].
            lives: of the worker, the first is 0; none given: all of them. worker: such as main-0; "": all.
    """

    kind: Kind
    op: Op = "any"
    rank: int | None = None
    layer: int | None = None
    step: int | None = None
    token_id: int | None = None
    every: int = 1
    probability: float = 1.0
    seed: int = 0
    times: int = 1
    delay_s: float = 1.0
    lives: tuple[int, ...] = (0,)
    worker: str = ""

    def __post_init__(self) -> None:
        least = {"rank": 0, "layer": 0, "step": 0, "token_id": 0, "every": 1, "times": 0}
        for name, lowest in least.items():
            value = getattr(self, name)
            if value is not None and value < lowest:
                raise ConfigError(f"{name} is {value}; it must be at least {lowest}.")
        if not 0.0 < self.probability <= 1.0:
            raise ConfigError(f"probability is {self.probability}; it must be above 0 and at most 1.")
        if self.delay_s <= 0.0:
            raise ConfigError(f"delay_s is {self.delay_s} s; it must be above 0.")
        if self.kind == "corrupt" and self.op not in SENDING:
            raise ConfigError(f"op is {self.op!r}, which sends nothing to corrupt; take one of {', '.join(SENDING)}.")

    def __str__(self) -> str:
        return f"{self.kind} at {self.op}"


@dataclass(frozen=True)
class Faults:
    """What a file of faults holds."""

    fault: tuple[Fault, ...] = ()


def read_faults(path: str | Path) -> tuple[Fault, ...]:
    """The faults in a TOML file. Raises: ConfigError: a key is unknown, or a value does not fit."""
    return build(Faults, read_toml(path), str(path)).fault


def faults_of(faults: Iterable[Fault], worker: str, life: int) -> tuple[Fault, ...]:
    """Those that may strike in this life of this worker."""
    return tuple(fault for fault in faults if fault.worker in ("", worker) and (not fault.lives or life in fault.lives))


class Chances:
    """Says when the faults of one rank strike; the same moments always give the same faults."""

    def __init__(self, faults: Iterable[Fault], rank: int) -> None:
        self._due = [
            _Chance(fault, Random(f"{fault.seed} {number} {rank}"))
            for number, fault in enumerate(faults)
            if fault.rank in (None, rank)
        ]

    def due(self, op: str, layer: int, step: int, token_ids: Collection[int]) -> list[Fault]:
        """Those that strike now. layer: -1 is none. token_ids: what this step computes."""
        return [chance.fault for chance in self._due if chance.strikes(op, layer, step, token_ids)]


class _Chance:
    """One fault, and how often it was its turn."""

    def __init__(self, fault: Fault, rng: Random) -> None:
        self.fault, self._rng = fault, rng
        self._moments = self._struck = 0

    def strikes(self, op: str, layer: int, step: int, token_ids: Collection[int]) -> bool:
        fault = self.fault
        if fault.times and self._struck >= fault.times:
            return False
        here = fault.op in ("any", op) and fault.layer in (None, layer) and fault.step in (None, step)
        if not here or (fault.token_id is not None and fault.token_id not in token_ids):
            return False
        self._moments += 1
        if self._moments % fault.every or (fault.probability < 1.0 and self._rng.random() >= fault.probability):
            return False
        self._struck += 1
        return True
