"""The environment variables fathom reads: two that name the machine, and those by which launchers say which host it is.

None of them describes the run.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from fathom.errors import ConfigError

OPS_CHOICES = ("auto", "reference", "cpu")


def ops_choice() -> str:
    """FATHOM_OPS: who computes, one of OPS_CHOICES; "auto" when unset; "reference" leaves native kernels out."""
    choice = os.environ.get("FATHOM_OPS") or "auto"
    if choice not in OPS_CHOICES:
        raise ConfigError(f"FATHOM_OPS is {choice!r}; it must be one of {', '.join(OPS_CHOICES)}.")
    return choice


def cache_dir() -> Path:
    """FATHOM_CACHE: where compiled kernels and the like are kept; ~/.cache/fathom when unset. It may not exist yet."""
    chosen = os.environ.get("FATHOM_CACHE")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "fathom"


@dataclass(frozen=True)
class Host:
    """This host among those that run one thing together. master: the first one's name; "" if nobody said."""

    count: int = 1
    number: int = 0
    master: str = ""


def launched_host() -> Host | None:
    """What the launcher says that started this process; None if there was none, or it started one host only.

    Slurm (srun, one task a node) and torchrun (one process a node) are known.

    Raises: ConfigError: what it says makes no sense, or it started several tasks on a node.
    """
    for names in (
        ("SLURM_NNODES", "SLURM_NODEID", "SLURM_LOCALID", "SLURM_LAUNCH_NODE_IPADDR"),
        ("GROUP_WORLD_SIZE", "GROUP_RANK", "LOCAL_RANK", "MASTER_ADDR"),
    ):
        count, number, local, master = (os.environ.get(name, "") for name in names)
        if not count or not number or "SLURM_STEP_ID" not in os.environ and names[0].startswith("SLURM"):
            continue
        if not count.isdecimal() or not number.isdecimal() or int(number) >= int(count):
            raise ConfigError(f"{names[0]} is {count!r} and {names[1]} is {number!r}; unset them, or start again.")
        if local not in ("", "0"):
            raise ConfigError(f"{names[2]} is {local}; start one task per node, it starts its ranks itself.")
        if int(count) > 1:
            return Host(int(count), int(number), master or _first_of(os.environ.get("SLURM_JOB_NODELIST", "")))
    return None


def _first_of(nodes: str) -> str:
    """The first name of a Slurm list: node[03-07,9],other -> node03."""
    match = re.match(r"([^\[,]+)(?:\[(\w+))?", nodes)
    return "" if match is None else match[1] + (match[2] or "")


def use_interface(name: str) -> None:
    """Let torch.distributed's gloo talk over this network interface; it reads that from the environment only."""
    os.environ["GLOO_SOCKET_IFNAME"] = name


def child_environment() -> dict[str, str]:
    """Ours, for a process that runs torch; its C++ side warns only of errors there, not of each address without a name.

    torch reads that when it is imported: to set it later does nothing.
    """
    return {"TORCH_CPP_LOG_LEVEL": "ERROR", **os.environ}


def settle_ray(token: str | None = None) -> None:
    """What Ray must find in the environment before it is imported, for this process and those that it starts.

    Clusters ask for a token, where nobody said otherwise; nothing is reported to Ray's makers. With a `token` there
    will be a cluster of our own: that is its token, unless there is one already, and it listens on the loopback
    address, for which Ray's only switch is one that is named after laptops.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    if token is not None:
        os.environ.setdefault("RAY_AUTH_TOKEN", token)
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
