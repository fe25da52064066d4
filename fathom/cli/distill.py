"""`fathom distill`: a student learns the distribution of a teacher; stops cleanly, resumes to the bit."""

from __future__ import annotations

import argparse
from pathlib import Path

from fathom.cli.progress import count_line
from fathom.cli.sft import follow

NAME = "distill"
HELP = "Teach a model the next-token distribution of another. Run again with the same --out to go on where it stopped."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `fathom distill`."""
    parser.add_argument("data", metavar="DATA.jsonl", help="samples, one a line: messages, thought (or null), reply")
    parser.add_argument("--teacher", required=True, help="a checkpoint's directory, or nano")
    parser.add_argument("--model", default="nano", help="the student: a checkpoint's directory, or nano (default)")
    parser.add_argument("--out", required=True, help="run directory; the new checkpoint is its model/")
    parser.add_argument("--store", help="where the teacher's log-probabilities are kept (default: OUT/teacher)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override: distill.lr=1e-4, store.top_k=32"
    )
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")


def run(args: argparse.Namespace) -> int:
    """Ask the teacher unless that is stored already, then train to the end, or until Ctrl-C (exit code 130)."""
    from fathom.config import settings
    from fathom.posttrain.distill import DistillConfig, StoreConfig, distill, store
    from fathom.train.samples import read_samples

    of_store = [text for text in args.set if text.startswith("store.")]
    keep = settings(StoreConfig, "store", of_store)
    config = settings(DistillConfig, "distill", [text for text in args.set if text not in of_store])
    out = Path(args.out)
    kept = Path(args.store) if args.store else out / "teacher"
    store(args.teacher, list(read_samples(Path(args.data))), kept, keep, count_line("teacher: position"), args.device)
    return follow(lambda show: distill(args.model, kept, out, config, show, args.device), args.json)
