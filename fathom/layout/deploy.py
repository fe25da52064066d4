"""A deployment, described: which pools of replicas serve a model, each in which layout. One TOML file.

model = "nano"

[[pool]]
name = "decode"
layout = { dp = 2, ep = 2 }
replicas = 2

[engine]
max_sequences = 64
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from fathom.config import ModelConfig, build, read_toml
from fathom.errors import ConfigError
from fathom.layout import Layout

Role = Literal["both", "prefill", "decode"]


@dataclass(frozen=True)
class Scale:
    """How many replicas a pool may have, and when it has more or fewer (see serve/autoscale.py).

    Fields: queued_per_replica: with more requests waiting than that, more replicas are started. idle_s: for so long
            one of them must have had nothing to do before it is ended.
    """

    min: int = 1
    max: int = 1
    queued_per_replica: int = 8
    idle_s: float = 300.0

    def __post_init__(self) -> None:
        if not 1 <= self.min <= self.max:
            raise ConfigError(f"scale.min is {self.min} and scale.max {self.max}; it must be 1 <= min <= max.")
        if self.queued_per_replica < 1:
            raise ConfigError(f"scale.queued_per_replica is {self.queued_per_replica}; it must be at least 1.")
        if not self.idle_s > 0:
            raise ConfigError(f"scale.idle_s is {self.idle_s:g}; it must be above 0.")


@dataclass(frozen=True)
class Pool:
    """Replicas that do the same work in the same layout.

    Fields: role: what its replicas compute of a request. redundant_experts: copies of busy experts per layer, shared
            out over the ranks of a replica. eplb: whether they follow the load. scale: `replicas` is only the start.
            workers: HOST:PORT of each replica, if they are started elsewhere. transfer: HOST:PORT where each replica
            that prefills lends its pages, if not at any port of the address that it is known by already. engine:
            settings of its engines that differ from those of all.

    Only the planner reads: hardware: what a rank runs on, by its name. shared_copies: the shared expert is placed like
            a routed one, so many times per layer; 0: every rank has it. whole_mlp: dense MLPs and shared experts are
            not cut by tp; each rank has them whole and computes its part of the tokens.
    """

    name: str = "main"
    role: Role = "both"
    replicas: int = 1
    layout: Layout = Layout()
    redundant_experts: int = 0
    eplb: Literal["off", "auto", "manual"] = "off"
    workers: tuple[str, ...] = ()
    transfer: tuple[str, ...] = ()
    scale: Scale | None = None
    engine: dict[str, Any] = field(default_factory=dict)
    hardware: str = ""
    shared_copies: int = 0
    whole_mlp: bool = False

    def __post_init__(self) -> None:
        if self.replicas < 1:
            raise ConfigError(f"replicas is {self.replicas}; it must be at least 1.")
        for name in ("redundant_experts", "shared_copies"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 0.")
        for name in ("workers", "transfer"):
            if (count := len(getattr(self, name))) not in (0, self.replicas):
                raise ConfigError(f"pool {self.name}: {name} names {count}; it must be replicas, {self.replicas}.")
        if self.transfer and self.role != "prefill":
            raise ConfigError(f"pool {self.name}: transfer is for pools with role 'prefill'; leave it out.")

    @property
    def most(self) -> int:
        """Replicas that there may be without an operator's word."""
        return self.replicas if self.scale is None else max(self.replicas, self.scale.max)

    def slots(self, config: ModelConfig) -> int:
        """Places for experts in a layer, over the ranks that share them out."""
        return config.n_routed_experts + self.redundant_experts + self.shared_copies

    def slots_per_rank(self, config: ModelConfig) -> int:
        """Experts of a layer that a rank holds, copies included."""
        return self.slots(config) // self.layout.ep

    def check(self, config: ModelConfig) -> None:
        """Raise ConfigError, with the values that would do, if `config` cannot be served like this."""
        if self.shared_copies and config.n_shared_experts != 1:
            raise ConfigError(
                f"pool {self.name}: shared_copies is {self.shared_copies}, which takes one shared expert, as large as "
                f"a routed one; n_shared_experts is {config.n_shared_experts}, so leave it out."
            )
        try:
            self.layout.check(config, self.redundant_experts + self.shared_copies)
        except ConfigError as error:
            raise ConfigError(f"pool {self.name}: {error}") from None
        most = (self.layout.ep - 1) * config.n_routed_experts
        if self.redundant_experts > most:
            raise ConfigError(
                f"pool {self.name}: redundant_experts is {self.redundant_experts}; on {self.layout.ep} ranks at most "
                f"{most} are of use, because no rank needs an expert twice."
            )


@dataclass(frozen=True)
class Deploy:
    """Fields: engine: settings of every engine, as `fathom serve` has them. router: how requests find a replica."""

    model: str
    pool: tuple[Pool, ...] = (Pool(),)
    engine: dict[str, Any] = field(default_factory=dict)
    router: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        twice = [name for name, count in Counter(pool.name for pool in self.pool).items() if count > 1]
        if twice:
            raise ConfigError(f"two pools are called {twice[0]!r}; give each a name of its own.")
        roles = {pool.role for pool in self.pool}
        if roles in ({"prefill"}, {"decode"}):
            raise ConfigError(f"every pool has role {roles.pop()!r}; prefill and decode need each other, or use both.")
        if not roles:
            raise ConfigError("there is no [[pool]]; add one.")

    @property
    def world_size(self) -> int:
        """Ranks of all replicas together."""
        return sum(pool.replicas * pool.layout.world_size for pool in self.pool)


def read_deploy(path: str | Path, overrides: Sequence[str] = ()) -> Deploy:
    """The deployment in a TOML file. Raises: ConfigError: a key is unknown, or a value does not fit."""
    return build(Deploy, read_toml(path, overrides), str(path))
