"""`fathom doctor`: what on this machine would keep fathom from working, each with the line that mends it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict

from fathom import __version__
from fathom.cli import checks
from fathom.cli.checks import Check
from fathom.errors import FathomError

NAME = "doctor"
HELP = "Check this machine: Python, torch, kernels, the model's files, port, disk. Says what to do about each problem."

MARKS = {"ok": "✓", "warn": "!", "fail": "✗"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `fathom doctor`."""
    parser.add_argument("--model", default="nano", help="the model whose files to check (default: %(default)s)")
    parser.add_argument("--host", default="127.0.0.1", help="address of the port to check (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="port to check (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="leave out what takes seconds: hashes, speed, self-test")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Print every verdict; 0 when nothing is broken, else 1."""
    verdicts = []
    for check in examine(args):
        verdicts.append(check)
        if not args.json:
            print(f"  {MARKS[check.verdict]} {check.name:<11} {check.detail}", flush=True)
            if check.fix:
                print(f"    {'':<11} → {check.fix}", flush=True)
    broken = any(check.verdict == "fail" for check in verdicts)
    if args.json:
        print(json.dumps({"ok": not broken, "version": __version__, "checks": [asdict(check) for check in verdicts]}))
    return 1 if broken else 0


def examine(args: argparse.Namespace) -> Iterator[Check]:
    """Every check, as it is made; one that fails unforeseen is a verdict too, not a traceback."""
    steps: list[tuple[str, Callable[[], Check]]] = [
        ("python", checks.python),
        ("torch", checks.torch),
        ("kernels", lambda: checks.kernels(measured=not args.quick)),
        ("model", lambda: checks.model(args.model, hashes=not args.quick)),
        ("port", lambda: checks.port(args.host, args.port)),
        ("disk", checks.disk),
        ("open files", checks.open_files),
    ]
    if not args.quick:
        steps.append(("self-test", lambda: checks.self_test(args.model)))
    for name, check in steps:
        try:
            yield check()
        except (FathomError, ImportError, OSError) as error:
            yield Check(name, "fail", str(error) or type(error).__name__)
