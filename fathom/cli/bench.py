"""`fathom bench`: how fast a model is on this machine, and what keeps it from being faster."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from fathom.cli.options import add_engine_options, engine_options
from fathom.errors import ConfigError, InputError

if TYPE_CHECKING:
    from fathom.engine import EngineConfig
    from fathom.model import Model

NAME = "bench"
HELP = (
    "Measure a model on this machine. decode, batch: tokens generated per second by one or many sequences. prefill: a "
    "prompt read. mtp: with and without drafting. explain: what bounds each phase, in one sentence each."
)
MODES = ("decode", "prefill", "batch", "mtp", "explain")
PREFILL_TOKENS = 512  # --context of prefill, where 0 would be no prompt
BATCH = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `fathom bench`."""
    parser.add_argument("mode", metavar="MODE", choices=MODES, help=", ".join(MODES))
    parser.add_argument("name", metavar="MODEL", nargs="?", help="the same as --model")
    parser.add_argument("--model", default="nano", help="a model's directory, or nano (default)")
    add_engine_options(parser)
    parser.add_argument("--batch", type=int, help=f"sequences at a time (default: 1; batch: {BATCH})")
    parser.add_argument(
        "--context", type=int,
        help=f"tokens in the cache before those measured (default: 0), or in the prompt (prefill: {PREFILL_TOKENS})",
    )  # fmt: skip
    parser.add_argument("--tokens", type=int, default=128, help="tokens each sequence generates (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="samples, after a warm-up (default: %(default)s)")
    parser.add_argument("--prompts", type=int, default=4, help="mtp: prompts of each family (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="which random tokens and problems (default: %(default)s)")
    parser.add_argument("--again", action="store_true", help="explain: measure the limits of this machine again")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Measure and print; 1 if drafting changed a text."""
    if args.repeats < 1:
        raise ConfigError(f"--repeats is {args.repeats}; it must be at least 1.")
    if args.mode != "mtp" and args.spec not in (None, "off"):
        raise InputError(f"--spec is {args.spec}; tokens are guessed in `fathom bench mtp` only. Leave it out.")
    args.model = args.name or args.model
    return {"mtp": drafting, "explain": explained}.get(args.mode, speed)(args)


def speed(args: argparse.Namespace) -> int:
    """decode, batch, prefill."""
    from fathom.engine.bench import Bench
    from fathom.engine.machine import Neighbours

    sequences = args.batch or (BATCH if args.mode == "batch" else 1)
    context = args.context if args.context is not None else PREFILL_TOKENS if args.mode == "prefill" else 0
    model = opened(replace(config(args), spec="off"), args.model)
    bench = Bench(model, 1 if args.mode == "prefill" else sequences, context, args.tokens, args.seed)
    with Neighbours() as others:
        found = bench.prefill(args.repeats) if args.mode == "prefill" else bench.decode(args.repeats)
    if args.json:
        print(json.dumps(facts(args, model) | asdict(found) | {"others_share": round(others.share, 3)}))
        return 0
    rate, step = found.tokens_per_s, found.ms_per_step
    what = f"{context} tokens read" if args.mode == "prefill" else f"{sequences} x {args.tokens} tokens after {context}"
    print(f"{args.model}: {what}, {args.repeats} repeats")
    print(f"  {rate.median:10,.1f} tokens/s  (from {rate.min:,.1f} to {rate.max:,.1f})")
    print(f"  {step.median:10,.3f} ms a {'prompt' if args.mode == 'prefill' else 'step'}, ", end="")
    print(f"{found.ms_in_model.median:,.3f} ms of it in the model")
    if others.share > 0.05:
        print(f"  others took {others.share:.0%} of the processors meanwhile: too busy a machine to measure on")
    return 0


def explained(args: argparse.Namespace) -> int:
    """One sentence per phase."""
    from fathom.engine.explain import explain
    from fathom.engine.limits import limits
    from fathom.engine.machine import kind, threads

    model = opened(replace(config(args), spec="off"), args.model)
    machine = limits(kind(model), threads(model), again=args.again)
    phases = []
    if not args.json:
        print("\n".join(limit_lines(asdict(machine))), flush=True)
    for phase in explain(model, machine, repeats=args.repeats, seed=args.seed):
        phases.append(asdict(phase) | {"tokens_per_s": phase.tokens_per_s, "floor_s": phase.floor.seconds})
        if not args.json:
            print(f"- {phase.sentence}", flush=True)
    if args.json:
        print(json.dumps(facts(args, model) | {"limits": asdict(machine), "phases": phases}))
    return 0


def limit_lines(machine: dict[str, Any]) -> Iterator[str]:
    """What this machine allows."""
    yield f"{machine['kernels']} kernels, {machine['threads']} threads, {machine['kind']} weights"
    reads, caches = machine["read_bytes_per_s"] / 1e9, machine["cached_bytes_per_s"] / 1e9
    yield f"  reads {reads:,.1f} GB/s from memory, {caches:,.1f} GB/s from the caches"
    peak, attention = 2 * machine["multiply_adds_per_s"] / 1e9, 2 * machine["attention_multiply_adds_per_s"] / 1e9
    yield f"  multiplies at {peak:,.0f} GFLOP/s, in attention at {attention:,.0f} GFLOP/s"


def drafting(args: argparse.Namespace) -> int:
    """With and without drafting, on task prompts."""
    from fathom.config import find_model
    from fathom.engine import Engine
    from fathom.engine.bench import compare_drafting
    from fathom.engine.load import eos_token_ids
    from fathom.think.prompts import task_prompts
    from fathom.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(find_model(args.model))
    together = args.batch or 1
    wanted = replace(config(args), max_sequences=together, spec=args.spec or "auto")
    model = opened(wanted, args.model, mtp=True)
    ends = eos_token_ids(model.config, tokenizer.eos_id)
    plain, drafted = (Engine(model, config=replace(wanted, spec=s), eos_token_ids=ends) for s in ("off", wanted.spec))
    prompts = task_prompts(tokenizer, max(args.prompts, together), args.seed)
    families = {}
    compared = compare_drafting(
        plain, drafted, prompts, max_tokens=args.tokens, repeats=args.repeats, together=together
    )
    for family, found in compared:
        families[family] = found
        if not args.json:
            accepted = " ".join(f"{share:.0%}" for share in found.acceptance) or "nothing drafted"
            print(
                f"{family:<11} {found.plain.median:9,.1f} -> {found.drafted.median:9,.1f} tokens/s, {found.ratio:.2f}x"
                f"  accepted {accepted}  {'same texts' if found.identical else 'TEXTS DIFFER'}", flush=True,
            )  # fmt: skip
    identical = all(found.identical for found in families.values())
    if args.json:
        asked = {"spec": wanted.spec, "batch": together, "identical": identical}
        by_family = {family: asdict(found) for family, found in families.items()}
        print(json.dumps(facts(args, model) | asked | {"families": by_family}))
    return 0 if identical else 1


def config(args: argparse.Namespace) -> EngineConfig:
    """The engine's options among those given."""
    from fathom.engine import EngineConfig

    return EngineConfig(**engine_options(args))


def opened(wanted: EngineConfig, name: str, *, mtp: bool | None = False) -> Model:
    """The model as these options want it."""
    from fathom.engine import load_model

    return load_model(name, mtp=mtp, **wanted.loading)


def facts(args: argparse.Namespace, model: Model) -> dict[str, Any]:
    """What was measured, where and how: the beginning of every JSON."""
    from fathom.engine.machine import kind, machine

    asked = {"mode": args.mode, "model": args.model, "kind": kind(model), "seed": args.seed}
    return asked | {"repeats": args.repeats, "machine": machine(model)}
