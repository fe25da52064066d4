"""`fathom report`: a run's ledgers and evaluations as one page of curves and tables, and as a picture."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from fathom.errors import InputError

NAME = "report"
HELP = "Render every ledger.jsonl and *.eval.json below a directory as report.html and report.png."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `fathom report`."""
    parser.add_argument("run", type=Path, metavar="RUN_DIR", help="the directory of a run")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where the two files go (default: RUN_DIR)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Render, and say where."""
    if not args.run.is_dir():
        raise InputError(f"{args.run} is not a directory; name the directory of a run.")
    from fathom.think.report import render

    page, picture = render(args.run, args.out)
    print(json.dumps({"html": str(page), "png": str(picture)}) if args.json else f"{page}\n{picture}")
    return 0
