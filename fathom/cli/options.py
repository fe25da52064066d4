"""The options of an engine, for every command that runs one."""

from __future__ import annotations

import argparse
from typing import Any

NAMES = ("bits", "load", "numerics", "spec", "threads")


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """Declare how the model is to be run; what is left out is the engine's own default."""
    parser.add_argument("--bits", help="weights at 32, 16, 8 or 4 bits, or auto for what is stored (default: auto)")
    parser.add_argument("--load", help="map (default) a packed checkpoint, or copy it: starts later, runs faster")
    parser.add_argument("--numerics", help="exact (default): a token's bits are its own; fast: not without kernels")
    parser.add_argument("--spec", help="tokens to guess ahead with MTP: 1 to 4, off, or auto (default: auto)")
    parser.add_argument("--threads", type=int, help="CPU threads of the engine (default: one per core)")


def engine_options(args: argparse.Namespace) -> dict[str, Any]:
    """Those that were given, by the names of EngineConfig's fields."""
    return {name: getattr(args, name) for name in NAMES if getattr(args, name) is not None}
