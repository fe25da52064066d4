"""How well a device profile foresees our own engine: calibrated here, then asked about steps it has not seen.

    python benchmarks/calibrate.py

Takes a profile (about 20 kernels, 16 steps of the engine), draws 20 other steps (two decodes for each chunk of a
prompt), measures them in turns, and compares. About two minutes on a calm machine, six at most.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from measure import ROOT, machine, write

from fathom.cli.planning.calibrate import PREPARING, take_points, take_profile
from fathom.engine import load_model
from fathom.engine.machine import Neighbours
from fathom.plan.calibrate import POINTS, unseen_points
from fathom.plan.drift import compare, compared
from fathom.plan.report import as_json


def main() -> None:
    """Calibrate, measure, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="nano", help="a model's directory, or nano")
    parser.add_argument("--bits", default="8")
    parser.add_argument("--threads", type=int, help="default: one per core")
    parser.add_argument("--points", type=int, default=POINTS, help="steps to fit")
    parser.add_argument("--unseen", type=int, default=20, help="steps to foresee")
    parser.add_argument("--seed", type=int, default=0, help="which steps are drawn")
    parser.add_argument("--minutes", type=float, default=2.5, help="of each of the two measurements, at most")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/calibrate_<model>.json")
    parser.add_argument("--note", default="", help="what else ran on the machine")
    args = parser.parse_args()

    model = load_model(args.model, mtp=False, bits=args.bits, threads=args.threads)
    budget_s = 60 * args.minutes
    with Neighbours() as others:
        profile = take_profile(model, args.model, args.points, budget_s, seed=0)
        groups = unseen_points(
            model.config, profile.kind, profile.kernels, [p.group for p in profile.points],
            count=args.unseen, seed=args.seed, seconds=PREPARING * budget_s,
        )  # fmt: skip
        unseen = take_points(model, groups, budget_s, seed=1)
    found = compare(profile, unseen)
    print("\n".join(compared("unseen", found)), file=sys.stderr)
    report = machine() | {
        "model": Path(args.model).name, "bits": args.bits, "threads": profile.machine.threads, "seed": args.seed,
        "note": args.note, "others_share": round(others.share, 3), "unseen": as_json(found),
        "fitted": as_json(compare(profile, profile.points)), "profile": as_json(profile),
    }  # fmt: skip
    write(report, args.out or ROOT / "benchmarks" / "results" / f"calibrate_{Path(args.model).name}.json")


if __name__ == "__main__":
    main()
