"""`fathom plan validate`: the planner's error on a file of measured points."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fathom.plan.validate import Errors, Outcome

NAME = "validate"
SUMMARY = "the planner's error on a file of measured points"
HELP = (
    "Predict every row of a CSV file of measured points (columns as in fathom/plan/data/measured.csv) and print the "
    "error: median and 90th percentile, bias, share within the 80 % interval, and what is refused, by name."
)
BY = ("kind", "metric", "hardware", "engine", "model")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `fathom plan validate`."""
    parser.add_argument("data", type=Path, nargs="?", help="the file (default: the points that the package ships)")
    parser.add_argument("--by", nargs="+", choices=BY, default=list(BY), help="the tables (default: all)")
    parser.add_argument("--leave-out", choices=("group",), help="predict each group by knobs fitted without it")
    parser.add_argument("--worst", type=int, default=0, metavar="N", help="also the N rows that are furthest off")
    parser.add_argument(
        "--refit", type=Path, metavar="FILE", help="fit the knobs to the data, write them there, and stop"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Predict, compare, print."""
    from fathom.plan import refit
    from fathom.plan.hardware import Catalogue
    from fathom.plan.validate import DATA, errors, grouped, read, refusals, validate

    rows = read(args.data or DATA)
    if args.refit:
        args.refit.write_text(refit.toml(refit.refit(rows, Catalogue.read())), encoding="utf-8")
        print(f"wrote {args.refit}")
        return 0
    found = validate(rows, leave_out=args.leave_out is not None)
    tables = {by: grouped(found, by) for by in args.by}
    worst = sorted((one for one in found if not one.reason), key=lambda one: -abs(one.error))[: max(0, args.worst)]
    if args.json:
        facts = {
            "rows": len(found), "left_out": args.leave_out, "all": asdict(errors(found)),
            "by": {by: {name: asdict(each) for name, each in table.items()} for by, table in tables.items()},
            "refusals": refusals(found),
            "worst": [{**one.row, "predicted": one.value, "low": one.low, "high": one.high} for one in worst],
        }  # fmt: skip
        print(json.dumps(facts))
        return 0
    print(f"{len(found):,} rows" + (", each group predicted by knobs fitted without it" if args.leave_out else ""))
    for by, table in tables.items():
        print("\n" + "\n".join(lines(by, table)))
    if reasons := refusals(found):
        print("\n  refused\n" + "\n".join(f"  {count:>6}  {reason[:108]}" for reason, count in reasons.items()))
    if worst:
        print("\n  furthest off\n" + "\n".join(furthest(worst)))
    return 0


def lines(by: str, table: dict[str, Errors]) -> Iterator[str]:
    """One table."""
    yield f"  {by:<52}{'rows':>6}{'refused':>9}{'median':>9}{'p90':>9}{'bias':>9}{'in 80 %':>9}"
    for name, one in table.items():
        cells = (one.median, one.p90, one.bias, one.covered)
        shown = "".join(f"{'' if cell is None else f'{cell:.1%}':>9}" for cell in cells)
        yield f"  {name[:50]:<52}{one.rows:>6}{one.refused:>9}{shown}".rstrip()


def furthest(found: list[Outcome]) -> Iterator[str]:
    """A line for each row."""
    for one in found:
        row = one.row
        what = f"{row['system'][:22]}, {row['model'][:22]}, {row['hardware'][:14]}, {row['parallelism'][:16]}"
        yield f"  {one.error:>+8.0%}  {row['id']:<8}{what:<80}{one.value:,.4g} for {one.measured:,.4g} {row['unit']}"
