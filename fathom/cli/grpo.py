"""`fathom grpo`: reinforcement learning with rewards that check the answer; stops cleanly, resumes to the bit."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fathom.errors import InputError

if TYPE_CHECKING:
    from fathom.posttrain.grpo import GRPOConfig, Step

NAME = "grpo"
HELP = (
    "Train a model on problems with a checker: GRPO with our own engine. Run again with the same --out to go on where "
    "it stopped."
)
INTERRUPTED = 130


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `fathom grpo`."""
    parser.add_argument("recipe", nargs="?", help="a TOML file, for example recipes/grpo-nano.toml; else the defaults")
    parser.add_argument("--model", default="nano", help='a checkpoint\'s directory, or "nano" (default)')
    parser.add_argument("--out", help="run directory; required but for --check")
    parser.add_argument(
        "--check", action="store_true",
        help="two steps with learning rate 0, in no directory: exit code 0 if engine and trainer agree to the bit",
    )  # fmt: skip
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override: optim.lr=1e-5")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")


def run(args: argparse.Namespace) -> int:
    """Train to the end, or until Ctrl-C: then the state is saved and the exit code is 130."""
    from fathom.config import build, read_toml
    from fathom.config.recipe import override
    from fathom.posttrain.grpo import GRPOConfig

    table = read_toml(args.recipe, args.set) if args.recipe else override({}, args.set)
    config = build(GRPOConfig, table, args.recipe or "--set")
    if args.check:
        return check(args, config)
    if args.out is None:
        raise InputError("--out is not given; name a run directory, new or to be gone on with (or ask for --check).")
    return train(args, config)


def train(args: argparse.Namespace, config: GRPOConfig) -> int:
    """The run itself."""
    from fathom.posttrain.grpo import GRPO

    stream, last = sys.stderr if args.json else sys.stdout, dict[str, Any]()
    job = GRPO(args.model, Path(args.out), config)
    verb = f"resuming at step {job.step}" if job.step else "training"
    answers = config.rollout.groups * config.rollout.samples
    print(f"{verb}: {answers} answers a step, {config.steps:,} steps, in {args.out}", file=stream, flush=True)

    def show(step: Step) -> None:
        last.update(asdict(step))
        print(line(step), file=stream, flush=True)

    model_dir = job.run(show)
    if model_dir is None:
        print(f"stopped at step {job.step}; the same command goes on from there", file=sys.stderr)
        return INTERRUPTED
    print(f"model: {model_dir}   try: fathom eval --model {model_dir}", file=stream)
    if args.json:
        print(json.dumps({"model": str(model_dir), **last}))
    return 0


def check(args: argparse.Namespace, config: GRPOConfig) -> int:
    """`--check`; exit code 0 if it passed, else 1."""
    from fathom.posttrain import grpo

    stream = sys.stderr if args.json else sys.stdout
    found = grpo.check(args.model, config, report=lambda step: print(line(step), file=stream, flush=True))
    numerics = "exact" if found.exact else "plain torch, which is not exact: no native kernels"
    print(
        f"{'passed' if found.passed else 'FAILED'}: gap {found.gap:g} nats, ratios {found.ratio_low:g} to "
        f"{found.ratio_high:g}, {found.moved} weights moved in {found.steps} steps ({numerics}; torch alone is off "
        f"by {found.torch_gap:.1e} nats)",
        file=stream,
    )
    if args.json:
        print(json.dumps(asdict(found) | {"passed": found.passed}))
    return 0 if found.passed else 1


def line(step: Step) -> str:
    """The progress line."""
    guesses = "" if step.mtp_acceptance is None else f"  MTP {step.mtp_acceptance:.0%} right"
    return (
        f"step {step.step}/{step.steps}  reward {step.reward:.3f}  right {step.accuracy:.1%}  {step.tokens:.0f} tokens"
        f"  cut {step.truncated:.0%}  flat {step.zero_variance:.0%}  KL {step.kl:.4f}  clipped {step.clip_share:.1%}"
        f"  gap {step.gap:g} (torch {step.torch_gap:.0e}){guesses}  {step.tokens_per_s:,.0f} tok/s  {step.step_s:.1f} s"
    )
