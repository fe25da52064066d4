"""`fathom sft`: a checkpoint, fine-tuned on samples; stops cleanly, resumes to the bit."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fathom.cli.train import line

if TYPE_CHECKING:
    from collections.abc import Callable

    from fathom.train.trainer import Progress

NAME = "sft"
HELP = "Fine-tune a model on samples. Run again with the same --out to go on where it stopped."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `fathom sft`."""
    parser.add_argument("data", metavar="DATA.jsonl", help="samples, one a line: messages, thought (or null), reply")
    parser.add_argument("--model", default="nano", help="a checkpoint's directory, or nano (default)")
    parser.add_argument("--out", required=True, help="run directory; the new checkpoint is its model/")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override: sft.lr=1e-4")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")


def run(args: argparse.Namespace) -> int:
    """Train to the end, or until Ctrl-C: then the state is saved and the exit code is 130."""
    from fathom.config import settings
    from fathom.posttrain.sft import SFTConfig, train_on
    from fathom.train.samples import read_samples

    config = settings(SFTConfig, "sft", args.set)
    samples = list(read_samples(Path(args.data)))
    return follow(lambda show: train_on(samples, args.model, Path(args.out), config, show, args.device), args.json)


def follow(train: Callable[[Callable[[Progress], None]], Path | None], as_json: bool) -> int:
    """Show the progress of a training that returns its new checkpoint, or None where it was interrupted."""
    stream = sys.stderr if as_json else sys.stdout
    last: list[Progress] = []

    def show(progress: Progress) -> None:
        last[:] = [progress]
        print(line(progress), file=stream, flush=True)

    model_dir = train(show)
    if model_dir is None:
        print("stopped; the same command goes on from there", file=sys.stderr)
        return 130
    print(f"model: {model_dir}   try: fathom chat --model {model_dir}", file=stream)
    if as_json:
        facts = {"step": last[0].step, "loss": last[0].loss, "loss_bits": last[0].loss.hex()} if last else {}
        print(json.dumps({"model": str(model_dir)} | facts))
    return 0
