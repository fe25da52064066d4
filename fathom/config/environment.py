"""The two environment variables fathom reads. They name the machine, never the run."""

from __future__ import annotations

import os
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
