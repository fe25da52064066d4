"""`fathom convert`: rewrite a checkpoint in another precision, shard size or file format, or packed for the kernels."""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from typing import Any

from fathom.cli import packing
from fathom.cli.progress import progress_line
from fathom.config import find_model
from fathom.errors import ConfigError

NAME = "convert"
HELP = "Rewrite a checkpoint: packed at 16, 8 or 4 bits, other precision, FP8 in or out, other shards, or GGUF."
DTYPES = {"bf16": "bfloat16", "fp32": "float32"}
GGUF_TYPES = ("f32", "bf16", "q8_0", "q4_0")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `fathom convert`."""
    parser.add_argument("source", metavar="SRC", help="a checkpoint's directory, with its config.json, or nano")
    parser.add_argument("target", metavar="DST", nargs="?", help="new directory; appears only when it is complete")
    packing.add_arguments(parser)
    parser.add_argument("--dtype", choices=DTYPES, help="type of the values that are not FP8 (default: as stored)")
    parser.add_argument("--fp8", action="store_true", help="store projections in DeepSeek's FP8 blocks of 128 x 128")
    parser.add_argument("--max-shard-gb", type=float, default=4.0, metavar="N", help="file size at most (default: 4)")
    parser.add_argument(
        "--gguf", metavar="FILE", help="write SRC as a GGUF file, which llama.cpp runs; DST may be left out"
    )
    parser.add_argument("--gguf-type", choices=GGUF_TYPES, help="its matrices (default: bf16; packed ones as they are)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Convert, with a progress line on stderr, and print what was written."""
    if not 0 < args.max_shard_gb < 1e6:
        raise ConfigError(f"--max-shard-gb is {args.max_shard_gb:g} GB; it must be above 0. Try 4.")
    if args.target is None and args.gguf is None:
        raise ConfigError("DST is missing; name a new directory, or a file with --gguf.")
    packing.check(args)
    started = time.monotonic()
    result: dict[str, Any] = {"source": args.source}
    args.source = find_model(args.source)
    if args.target is not None:
        result |= {"target": args.target} | (rewrite(args) if args.bits is None else packing.pack(args))
    if args.report:
        from fathom.think.quality import report

        result["quality"] = report(args.source, args.target)
    if args.gguf is not None:
        result |= {"gguf": {"file": args.gguf} | export(args)}
    if args.json:
        print(json.dumps(result | {"seconds": round(time.monotonic() - started, 3)}))
        return 0
    if args.target is not None:
        print(f"{args.target}: {result['tensors']:,} tensors, {result['bytes']:,} bytes in {result['files']} files")
    for line in packing.described(result):
        print(f"{args.target}: {line}")
    if args.gguf is not None:
        print(f"{args.gguf}: {result['gguf']['tensors']:,} tensors, {result['gguf']['bytes']:,} bytes")
    return 0


def rewrite(args: argparse.Namespace) -> dict[str, int]:
    """Write the checkpoint; returns its counts."""
    import torch

    from fathom.checkpoint.convert import convert

    done = convert(
        args.source,
        args.target,
        dtype=getattr(torch, DTYPES[args.dtype]) if args.dtype else None,
        fp8=args.fp8,
        max_shard_bytes=max(1, int(args.max_shard_gb * 1e9)),
        progress=progress_line("converting") if sys.stderr.isatty() else None,
    )
    return asdict(done)


def export(args: argparse.Namespace) -> dict[str, Any]:
    """Write the GGUF file; returns its type and counts."""
    from fathom.checkpoint.gguf import export_gguf, file_kind
    from fathom.config import ModelConfig
    from fathom.tokenizer import Tokenizer, gguf_vocabulary

    config = ModelConfig.read(args.source)
    kind = file_kind(config, args.gguf_type)
    done = export_gguf(
        args.source,
        args.gguf,
        kind=kind,
        vocabulary=gguf_vocabulary(Tokenizer.load(args.source), config.vocab_size),
        progress=progress_line("exporting") if sys.stderr.isatty() else None,
    )
    return {"type": kind, "tensors": done.tensors, "bytes": done.bytes}
