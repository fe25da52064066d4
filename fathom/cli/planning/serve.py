"""`fathom plan serve`: the layout, the replicas and the bill with which a service keeps its targets."""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fathom.errors import ConfigError

if TYPE_CHECKING:
    from fathom.plan.pools import Choices, Workload
    from fathom.plan.serving import Found

NAME = "serve"
SUMMARY = "the layout, the replicas and the bill with which a service keeps its targets"
HELP = (
    "Search every layout of a service (tensor, expert, data and pipeline parallel; prompts and replies in one pool or "
    "apart; copies of experts, overlap, drafts) for the cheapest that keeps its targets, try it with the scheduler "
    "that serves, and write the deployment."
)
SECONDS = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*(ms|s|)")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `fathom plan serve`."""
    parser.add_argument("model", help="a preset, a config.json, or its directory")
    parser.add_argument(
        "--gpu", action="append", required=True, metavar="NAME", help="such as h800; again: the cheaper"
    )
    parser.add_argument("--in", dest="input", type=int, default=4096, metavar="N", help="tokens of a prompt (4096)")
    parser.add_argument(
        "--out", action="append", default=[], metavar="N|FILE", help="tokens of a reply (1024); or write deploy.toml"
    )
    parser.add_argument("--hit", type=float, default=0.0, metavar="X", help="share of prompts found in caches (0)")
    parser.add_argument("--ttft", type=seconds, default=2.0, metavar="TIME", help="to the first token (2s)")
    parser.add_argument("--tpot", type=seconds, default=0.05, metavar="TIME", help="per token after it (50ms)")
    parser.add_argument("--percentile", type=float, default=90.0, metavar="N", help="of requests that keep both (90)")
    parser.add_argument("--rps", type=float, metavar="N", help="requests per second: how many GPUs?")
    parser.add_argument("--gpus", type=int, metavar="N", help="how many there are: which rate?")
    parser.add_argument("--peak", type=float, default=1.0, metavar="X", help="busiest hour over the average (1)")
    parser.add_argument("--mtp", type=_list(int), default=(0, 1), metavar="N,N", help="drafts a step to try (0,1)")
    parser.add_argument("--acceptance", type=float, default=0.8, metavar="X", help="of a draft (0.8)")
    parser.add_argument("--precision", type=_list(str), default=("",), metavar="P,P", help="of weights (as stored)")
    parser.add_argument("--cache", type=_list(str), default=("bf16",), metavar="P,P", help="bf16, fp8 (bf16)")
    parser.add_argument("--kind", choices=("split", "aggregated"), help="only services of this kind")
    parser.add_argument("--replica-gpus", type=int, default=320, metavar="N", help="of one replica at most (320)")
    parser.add_argument("--engine", default="", help="whose measurements to lean on (mean of all)")
    parser.add_argument("--hardware", type=Path, metavar="FILE", help="devices of your own, with prices")
    parser.add_argument("--against", type=Path, metavar="FILE", help="compare with this deployment")
    parser.add_argument("--trace", type=Path, metavar="FILE", help="requests to try it with, as JSON lines")
    parser.add_argument("--spread", type=float, default=0.2, metavar="X", help="of lengths, relative (0.2)")
    parser.add_argument("--seed", type=int, default=0, help="of the trial (0)")
    parser.add_argument("--no-trial", action="store_true", help="search only")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with tables and charts")
    parser.add_argument("--png", type=Path, metavar="FILE", help="write the charts as a picture")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Print the plan, and write what was asked for."""
    from fathom.plan import serving, serving_text
    from fathom.plan.arrivals import read_trace
    from fathom.plan.deployment import write
    from fathom.plan.report import save

    workload, file = _workload(args)
    choices = _choices(args)
    found, compared = _found(args, workload, choices)
    tried = slow = fast = None
    if not args.no_trial:
        trace = read_trace(args.trace) if args.trace else ()
        tried, slow, fast = serving.trials(found, seed=args.seed, trace=trace, spread=args.spread, progress=_progress())
    numbers = serving.quantities(found, tried, slow, fast)
    said = [*serving_text.lines(found, numbers, tried), *compared]
    facts = {**serving_text.facts(found, numbers, tried), "compared": compared}
    for path in filter(None, (args.html, args.png)):
        save(path, f"{args.model}: a service", serving_text.charts(found), ["\n".join(said)], facts)
    if file is not None:
        write(file, found.chosen, args.model, workload, said[:5])
    print(json.dumps(facts) if args.json else "\n".join(said))
    return 0


def seconds(text: str) -> float:
    """A time such as 2s, 50ms or 0.05 [s]."""
    match = SECONDS.fullmatch(text.strip())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no time; write it like 2s or 50ms")
    return float(match[1]) * (1e-3 if match[2] == "ms" else 1.0)


def _list(kind: type) -> Any:
    def read(text: str) -> tuple[Any, ...]:
        try:
            return tuple(kind(each) for each in text.split(",") if each)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no list; write it like 0,1") from None

    return read


def _workload(args: argparse.Namespace) -> tuple[Workload, Path | None]:
    from fathom.plan.pools import Workload

    output, file = 1024, None
    for given in args.out:
        if given.isdecimal():
            output = int(given)
        elif given.endswith(".toml"):
            file = Path(given)
        else:
            raise ConfigError(f"--out is {given!r}; it must be tokens, such as 1024, or a file, such as deploy.toml.")
    return Workload(
        args.input, output, args.hit, args.ttft, args.tpot, args.percentile, args.rps, args.gpus, args.peak
    ), file  # fmt: skip


def _choices(args: argparse.Namespace) -> Choices:
    from fathom.plan.pools import Choices

    kinds = {None: (False, True), "split": (True,), "aggregated": (False,)}
    return Choices(
        gpus=args.replica_gpus, precisions=args.precision, caches=args.cache, mtp=args.mtp,
        acceptance=args.acceptance, split=kinds[args.kind], engine=args.engine,
    )  # fmt: skip


def _found(args: argparse.Namespace, workload: Workload, choices: Choices) -> tuple[Found, list[str]]:
    """What the search found, and how a given deployment compares with it."""
    from fathom.config import load_config
    from fathom.plan import families, serving
    from fathom.plan.compare import against
    from fathom.plan.hardware import Catalogue

    shape, catalogue = families.find(args.model), Catalogue.read(args.hardware)
    config = load_config(args.model) if shape.family == "deepseek" else None
    devices = [catalogue.find(name) for given in args.gpu for name in given.split(",")]
    found = serving.find(shape, devices, workload, choices, config=config, model=args.model)
    return found, ["", *against(found, args.against, catalogue, choices)] if args.against else []


def _progress() -> Any:
    if not sys.stderr.isatty():
        return lambda what, share: None
    return lambda what, share: print(f"\r  {what} {min(1.0, share):4.0%} ", end="\r", file=sys.stderr, flush=True)
