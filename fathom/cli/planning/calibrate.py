"""`fathom plan calibrate`: measure our own engine on this machine, and keep what it takes to predict its steps."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from fathom.errors import ConfigError

if TYPE_CHECKING:
    from fathom.model import Model
    from fathom.plan.calibrate import Point, Profile
    from fathom.plan.ownstep import Group

NAME = "calibrate"
SUMMARY = "measure this machine, so that steps of our engine can be predicted"
HELP = (
    "Measure kernels and some steps of the engine on this machine, in minutes at most, and write a device profile. "
    "`fathom plan step` asks it, `fathom plan drift` holds a step log against it. Leave the machine alone meanwhile."
)
MOST = 1e6
MOST_ROUNDS, PREPARING = 60, 0.1  # turns of all points; share of the minutes that one point's context may take
BUSY = 0.1  # share of the processors that others may take


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `fathom plan calibrate`."""
    parser.add_argument("model", metavar="MODEL", nargs="?", default="nano", help="a directory, or nano (default)")
    parser.add_argument("--bits", default="8", help="weights at 32, 16, 8 or 4 bits, or auto (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="CPU threads of the engine (default: one per core)")
    parser.add_argument("--minutes", type=float, default=3.0, metavar="N", help="at most, about (default: 3)")
    parser.add_argument("--points", type=int, default=16, metavar="N", help="steps to measure (default: %(default)s)")
    parser.add_argument("--check", type=int, default=0, metavar="N", help="measure N other steps too, and compare")
    parser.add_argument("--seed", type=int, default=0, help="which random tokens and checks (default: %(default)s)")
    parser.add_argument("--out", default="profile.json", metavar="FILE", help="the profile (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Measure, write, print."""
    for name, least in (("minutes", 0.0), ("points", 0), ("check", -1)):
        if not least < getattr(args, name) < MOST:
            raise ConfigError(f"--{name} is {getattr(args, name)}; it must be above {least:g}, and below {MOST:g}.")
    if args.threads is not None and args.threads < 1:
        raise ConfigError(f"--threads is {args.threads}; it must be at least 1.")
    from fathom.engine import load_model
    from fathom.plan.calibrate import unseen_points, write_profile
    from fathom.plan.drift import compare
    from fathom.plan.report import as_json

    model = load_model(args.model, mtp=False, bits=args.bits, threads=args.threads)
    budget_s = 60 * args.minutes / (2 if args.check else 1)
    profile = take_profile(model, args.model, args.points, budget_s, args.seed)
    write_profile(profile, Path(args.out))
    checks: list[Point] = []
    if args.check:
        groups = unseen_points(
            model.config, profile.kind, profile.kernels, [p.group for p in profile.points],
            count=args.check, seed=args.seed, seconds=PREPARING * budget_s,
        )  # fmt: skip
        checks = take_points(model, groups, budget_s, args.seed + 1)
    if args.json:
        told = {"out": args.out, "profile": asdict(profile)}
        print(json.dumps(told | ({"checks": as_json(compare(profile, checks))} if checks else {})))
    else:
        print("\n".join(report(profile, args.out, checks)))
    return 0


def take_profile(model: Model, name: str, points: int, budget_s: float, seed: int = 0) -> Profile:
    """The profile of this machine with a model; about `budget_s` seconds, and not many for a small one."""
    from fathom.engine.machine import Neighbours, kind, machine
    from fathom.engine.probe import count_kernels, kernels
    from fathom.engine.replay import config_digest
    from fathom.plan.calibrate import Machine, calibrated, choose_points
    from fathom.plan.ownstep import Kernel

    began, found = perf_counter(), []
    with Neighbours() as others:
        for number, kernel in enumerate(kernels(model), 1):
            found.append(Kernel(**asdict(kernel)))
            _say(f"kernel {number} of {count_kernels()}: {kernel.name} {1e3 * kernel.seconds:.3f} ms")
        groups = choose_points(model.config, kind(model), found, count=points, seconds=PREPARING * budget_s)
        taken = take_points(model, groups, budget_s - (perf_counter() - began), seed)
    return calibrated(
        datetime.now(UTC).isoformat(timespec="seconds"), Machine(**machine(model)), name, model.config, kind(model),
        config_digest(model.config), found, taken, round(others.share, 3),
    )  # fmt: skip


def take_points(model: Model, groups: Sequence[Group], budget_s: float, seed: int) -> list[Point]:
    """Steps of the engine, measured in turns; a line for each, then one for each further turn."""
    from fathom.engine.probe import Probe, Size, measure
    from fathom.plan.calibrate import Point
    from fathom.plan.drift import said

    sizes = {Size(g.sequences, g.tokens, int(g.context), g.sampling): g for g in groups}
    counted = 0

    def seen(size: Size, turn: int, seconds: float) -> None:
        nonlocal counted
        counted += 1
        if turn == 0:
            what = said(size.sequences, size.tokens, sizes[size].sampling)
            _say(f"step {counted} of {len(sizes)}: {what} after {size.context:,}, {1e3 * seconds:.3f} ms")
        elif counted % len(sizes) == 0:
            _say(f"turn {turn + 1}")

    samples = measure(Probe(model, tuple(sizes), seed=seed), MOST_ROUNDS, seconds=budget_s, seen=seen)
    return [
        Point(g.sequences, g.tokens, int(g.context), s.seconds, s.logged_s, s.samples, g.sampling)
        for g, s in zip(sizes.values(), samples, strict=True)
    ]


def report(profile: Profile, out: str, checks: Sequence[Point]) -> Iterator[str]:
    """The lines that a person reads."""
    from fathom.plan.drift import compare, compared

    machine = profile.machine
    where = f"{machine.processor}: {machine.threads} threads, {machine.kernels} kernels"
    yield f"{profile.model}, {profile.kind} weights, on {where}"
    yield f"{len(profile.kernels)} kernels and {len(profile.points)} steps; a fit misses {profile.whole.spread:.1%}"
    if profile.others_share > BUSY:
        yield f"others took {profile.others_share:.0%} of the processors meanwhile: calibrate again on a calm machine"
    for title, points in (("fitted to", profile.points), ("unseen", checks)):
        if points:
            yield ""
            yield from compared(title, compare(profile, points))
    yield f"\nwritten to {out}"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
