"""`fathom plan drift`: whether a machine still does what its device profile says, by a step log."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from fathom.errors import InputError

if TYPE_CHECKING:
    from fathom.plan.calibrate import Profile
    from fathom.plan.drift import Finding
    from fathom.plan.ownstep import Step

NAME = "drift"
SUMMARY = "hold a step log against a device profile"
HELP = (
    "Hold the steps of a log (EngineConfig.record) against the machine's device profile. Exits 0 if they take what it "
    "says, 1 if they have left its interval: the machine, its load or the code has changed. Calibrate again then."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `fathom plan drift`."""
    parser.add_argument("profile", metavar="PROFILE", help="a device profile")
    parser.add_argument("log", metavar="LOG", help="a step log of the same model")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Compare and print; 1 if it drifted."""
    from fathom.plan.calibrate import read_profile
    from fathom.plan.drift import drift

    profile = read_profile(Path(args.profile))
    from fathom.engine.record import read_header  # takes seconds, and needs torch

    header = read_header(args.log)
    for what, logged, known in (("model", header.config, profile.digest), ("weights", header.kind, profile.kind)):
        if logged != known:
            raise InputError(
                f"{args.log} is of {what} {logged}, {args.profile} of {known}; name two of the same model."
            )
    left_out: list[int] = []
    found = drift(profile, steps(args.log, left_out))
    if args.json:
        shifts = [asdict(shift) | {"rings": shift.rings} for shift in found.shifts]
        told = {"rings": found.rings, "shifts": shifts, "few": found.few, "left_out": len(left_out)}
        print(json.dumps({"log": args.log, "profile": args.profile} | told))
    else:
        print("\n".join(report(profile, found, len(left_out))))
    return 1 if found.rings else 0


def steps(log: str, left_out: list[int]) -> Iterator[tuple[Step, float]]:
    """Steps of a log with their times [s]; those that guessed tokens or moved pages go to `left_out`."""
    from fathom.engine.record import read_steps
    from fathom.plan.ownstep import step_of

    known: set[str] = set()
    for record in read_steps(log):
        plan = record.plan
        step = step_of(plan, known)
        known.update(row.request_id for row in plan.rows)
        if plan.spills or plan.restores or any(row.drafts or row.propose for row in plan.rows):
            left_out.append(plan.step)
        elif step:
            yield step, record.step_s


def report(profile: Profile, found: Finding, left_out: int) -> Iterator[str]:
    """The lines that a person reads."""
    from fathom.plan.report import table

    yield f"against {profile.model} on {profile.machine.processor}, {profile.created[:10]}"
    head = ("steps", "number", "measured/predicted", "unchanged within", "in their interval", "")
    yield from table(head, [
        (
            shift.kind, shift.steps, f"{shift.ratio:.2f}", f"{shift.limit_low:.2f} to {shift.limit_high:.2f}",
            f"{shift.inside:.0%}", "DRIFTED" if shift.rings else "",
        )
        for shift in found.shifts
    ])  # fmt: skip
    for name, number in found.few.items():
        yield f"  {name}: {number:,}, too few to say"
    if left_out:
        yield f"  {left_out:,} others guessed tokens or moved pages, which a profile does not cover"
    yield "drifted: calibrate again" if found.rings else "no drift"
