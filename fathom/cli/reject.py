"""`fathom reject`: sample a model on training problems, keep the right, short, consistent replies as training data."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from fathom import tasks
from fathom.cli.options import add_engine_options, engine_options

if TYPE_CHECKING:
    from fathom.posttrain.reject import Counts

NAME = "reject"
HELP = (
    "Rejection sampling: ask a model training problems many times, keep the right, short, consistent replies as "
    "samples for `fathom sft`, and count what was dropped, and why."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `fathom reject`."""
    parser.add_argument("--model", default="nano", help='a checkpoint\'s directory, or "nano" (default)')
    parser.add_argument("--out", required=True, metavar="FILE", help="where the kept samples go, lines of JSON")
    parser.add_argument("--dropped", metavar="FILE", help="where the others go; `kind` names the filter")
    parser.add_argument("--family", action="append", help=f"{tasks.CHOICES}; repeat for several")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override: reject.samples=16")
    add_engine_options(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Sample, filter, write, print the counts."""
    from fathom.config import settings
    from fathom.engine import EngineConfig
    from fathom.posttrain.reject import RejectConfig, reject

    config = settings(RejectConfig, "reject", args.set)
    if args.family:
        levels = {name: tasks.named(name).levels for name in args.family} | config.problems.levels
        config = replace(config, problems=replace(config.problems, levels=levels))
    stream = sys.stderr if args.json else sys.stdout

    def show(counts: Counts, problems: int) -> None:
        print(
            f"{counts.problems}/{problems} problems  {counts.solved} solved  {counts.sampled} replies  "
            f"{counts.kept} kept  {counts.tokens:,} tokens",
            file=stream, flush=True,
        )  # fmt: skip

    dropped = Path(args.dropped) if args.dropped else None
    counts = reject(
        args.model, Path(args.out), config, show, dropped=dropped, engine=EngineConfig(**engine_options(args))
    )
    if args.json:
        print(json.dumps({"model": args.model, "out": args.out, **asdict(counts)}))
    else:
        print(table_of(counts))
    return 0


def table_of(counts: Counts) -> str:
    """The counts, a line each."""
    rows: list[tuple[str, int, int | None]] = [("sampled", counts.sampled, counts.tokens)]
    rows += [(f"- {name}", count, None) for name, count in counts.dropped.items()]
    rows += [("kept", counts.kept, counts.kept_tokens)]
    lines = []
    for name, count, tokens in rows:
        mean = f"  {tokens / count:7.1f} tokens each" if tokens is not None and count else ""
        lines.append(f"{name:<16}{count:>8}{mean}")
    return "\n".join(lines)
