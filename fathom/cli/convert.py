"""`fathom convert`: rewrite a checkpoint in another precision or shard size."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict

from fathom.errors import ConfigError

NAME = "convert"
HELP = "Rewrite a checkpoint: other precision, FP8 blocks in or out, other shard size. One tensor in memory at a time."
DTYPES = {"bf16": "bfloat16", "fp32": "float32"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `fathom convert`."""
    parser.add_argument("source", metavar="SRC", help="directory of a checkpoint, with its config.json")
    parser.add_argument("target", metavar="DST", help="new directory; appears only when it is complete")
    parser.add_argument("--dtype", choices=DTYPES, help="type of the values that are not FP8 (default: as stored)")
    parser.add_argument("--fp8", action="store_true", help="store projections in DeepSeek's FP8 blocks of 128 x 128")
    parser.add_argument("--max-shard-gb", type=float, default=4.0, metavar="N", help="file size at most (default: 4)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Convert, with a progress line on stderr, and print what was written."""
    if not 0 < args.max_shard_gb < 1e6:
        raise ConfigError(f"--max-shard-gb is {args.max_shard_gb:g} GB; it must be above 0. Try 4.")
    import torch

    from fathom.checkpoint.convert import convert

    started = time.monotonic()
    done = convert(
        args.source,
        args.target,
        dtype=getattr(torch, DTYPES[args.dtype]) if args.dtype else None,
        fp8=args.fp8,
        max_shard_bytes=max(1, int(args.max_shard_gb * 1e9)),
        progress=progress_line("converting") if sys.stderr.isatty() else None,
    )
    result = {"source": args.source, "target": args.target} | asdict(done)
    if args.json:
        print(json.dumps(result | {"seconds": round(time.monotonic() - started, 3)}))
    else:
        print(f"{args.target}: {done.tensors:,} tensors, {done.bytes:,} bytes in {done.files} files")
    return 0


def progress_line(verb: str) -> Callable[[int, int], None]:
    """A callback that keeps one line of stderr up to date, at most ten times a second."""
    shown = 0.0

    def show(done: int, total: int) -> None:
        nonlocal shown
        now = time.monotonic()
        if done < total and now - shown < 0.1:
            return
        shown = now
        line = f"\r{verb} {done / 1e9:,.2f} of {total / 1e9:,.2f} GB ({done / max(total, 1):.0%})"
        print(line, end="\n" if done == total else "", file=sys.stderr, flush=True)

    return show
