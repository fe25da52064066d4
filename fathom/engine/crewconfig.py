"""What a group of ranks is: which model, divided how, on which hosts, with how much patience."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from fathom.config.faults import Fault
from fathom.errors import ConfigError
from fathom.layout import Layout


@dataclass(frozen=True)
class CrewConfig:
    """A group of ranks.

    Fields: bits, load, mtp: as in `load_model`. redundant: copies of experts per layer. threads: of each rank; None
            shares out the processors of this host. host: where ranks find the leader. port: of its desk; 0 takes any.
            ranks_here: started on this host; None is all. token: what ranks must know; None makes one up. timeout_s:
            the longest that a rank waits for another in the middle of a step. start_s: the longest that all may take to
            come and to load. verify: tensors travel with checksums; also where there are faults to be made (faults.py).
    """

    model: str | Path
    layout: Layout
    bits: str | int = "auto"
    load: str = "map"
    mtp: bool | None = None
    redundant: int = 0
    threads: int | None = None
    host: str = "127.0.0.1"
    port: int = 0
    ranks_here: int | None = None
    token: str | None = None
    timeout_s: float = 20.0
    start_s: float = 600.0
    verify: bool = False
    faults: tuple[Fault, ...] = ()

    def __post_init__(self) -> None:
        size = self.layout.world_size
        if self.ranks_here is not None and not 1 <= self.ranks_here <= size:
            raise ConfigError(f"ranks_here is {self.ranks_here}; it must be from 1 to {size}.")
        if self.ranks_here not in (None, size) and self.token is None:
            raise ConfigError("ranks on other hosts need a token to find their leader; give token.")

    @property
    def here(self) -> int:
        """Ranks of this host, the leader among them."""
        return self.layout.world_size if self.ranks_here is None else self.ranks_here

    @property
    def threads_each(self) -> int:
        return self.threads or max(1, processors() // self.here)


def processors() -> int:
    """Of this host."""
    return os.cpu_count() or 1
