"""`fathom replay`: live a step log again, and say whether it went the same way."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import msgspec

from fathom.cli.options import add_engine_options, engine_options

if TYPE_CHECKING:
    from fathom.engine.replay import Replay

NAME = "replay"
HELP = (
    "Execute every step of a log again (EngineConfig.record writes one). Exits 0 if all tokens and log-probabilities "
    "are the same to the bit, else 1, with the first step that differs."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `fathom replay`."""
    parser.add_argument("log", metavar="LOG", help="a step log")
    parser.add_argument("--model", default="nano", help="the model that wrote it (default: %(default)s)")
    add_engine_options(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Replay and print."""
    from fathom.engine import EngineConfig, load_model
    from fathom.engine.record import read_header
    from fathom.engine.replay import replay_log

    header = read_header(args.log)
    wanted = EngineConfig(**engine_options(args))
    model = load_model(args.model, mtp=None if header.mtp else False, **wanted.loading)
    found = replay_log(args.log, model)
    if args.json:
        print(json.dumps({"log": args.log, "model": args.model, "same": found.difference is None} | plain(found)))
    else:
        print("\n".join(report(args.log, found)))
    return 0 if found.difference is None else 1


def plain(found: Replay) -> dict[str, Any]:
    """A replay as JSON."""
    difference = found.difference
    told = None if difference is None else msgspec.to_builtins(difference)
    return asdict(found) | {"difference": told, "header": msgspec.to_builtins(found.header)}


def report(log: str, found: Replay) -> Iterator[str]:
    """The lines that a person reads."""
    yield f"{log}: {found.steps:,} steps, {found.tokens:,} tokens computed"
    difference = found.difference
    if difference is None:
        yield "  the same to the bit"
    else:
        yield f"  step {difference.step} differs first, for request {difference.request_id}:"
        yield f"    recorded {difference.recorded}"
        yield f"    replayed {difference.replayed}"
    if not found.same_model:
        yield f"  weights or arithmetic are not those of the log ({found.header.kind}, {found.header.numerics})"
    if found.slowdown is not None:
        yield f"  recorded in {found.recorded_s:,.2f} s, replayed in {found.replayed_s:,.2f} s"
    if found.error is None:
        yield "  no step had a prediction"
    else:
        yield f"  {found.predicted:,} steps had predictions, half of them within {found.error:.1%} of the measured time"
