"""`fathom plan train`: how long a training run takes, what a rank must hold, and what the run costs."""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fathom.errors import ConfigError

if TYPE_CHECKING:
    from fathom.plan.training.job import Job

NAME = "train"
SUMMARY = "time, memory and cost of a training run, and what a headline leaves out"
HELP = (
    "Predict a training run from its configuration: step time by part, memory of a rank, utilisation, GPU-hours, days "
    "and dollars, with intervals; then what a headline leaves out. Searches a layout unless one is given; that of "
    "DeepSeek-V3 is the published one."
)
SUFFIX = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}
AXES = ("pp", "tp", "cp", "ep", "vp")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `fathom plan train`."""
    parser.add_argument("model", help="a preset, a known model, a size such as 30B, or a config.json")
    parser.add_argument("--tokens", required=True, metavar="N", help="to train on, for example 14.8T")
    parser.add_argument("--gpu", default="h100", metavar="NAME", help="device (default: h100)")
    parser.add_argument("--gpus", type=int, required=True, metavar="N", help="how many")
    parser.add_argument("--layout", metavar="AXES", help="for example pp16,ep64 (pp, tp, cp, ep, vp: chunks of a rank)")
    parser.add_argument("--schedule", default="", metavar="NAME", help="1f1b, interleaved, zb1p, dualpipe or dualpipev")
    parser.add_argument(
        "--precision", default="", metavar="NAME", help="fp8 or bf16 (default: fp8 where the device has it)"
    )
    parser.add_argument("--seq", type=int, default=4096, metavar="N", help="tokens of a sequence (default: 4096)")
    parser.add_argument("--batch", type=int, default=0, metavar="N", help="sequences of a step (default: 4M tokens)")
    parser.add_argument("--micro", type=int, default=1, metavar="N", help="sequences of a micro-batch (default: 1)")
    parser.add_argument(
        "--software", default="", metavar="NAME", help="eager, plain, compiled, megatron, graphs or hai"
    )
    parser.add_argument(
        "--recompute", default="", metavar="NAME", help="none, norms, selective or full (default: what fits)"
    )
    parser.add_argument("--price", type=float, metavar="USD", help="of a device and hour (default: the catalogue's)")
    parser.add_argument("--ablations", type=float, metavar="SHARE", help="compute of ablations over that of the run")
    parser.add_argument("--failed", type=float, default=0.0, metavar="SHARE", help="of the run that is done again")
    parser.add_argument("--synthetic", metavar="N", help="tokens generated for training (default: as R1)")
    parser.add_argument("--cleaned", default="0", metavar="N", help="tokens that a model reads to filter them")
    parser.add_argument("--write-rate", type=float, metavar="N", help="tokens a device generates per second, for these")
    parser.add_argument("--hardware", type=Path, metavar="FILE", help="devices of your own, as in data/hardware.toml")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--html", type=Path, metavar="FILE", help="write a page with the step and the bill (or .png, .svg, .json)"
    )


def run(args: argparse.Namespace) -> int:
    """Print the plan of a run."""
    from fathom.plan.training.bill import Extras
    from fathom.plan.training.report import plan, table, to_dict, write

    job, why = _job(args)
    extras = Extras(
        price=args.price, ablations=args.ablations, failed=args.failed, cleaned=amount(args.cleaned),
        synthetic=None if args.synthetic is None else amount(args.synthetic),
    )  # fmt: skip
    if args.write_rate is not None:
        extras = replace(extras, write_rate=args.write_rate)
    found = plan(job, amount(args.tokens), extras, why)
    print(json.dumps(to_dict(found)) if args.json else "\n".join(table(found)))
    if args.html:
        write(found, args.html)
    return 0


def amount(text: str) -> float:
    """A number such as 14.8T or 600B."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?(?:e\d+)?)\s*([kmbt]?)", text.strip().lower())
    if match is None:
        raise ConfigError(f"{text!r} is no number of tokens; write it like 14.8T or 600B.")
    return float(match[1]) * SUFFIX[match[2]]


def axes(text: str) -> dict[str, int]:
    """Degrees of a text such as pp16,ep64."""
    found = dict.fromkeys(AXES, 1)
    for part in filter(None, re.split(r"[,\s]+", text.lower())):
        match = re.fullmatch(r"([a-z]+)(\d+)", part)
        if match is None or match[1] not in AXES or not int(match[2]):
            raise ConfigError(f"layout: {part!r} is none of {', '.join(AXES)} with a number; write it like pp16,ep64.")
        found[match[1]] = int(match[2])
    return found


def _job(args: argparse.Namespace) -> tuple[Job, str]:
    """The job that was asked for, and how its layout was come by."""
    from fathom.plan.families import find, is_there, known
    from fathom.plan.hardware import Catalogue
    from fathom.plan.training.search import asked
    from fathom.plan.training.sized import shape_of

    if args.gpus < 1:
        raise ConfigError(f"--gpus is {args.gpus}; it must be at least 1.")
    shape = find(args.model) if args.model in known() or is_there(Path(args.model)) else shape_of(args.model)
    device = Catalogue.read(args.hardware).find(args.gpu)
    cut = axes(args.layout) if args.layout else None
    return asked(
        shape, device, args.gpus, cut=cut, schedule=args.schedule, precision=args.precision, seq=args.seq,
        batch=args.batch, micro=args.micro, software_name=args.software, recompute=args.recompute,
    )  # fmt: skip
