"""`fathom init`: a new model of a known shape, with random weights, to measure with."""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from fathom.cli.convert import DTYPES
from fathom.cli.progress import progress_line
from fathom.config import SHAPES, ModelConfig, load_config
from fathom.cost import KIND_OF_BITS
from fathom.errors import ConfigError

NAME = "init"
HELP = "Make a model of a known shape with random weights, tensor by tensor: same seed, same bits on every machine."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `fathom init`."""
    parser.add_argument("shape", metavar="NAME", help=f"{', '.join(SHAPES)}; or a config.json, or a preset's name")
    parser.add_argument("target", metavar="DIR", help="new directory; appears only when it is complete")
    parser.add_argument("--random", action="store_true", help="draw the weights, scaled by 1 / sqrt(fan-in); needed")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same weights (default: %(default)s)")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16", help="type of the weights (default: %(default)s)")
    parser.add_argument("--bits", type=int, choices=(16, 8, 4), help="packed, as fathom convert --rounding nearest")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Write the model, with a progress line on stderr, and print what was written."""
    if not args.random:
        raise ConfigError("a new model has no weights to copy; add --random to draw them.")
    config = architecture(args.shape, DTYPES[args.dtype])
    started = time.monotonic()
    made: dict[str, Any] = {"shape": args.shape, "target": args.target, "seed": args.seed} | write(args, config)
    if args.json:
        print(json.dumps(made | {"seconds": round(time.monotonic() - started, 3)}))
        return 0
    packed = f" packed at {args.bits} bits" if args.bits else ""
    print(
        f"{args.target}: {args.shape} with random weights{packed}, {made['tensors']:,} tensors, {made['bytes']:,} bytes"
    )
    return 0


def write(args: argparse.Namespace, config: ModelConfig) -> dict[str, int]:
    """Write the directory; returns its counts."""
    from fathom.checkpoint import Drawn, random_sources, write_packed, write_weights
    from fathom.tokenizer import placeholder

    files: dict[str, Any] = dict(placeholder(config.vocab_size).files())
    progress = progress_line("writing") if sys.stderr.isatty() else None
    if args.bits is not None:
        drawn, kind = Drawn(config, args.seed), KIND_OF_BITS[args.bits]
        done = write_packed(drawn, Path(args.target), config.to_dict(), kind=kind, extra_files=files, progress=progress)
        return {"bits": args.bits, "tensors": done.tensors, "bytes": done.bytes}
    sources = random_sources(config, args.seed)
    write_weights(args.target, sources, config.to_dict(), extra_files=files, progress=progress)
    return {"tensors": len(sources), "bytes": sum(source.bytes for source in sources)}


def architecture(name: str, dtype: Any) -> ModelConfig:
    """The shape called `name`, or what `fathom info` would read, for plain weights and the placeholder vocabulary."""
    known = SHAPES.get(name) or load_config(name)
    return replace(known, torch_dtype=dtype, quantization_config=None, bos_token_id=0, eos_token_id=1)
