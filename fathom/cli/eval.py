"""`fathom eval`: how often a model is right, per family and level, and how many tokens it takes."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict

from fathom import tasks
from fathom.cli.options import add_engine_options, engine_options
from fathom.errors import InputError

NAME = "eval"
HELP = "Ask a model fresh problems with known answers; print accuracy with 95 % Wilson intervals and tokens used."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `fathom eval`."""
    parser.add_argument("--model", default="nano", help='a checkpoint\'s directory, or "nano" (default)')
    parser.add_argument("--family", help=f"one of {', '.join(tasks.FAMILIES)}; all by default")
    parser.add_argument("--level", type=int, help="difficulty; every level by default")
    parser.add_argument("--n", type=int, default=100, help="problems per family and level (default 100)")
    parser.add_argument("--seed", type=int, default=0, help="which problems are drawn (default 0)")
    parser.add_argument("--effort", default="high", help='"high" thinks first (default), "none" answers at once')
    parser.add_argument("--split", default="test", help="train, validation or test (default)")
    parser.add_argument("--max-tokens", type=int, default=640, help="longest answer, thinking included (default 640)")
    add_engine_options(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Evaluate and print; one object for one family and level, else a list under "results"."""
    if args.level is not None and args.family is None:
        raise InputError("--level was given without --family; name the family whose level it is.")
    from fathom.engine import LLM, EngineConfig
    from fathom.think.evaluate import Score, evaluate_all

    def show(score: Score) -> None:
        stream = sys.stderr if args.json else sys.stdout
        interval = f"{score.low:6.1%} to {score.high:6.1%}"
        cut = f"  {score.cut_off} cut off" if score.cut_off else ""
        print(
            f"{score.family:<11} level {score.level}  {score.accuracy:6.1%}  ({interval})  n {score.n}"
            f"  {score.tokens_mean:6.1f} tokens{cut}",
            file=stream, flush=True,
        )  # fmt: skip

    families = [args.family] if args.family else list(tasks.FAMILIES)
    options = {"n": args.n, "seed": args.seed, "effort": args.effort, "split": args.split}
    llm = LLM(args.model, EngineConfig(**engine_options(args)))
    scores = list(evaluate_all(llm, families, args.level, show, max_tokens=args.max_tokens, **options))
    if args.json:
        facts = {"model": args.model, "seed": args.seed, "effort": args.effort, "split": args.split}
        rows = [asdict(score) for score in scores]
        print(json.dumps(facts | (rows[0] if len(rows) == 1 else {"results": rows})))
    return 0
