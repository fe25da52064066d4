"""`fathom plan`: what fits, how fast, how many, what it costs, and what demand does to the bill."""

from __future__ import annotations

import argparse
import importlib
from typing import Any

NAME = "plan"
HELP = (
    "Size a model before anything is bought: by arithmetic on its configuration and published measurements, with the "
    "error of each prediction. Only `calibrate` loads weights, and measures."
)
WORKS = (
    "fit",
    "serve",
    "train",
    "demand",
    "think",
    "crossover",
    "scaling",
    "calibrate",
    "step",
    "drift",
    "validate",
    "deploy",
    "web",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare `fathom plan WORK` and the options of each."""
    works = parser.add_subparsers(dest="work", metavar="WORK", required=True)
    for name in WORKS:
        module: Any = importlib.import_module(f"fathom.cli.planning.{name}")
        work = works.add_parser(name, help=module.SUMMARY, description=module.HELP, allow_abbrev=False)
        module.add_arguments(work)
        work.set_defaults(run=module.run)


def run(args: argparse.Namespace) -> int:
    """Do the work that was asked for."""
    return int(args.run(args))
