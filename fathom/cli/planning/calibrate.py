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
from typing import TYPE_CHECKING, Any

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
MOST_ROUNDS, PREPARING = 15, 0.1  # turns of all points; share of the minutes that one point's context may take


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `fathom plan calibrate`."""
    parser.add_argument("model", metavar="MODEL", nargs="?", default="nano", help="a directory, or nano (default)")
    parser.add_argument("--bits", default="8", help="weights at 32, 16, 8 or 4 bits, or auto (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="CPU threads of the engine (default: one per core)")
    parser.add_argument("--minutes", type=float, default=3.0, metavar="N", help="at most, about (default: 3)")
    parser.add_argument("--points", type=int, default=10, metavar="N", help="steps to measure (default: %(default)s)")
    parser.add_argument("--check", type=int, default=0, metavar="N", help="measure N other steps too, and compare")
    parser.add_argument("--seed", type=int, default=0, help="which random tokens and checks (default: %(default)s)")
    parser.add_argument("--out", default="profile.json", metavar="FILE", help="the profile (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Measure, write, print."""
    from fathom.engine import load_model
    from fathom.plan.calibrate import unseen_points, write_profile

    for name, least in (("minutes", 0.0), ("points", 0), ("check", -1)):
        if not getattr(args, name) > least:
            raise ConfigError(f"--{name} is {getattr(args, name)}; it must be above {least:g}.")
    model = load_model(args.model, mtp=False, bits=args.bits, threads=args.threads)
    budget_s = 60 * args.minutes / (2 if args.check else 1)
    profile = take_profile(model, args.model, args.points, budget_s, args.seed)
    write_profile(profile, Path(args.out))
    checks: list[Point] = []
    if args.check:
        groups = unseen_points(
            model.config, profile.kind, profile.kernels, [g for p in profile.points for g in p.step],
            count=args.check, seed=args.seed, seconds=PREPARING * budget_s,
        )  # fmt: skip
        checks = take_points(model, groups, budget_s, args.seed + 1)
    if args.json:
        compared = [row(profile, point) for point in checks]
        print(json.dumps({"out": args.out, "profile": asdict(profile), "checks": compared, **summary(compared)}))
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
    """Steps of the engine, measured in turns; a line for each, and one for each turn that follows."""
    from fathom.engine.limits import Step
    from fathom.engine.probe import Probe, measure
    from fathom.plan.calibrate import Point

    steps = [Step(group.sequences, group.tokens, int(group.context)) for group in groups]
    counted = 0

    def seen(step: Step, turn: int, seconds: float) -> None:
        nonlocal counted
        counted += 1
        if turn == 0:
            _say(f"step {counted} of {len(steps)}: {words(step)} {1e3 * seconds:.3f} ms")
        elif counted % len(steps) == 0:
            _say(f"turn {turn + 1}")

    samples = measure(Probe(model, steps, seed=seed), MOST_ROUNDS, seconds=budget_s, seen=seen)
    return [Point(s.step.sequences, s.step.tokens, s.step.context, s.seconds, s.logged_s, s.samples) for s in samples]


def words(step: Any) -> str:
    """A step as people say it."""
    what = f"{step.tokens} prompt tokens" if step.tokens > 1 else f"{step.sequences} sequences"
    return f"{what} after {step.context:,.0f}"


def row(profile: Profile, point: Point) -> dict[str, Any]:
    """A measured step and its prediction."""
    from fathom.plan.calibrate import predict

    expected = predict(profile, point.step)
    error = expected.value / point.seconds - 1
    inside = (expected.low or 0.0) <= point.seconds <= (expected.high or 0.0)
    size = {"sequences": point.sequences, "tokens": point.tokens, "context": point.context}
    return size | {"measured_s": point.seconds, "predicted": expected.to_dict(), "error": error, "inside": inside}


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Median and largest error, and the share of intervals that hold what was measured; nothing of nothing."""
    from statistics import mean, median

    errors = [abs(row["error"]) for row in rows]
    if not errors:
        return {}
    return {
        "median_error": median(errors), "largest_error": max(errors), "inside_share": mean(row["inside"] for row in rows)
    }  # fmt: skip


def report(profile: Profile, out: str, checks: Sequence[Point]) -> Iterator[str]:
    """The lines that a person reads."""
    machine = profile.machine
    yield f"{profile.model}, {profile.kind} weights, on {machine.processor}: {machine.threads} threads, {machine.kernels}"
    yield f"{len(profile.kernels)} kernels and {len(profile.points)} steps measured; a fit misses {profile.whole.spread:.1%}"
    if profile.others_share > 0.1:
        yield f"others took {profile.others_share:.0%} of the processors meanwhile: calibrate again on a calm machine"
    for title, points in (("steps it was fitted to", profile.points), ("steps it had not seen", checks)):
        if points:
            yield ""
            yield from table(title, [row(profile, point) for point in points])
    yield ""
    yield f"written to {out}"


def table(title: str, rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Measured beside predicted."""
    yield f"{title:<26}{'context':>10}{'measured ms':>14}{'predicted ms':>14}{'80 % interval':>20}{'error':>9}"
    for r in rows:
        what = f"{r['tokens']} prompt tokens" if r["tokens"] > 1 else f"{r['sequences']} sequences"
        p = r["predicted"]
        interval = f"{1e3 * p['low']:.3f} to {1e3 * p['high']:.3f}"
        yield (
            f"  {what:<24}{r['context']:>10,}{1e3 * r['measured_s']:>14,.3f}{1e3 * p['value']:>14,.3f}"
            f"{interval:>20}{r['error']:>+9.1%}"
        )
    s = summary(rows)
    yield f"  median error {s['median_error']:.1%}, largest {s['largest_error']:.1%}; {s['inside_share']:.0%} in their interval"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
