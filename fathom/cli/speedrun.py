"""`fathom speedrun`: from nothing to a concise reasoner and a report, in one command; stops cleanly, goes on."""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fathom.errors import InputError

if TYPE_CHECKING:
    from fathom.posttrain.stages import Line

NAME = "speedrun"
HELP = (
    "Tokenizer, base, longer context, SFT, GRPO, rejection sampling, distillation, evaluation, report: all in "
    "one run. Run again with the same --out to go on where it stopped."
)
TIERS = ("cpu", "gpu")
INTERRUPTED = 130
STAGES = ("tokenizer", "base", "extend", "sft", "grpo", "reject", "distil", "eval")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `fathom speedrun`."""
    parser.add_argument(
        "--tier", choices=TIERS, default="cpu", help="cpu: ten minutes on two cores; gpu: a larger recipe"
    )
    parser.add_argument("--recipe", type=Path, metavar="FILE", help="a TOML file instead of recipes/speedrun-TIER.toml")
    parser.add_argument("--out", type=Path, help="run directory (default runs/speedrun-TIER)")
    parser.add_argument("--stages", metavar="NAMES", help=f"only some, such as sft,grpo; of {','.join(STAGES)}")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override: grpo.steps=50")
    parser.add_argument("--json", action="store_true", help="print the summary as one JSON object")


def run(args: argparse.Namespace) -> int:
    """Run what is not done yet, or until Ctrl-C: then the exit code is 130."""
    from fathom.posttrain import run as speedrun

    recipe = speedrun.read(args.recipe or shipped(args.tier), args.set)
    out = args.out or Path("runs") / f"speedrun-{args.tier}"
    device = "cuda" if args.tier == "gpu" else "cpu"
    stream = sys.stderr if args.json else sys.stdout
    job = speedrun.pipeline(recipe, out, device)
    only = [name.strip() for name in args.stages.split(",")] if args.stages else []
    print(f"speedrun in {out}", file=stream, flush=True)
    if not job.run(now_and_then(lambda line: print(shown(line), file=stream, flush=True)), only):
        print("stopped; the same command goes on from there", file=sys.stderr)
        return INTERRUPTED
    seconds = {stage.name: job.seconds(stage.name) for stage in job.stages}
    if seconds["eval"] is None:
        print("the other stages are left; no report yet", file=stream)
        return 0
    from fathom.think.report import render

    page, image = render(out)
    rows = speedrun.summary(out)
    if args.json:
        print(json.dumps({"out": str(out), "seconds": seconds, "results": rows, "report": [str(page), str(image)]}))
        return 0
    print(table(seconds, rows))
    print(f"report: {page}  {image}\nmodel: {out / 'distil/model'}   try: fathom chat --model {out / 'distil/model'}")
    return 0


def shipped(tier: str) -> Path:
    """The recipe of a tier, in the folder beside the package."""
    file = Path(__file__).resolve().parents[2] / "recipes" / f"speedrun-{tier}.toml"
    if not file.is_file():
        raise InputError(f"{file} does not exist; run from a checkout, or name a recipe with --recipe.")
    return file


def now_and_then(
    show: Callable[[Line], None], every_s: float = 2.0, clock: Callable[[], float] = time.monotonic
) -> Callable[[Line], None]:
    """Passes lines on: the first and the last of each stage, others at most one in so many seconds."""
    last = ("", -math.inf)

    def pass_on(line: Line) -> None:
        nonlocal last
        if line.stage != last[0] or line.text.startswith("done") or clock() - last[1] >= every_s:
            last = (line.stage, clock())
            show(line)

    return pass_on


def shown(line: Line) -> str:
    """A line of progress."""
    minutes, seconds = divmod(round(line.left_s), 60)
    return f"[{line.number}/{line.stages}] {line.stage:<9} {line.text}   {minutes}:{seconds:02d} left"


def table(seconds: dict[str, float | None], rows: list[dict[str, Any]]) -> str:
    """Seconds of each stage, then accuracy and tokens of each model in each mode."""
    known = {name: took for name, took in seconds.items() if took is not None}
    lines = [
        "  ".join(f"{name} {took:.0f} s" for name, took in known.items()) + f"  in all {sum(known.values()):.0f} s"
    ]
    lines.append(
        f"\n{'model':<16}{'asked':<12}{'right':>7}   {'95 % interval':<16}{'tokens':>7}{'thinking':>10}{'n':>6}"
    )
    for row in rows:
        interval = f"{row['low']:.1%} to {row['high']:.1%}"
        lines.append(
            f"{row['model']:<16}{row['mode']:<12}{row['accuracy']:>7.1%}   {interval:<16}{row['tokens']:>7.1f}"
            f"{row['thinking']:>10.1f}{row['n']:>6}"
        )
    return "\n".join(lines)
