"""The part of `fathom convert` that packs: `--bits` and what goes with it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from fathom.cli.progress import count_line, progress_line
from fathom.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--bits", type=int, choices=(16, 8, 4), help="pack the weights for the kernels, which map them")
    parser.add_argument("--group", type=int, choices=(32, 64, 128), help="weights per scale (8 bits: 64, 4 bits: 32)")
    parser.add_argument(
        "--rounding", choices=("error-aware", "nearest"),
        help="to 4 bits: with the inputs in mind that a text makes (default), or each weight by itself",
    )  # fmt: skip
    parser.add_argument("--calibrate", metavar="FILE", help="that text (default: worked problems from fathom.tasks)")
    parser.add_argument("--report", action="store_true", help="compare DST with SRC on problems of the test split")


def check(args: argparse.Namespace) -> None:
    """Raise ConfigError for options that contradict each other."""
    if args.bits is None and (args.group or args.rounding or args.calibrate):
        raise ConfigError("--group, --rounding and --calibrate are for packed weights; add --bits 8 or --bits 4.")
    if args.bits is not None and (args.fp8 or args.dtype or args.target is None):
        raise ConfigError("--bits packs DST for the kernels; it needs DST, and takes neither --fp8 nor --dtype.")
    if args.bits == 16 and args.group:
        raise ConfigError("--group is for 8 and 4 bits; 16 need no scales.")
    if args.bits != 4 and (args.calibrate or args.rounding == "error-aware"):
        raise ConfigError("--rounding error-aware and --calibrate are for --bits 4; 8 bits are near enough without.")
    if args.rounding == "nearest" and args.calibrate:
        raise ConfigError("--calibrate is for --rounding error-aware; leave one of the two out.")
    if args.report and args.target is None:
        raise ConfigError("--report compares DST with SRC; name DST.")


def pack(args: argparse.Namespace) -> dict[str, Any]:
    """Write the packed checkpoint; returns its counts."""
    from fathom.checkpoint import convert_packed
    from fathom.config import ModelConfig
    from fathom.cost import KIND_OF_BITS, packed_size

    made, kind = None, KIND_OF_BITS[args.bits]
    if args.bits == 4 and args.rounding != "nearest":
        from fathom.think.calibration import rounded_with_care

        shown = count_line("calibrating: layer") if sys.stderr.isatty() else None
        made = rounded_with_care(args.source, args.group, text=args.calibrate, progress=shown)
    done = convert_packed(
        args.source, args.target, kind=kind, group=args.group, made=made,
        max_shard_bytes=max(1, int(args.max_shard_gb * 1e9)),
        progress=progress_line("packing") if sys.stderr.isatty() else None,
    )  # fmt: skip
    size = packed_size(ModelConfig.read(args.target), kind, args.group)
    return asdict(done) | {"bits": args.bits, "bits_per_weight": round(size.bits_per_weight, 3)}


def described(result: dict[str, Any]) -> Iterator[str]:
    """What was packed, and how good it is, for a person."""
    if "bits_per_weight" in result:
        yield f"{result['bits_per_weight']:.2f} bits per weight, scales and padding included"
    if "quality" in result:
        from fathom.think import quality

        yield quality.described(result["quality"])
