"""`fathom plan validate`: how far the planner is off, over a file of measured points."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from fathom.errors import ConfigError

if TYPE_CHECKING:
    from fathom.plan.validate import Errors, Outcome

NAME = "validate"
SUMMARY = "predict a file of measured points, and print how far off"
HELP = (
    "Predict each row of a file of measured points (columns as in fathom/plan/data/measured.csv) and print the error: "
    "median and p90 of its absolute value, bias, and how often the 80 % interval held, by kind, metric, hardware, engine, "
    "model or group. A row that is not predicted is counted and named."
)
HEAD = ("", "rows", "refused", "median %", "p90 %", "bias %", "in 80 % interval %")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `fathom plan validate`."""
    parser.add_argument("data", nargs="*", type=Path, metavar="DATA.csv", help="measured points (default: the shipped)")
    parser.add_argument("--by", action="append", metavar="NAME", help="kind, metric, hardware, engine, model or group")
    parser.add_argument("--model", metavar="NAME", help="only rows of models whose name has this in it")
    parser.add_argument("--worst", type=int, default=0, metavar="N", help="name the N rows that are furthest off")
    parser.add_argument(
        "--leave-out", choices=["group"], help="predict each row by knobs that its group had no part in"
    )
    parser.add_argument("--refit", action="store_true", help="fit the knobs to the shipped points and write knobs.toml")
    parser.add_argument("--hardware", type=Path, metavar="FILE", help="devices of your own, as in data/hardware.toml")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Predict and print."""
    from fathom.plan import knobs, refit, validate
    from fathom.plan.hardware import Catalogue

    if args.worst < 0:
        raise ConfigError(f"--worst is {args.worst}; it must be 0 or more.")
    catalogue = Catalogue.read(args.hardware)
    if args.refit:
        made = refit.refit(validate.fitted(), catalogue)
        knobs.FILE.write_text(refit.toml(made), encoding="utf-8")
        print(f"{knobs.FILE}: written, from {len(validate.fitted()):,} points")
        return 0
    rows = [row for path in args.data or [validate.FILE] for row in validate.read(path)]
    rows = [row for row in rows if not args.model or args.model.lower() in row["model"].lower()]
    found = validate.validate(rows, catalogue=catalogue, leave_out=args.leave_out is not None)
    tables = {by: validate.errors(found, by) for by in args.by or ("kind", "metric")}
    worst = sorted((one for one in found if one.error is not None), key=lambda one: -abs(one.error or 0))[: args.worst]
    refused = validate.refusals(found)
    if args.json:
        told = {by: [one.to_dict() for one in table] for by, table in tables.items()}
        print(json.dumps({"errors": told, "refused": dict(refused), "rows": [one.to_dict() for one in found]}))
        return 0
    print("\n".join(_lines(tables, worst, refused)))
    return 0


def _lines(
    tables: dict[str, list[Errors]], worst: list[Outcome], refused: list[tuple[str, int]]
) -> Iterator[str]:
    from fathom.plan.report import table

    for by, each in tables.items():
        yield f"by {by}"
        yield from table(HEAD, [_cells(one) for one in each])
        yield ""
    if worst:
        yield "furthest off"
        head = ("", "measured", "predicted", "unit", "error %")
        rows = [(f"{one.row['id']} {one.row['system']} {one.row['model']} {one.row['hardware']}"[:70], one.measured,
                 one.found, one.row["unit"], _percent(one.error)) for one in worst]  # fmt: skip
        yield from table(head, rows)
        yield ""
    for reason, count in refused:
        yield f"refused {count}: {reason}"[:120]


def _cells(one: Errors) -> tuple[object, ...]:
    shares = (_percent(one.median), _percent(one.p90), _percent(one.bias), _percent(one.coverage))
    return (one.name[:50], one.rows, one.refused, *shares)


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{100 * share:.1f}"
