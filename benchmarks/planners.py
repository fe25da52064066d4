"""How far planners are from measured serving runs: this one, its groups left out of the fit, and aiconfigurator.

    python -m venv aic && aic/bin/pip install aiconfigurator==0.12.0
    python benchmarks/planners.py --aiconfigurator aic/bin/python

The same aggregated runs of InferenceX for both (no drafting), drawn by seed: time per output token, and to the first.
aiconfigurator has its default database and lengths of 0.9 of nominal, the mean of what was run; it is told the
concurrency as its batch. Writes benchmarks/results/planners.json and prints the table of docs/planning.md.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from random import Random
from typing import Any

from measure import ROOT, machine, write

from fathom.plan import refit
from fathom.plan.hardware import Catalogue
from fathom.plan.rows import Case

DATA = ROOT / "fathom/plan/data/measured.csv"
ASKED = ROOT / "benchmarks/aiconfigurator_rows.py"
SYSTEMS = {"gb200_nvl72": "gb200", "gb300_nvl72": "gb300"}
PRECISIONS = {"nvfp4": "fp4"}
MODELS = {"kimi-k2": "kimi-k2.5"}


def main() -> None:
    """Ask both, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--aiconfigurator", type=Path, required=True, help="a Python that has it")
    parser.add_argument("--data", type=Path, default=DATA, help="measured points (default: those of the package)")
    parser.add_argument("--runs", type=int, default=160, help="how many runs are drawn (default: 160)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with args.data.open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["kind"] == "serving_mixed"]
    ours, cases = left_out(rows)
    runs = sorted({run_of(one) for one in cases if one.metric.startswith("tpot")})
    Random(args.seed).shuffle(runs)
    chosen = {run: [one for one in cases if run_of(one) == run] for run in runs[: args.runs]}
    theirs = ask(args.aiconfigurator, [found[0] for found in chosen.values()])
    report = machine() | {"runs": len(chosen), "seed": args.seed, "unit": "share of the measured time", "errors": {}}
    for metric, key in (("tpot", "tpot_ms"), ("ttft", "ttft_ms")):
        both = []
        for found in chosen.values():
            one = next((c for c in found if c.metric == metric), None)
            answer = theirs.get(found[0].id, {})
            if one is not None and key in answer:
                both.append((one.setup.shape.family, ours[one.id] * 1e3 / one.value - 1, answer[key] / one.value - 1))
        for family in ("all", *sorted({name for name, _, _ in both})):
            picked = [(a, b) for name, a, b in both if family in ("all", name)]
            report["errors"][f"{metric} {family}"] = {
                "n": len(picked), "fathom": errors(a for a, _ in picked), "aiconfigurator": errors(b for _, b in picked)
            }  # fmt: skip
    report["aiconfigurator_failed"] = sorted({str(a["error"])[:80] for a in theirs.values() if "error" in a})
    write(report, ROOT / "benchmarks/results/planners.json")
    print("\n".join(table(report["errors"])))


def run_of(one: Case) -> tuple[str, ...]:
    """What names a run: its group, lengths and concurrency."""
    return one.group, str(one.prompt), str(one.output), str(one.concurrency)


def left_out(rows: Sequence[dict[str, str]]) -> tuple[dict[str, float], list[Case]]:
    """(seconds by row, each predicted by knobs that its group had no part in; the aggregated cases)."""
    catalogue = Catalogue.read()
    cases = refit.cases(rows, catalogue)
    knobs = refit.refit(rows, catalogue)
    pools = {"tpot": refit.tpot_pool(cases, knobs), "ttft": refit.ttft_pool(cases, knobs)}
    found: dict[str, float] = {}
    for metric, pool in pools.items():
        own = [c for c in cases if c.metric.startswith(metric)]
        found |= dict(zip((c.id for c in own), pool.left_out(), strict=True))
    return found, [one for one in cases if one.way == "aggregated"]


def ask(python: Path, cases: Iterable[Case]) -> dict[str, dict[str, Any]]:
    """What aiconfigurator says of each case, by its row."""
    lines = []
    for one in cases:
        layout, shape = one.setup.layout, one.setup.shape
        lines.append(
            json.dumps({
                "id": one.id, "model": MODELS.get(shape.name, shape.name),
                "precision": PRECISIONS.get(one.setup.weights.name, one.setup.weights.name),
                "system": SYSTEMS.get(one.setup.device.name, one.setup.device.name), "backend": one.setup.engine,
                "isl": round(one.prompt), "osl": round(one.output), "concurrency": int(one.concurrency),
                "tp": layout.tp, "dp": layout.dp, "ep": layout.ep,
            })
        )  # fmt: skip
    print(f"asking aiconfigurator for {len(lines)} runs, about a second each", file=sys.stderr)
    done = subprocess.run([python, ASKED], input="\n".join(lines), capture_output=True, text=True, check=True)
    return {answer["id"]: answer for answer in map(json.loads, done.stdout.splitlines())}


def errors(found: Iterable[float]) -> dict[str, float]:
    """Median and 90th percentile of the absolute error, and the median with its sign."""
    signed = list(found)
    size = sorted(map(abs, signed))
    return {
        "median": round(statistics.median(size), 3),
        "p90": round(size[min(len(size) - 1, int(0.9 * len(size)))], 3),
        "bias": round(statistics.median(signed), 3),
    }


def table(found: dict[str, Any]) -> Iterable[str]:
    """Markdown."""
    yield "| time, family | runs | fathom: median, p90, bias | aiconfigurator 0.12: median, p90, bias |"
    yield "| --- | --- | --- | --- |"
    for name, row in found.items():
        sides = (row[side] for side in ("fathom", "aiconfigurator"))
        cells = (f"{side['median']:.1%}, {side['p90']:.1%}, {side['bias']:+.1%}" for side in sides)
        yield f"| {name} | {row['n']} | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
