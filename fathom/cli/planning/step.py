"""`fathom plan step`: how long a step of our engine takes, by a device profile."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

NAME = "step"
SUMMARY = "ask a device profile how long a step of our engine takes"
HELP = (
    "How long a step of our engine takes on the machine of a device profile (`fathom plan calibrate`), with the "
    "interval that holds it in four of five cases: --batch sequences that each generate a token, or --tokens of a "
    "prompt, or both."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `fathom plan step`."""
    parser.add_argument("profile", metavar="PROFILE", help="a device profile")
    parser.add_argument("--batch", type=int, metavar="B", help="sequences that generate (default: 1, or none)")
    parser.add_argument("--context", type=float, default=0.0, metavar="C", help="tokens before these (default: 0)")
    parser.add_argument("--tokens", type=int, default=0, metavar="T", help="of a prompt that is read too")
    parser.add_argument("--cached", type=float, default=0.0, metavar="C", help="tokens of it in the cache (default: 0)")
    parser.add_argument(
        "--sampling", choices=("greedy", "drawn", "filtered"), default="greedy",
        help="how tokens are chosen: the likeliest (default), with a temperature, or with top_p and such too",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Predict and print."""
    from fathom.plan.calibrate import breakdown, predict, read_profile
    from fathom.plan.ownstep import Group

    profile = read_profile(Path(args.profile))
    batch = args.batch if args.batch is not None else (0 if args.tokens else 1)
    groups = [Group(batch, 1, args.context, args.sampling)] if batch or not args.tokens else []
    if args.tokens:
        groups.append(Group(1, args.tokens, args.cached, args.sampling))
    step = tuple(groups)
    found, shares = predict(profile, step), breakdown(profile, step)
    rate = batch / found.value
    if args.json:
        told = {"step": found.to_dict(), "shares": shares}
        print(json.dumps(told | ({"tokens_per_s": rate} if batch else {}) | {"profile": args.profile}))
        return 0
    print(f"{found.times(1e3, 'ms')} a step; bound by {found.bound} ({shares[found.bound]:.0%})")
    if batch:
        print(f"{rate:,.0f} tokens/s, {1 / found.value:,.1f} of each sequence")
    print(found.note)
    return 0
