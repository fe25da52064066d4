"""The options by which several hosts run one group of ranks, and those that say how a model is divided."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from fathom.errors import ConfigError

if TYPE_CHECKING:
    from fathom.layout import Layout

PORT = 29400


@dataclass(frozen=True)
class Hosts:
    """This host among those that run a group together. host, port: where the leader, on host 0, is found."""

    count: int
    number: int
    host: str
    port: int
    secret: Path

    def ranks(self, world_size: int) -> range:
        """Those of this host.

        Raises: ConfigError: they cannot be shared out evenly.
        """
        each, left = divmod(world_size, self.count)
        if left or not each:
            raise ConfigError(f"{world_size} ranks do not divide among {self.count} hosts; change layout or --nnodes.")
        return range(self.number * each, (self.number + 1) * each)


def add_host_options(parser: argparse.ArgumentParser) -> None:
    """Declare them."""
    parser.add_argument("--layout", help="divide the model among processes, such as tp=2,ep=2 (pp, dp, tp, ep)")
    parser.add_argument("--nnodes", type=int, help="hosts that run its ranks together (default: 1, or what Slurm says)")
    parser.add_argument("--node-rank", type=int, help="this host among them; host 0 serves")
    parser.add_argument("--master", metavar="HOST:PORT", help="an address of host 0 that the others reach")
    parser.add_argument("--group-secret", type=Path, metavar="FILE", help="what ranks must know; a file of mode 600")


def hosts_of(args: argparse.Namespace) -> Hosts | None:
    """What the options say, or the launcher where they say nothing; None: one host.

    Raises: ConfigError: something is missing, or makes no sense.
    """
    from fathom.config import launched_host

    launched = launched_host() if args.nnodes is None else None
    count = args.nnodes or (launched.count if launched else 1)
    if count == 1:
        return None
    number = args.node_rank if args.node_rank is not None or launched is None else launched.number
    master = args.master or (f"{launched.master}:{PORT}" if launched and launched.master else "")
    if number is None or not 0 <= number < count:
        raise ConfigError(f"node-rank is {number}; with {count} hosts it must be from 0 to {count - 1}.")
    if args.group_secret is None:
        raise ConfigError("ranks on several hosts need --group-secret FILE: the same on each, of mode 600.")
    host, _, port = master.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError(f"master is {master!r}; it must be HOST:PORT of host 0, such as 10.0.0.7:{PORT}.")
    return Hosts(count, number, host.strip("[]"), int(port), args.group_secret)


def read_layout(text: str) -> Layout:
    """ "tp=2,ep=2" as a Layout. Raises: ConfigError: it is none."""
    from fathom.config import build
    from fathom.layout import Layout

    table: dict[str, int] = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        if not value.strip().isdecimal():
            known = ", ".join(field.name for field in fields(Layout))
            raise ConfigError(f"layout is {text!r}; it must be degrees with commas, such as tp=2,ep=2; known: {known}.")
        table[name.strip()] = int(value)
    return build(Layout, table, "layout")
