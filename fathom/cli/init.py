"""`fathom init`: a new model of a known shape, with random weights, to measure with."""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from typing import Any

from fathom.cli.convert import DTYPES
from fathom.cli.progress import progress_line
from fathom.config import SHAPES, ModelConfig, load_config
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
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Write the model, with a progress line on stderr, and print what was written."""
    if not args.random:
        raise ConfigError("a new model has no weights to copy; add --random to draw them.")
    config = architecture(args.shape, DTYPES[args.dtype])
    from fathom.checkpoint import random_sources, write_weights
    from fathom.tokenizer import placeholder

    started = time.monotonic()
    files: dict[str, Any] = dict(placeholder(config.vocab_size).files())
    sources = random_sources(config, args.seed)
    progress = progress_line("writing") if sys.stderr.isatty() else None
    write_weights(args.target, sources, config.to_dict(), extra_files=files, progress=progress)
    size = sum(source.bytes for source in sources)
    if args.json:
        seconds = round(time.monotonic() - started, 3)
        made = {"shape": args.shape, "target": args.target, "seed": args.seed, "tensors": len(sources), "bytes": size}
        print(json.dumps(made | {"seconds": seconds}))
    else:
        print(f"{args.target}: {args.shape} with random weights, {len(sources):,} tensors, {size:,} bytes")
    return 0


def architecture(name: str, dtype: Any) -> ModelConfig:
    """The shape called `name`, or what `fathom info` would read, for plain weights and the placeholder vocabulary."""
    known = SHAPES.get(name) or load_config(name)
    return replace(known, torch_dtype=dtype, quantization_config=None, bos_token_id=0, eos_token_id=1)
