"""`fathom plan crossover`: the day on which answering everybody has cost more than training."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fathom.plan.crossover import Crossing, Spending

NAME = "crossover"
SUMMARY = "the day on which inference has cost more than training"
HELP = (
    "The day on which inference has cost more than training: of the model, with reinforcement learning, and with all "
    "research compute. Without a file: DeepSeek-V3 and R1 as published."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `fathom plan crossover`."""
    parser.add_argument("file", nargs="?", metavar="FILE.toml", help="spending, as fathom/plan/data/crossover.toml")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override: training.rl=3e5")
    parser.add_argument("--training-usd", type=float, metavar="N", help="of the model; drops what the file says of RL")
    parser.add_argument("--rl-usd", type=float, metavar="N", help="of reinforcement learning")
    parser.add_argument("--rd-share", type=float, metavar="N", help="of the final run in all research compute, 0 to 1")
    parser.add_argument("--inference-usd-per-day", type=float, metavar="N", help="today")
    parser.add_argument("--growth", type=float, metavar="N", help="of inference per year: 1.0 doubles it (default: 0)")
    parser.add_argument("--demand", metavar="FILE.toml", help="take the bill of a day and its growth from a demand")
    parser.add_argument("--samples", type=int, default=10_000, metavar="N", help="of the inputs (default: 10000)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the samples (default: 0)")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with table and chart")
    parser.add_argument("--png", type=Path, metavar="FILE", help="write the chart as a picture")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Print the days."""
    from fathom.plan.crossover import crossover

    spending = _spending(args)
    found = crossover(spending, args.samples, args.seed)
    lines = list(report(spending, found))
    if args.html or args.png:
        from fathom.plan.figures import of_crossover
        from fathom.plan.report import save

        for path in filter(None, (args.html, args.png)):
            save(path, spending.title, [of_crossover(spending)], ["\n".join(lines)])
    if args.json:
        inputs = {name: one.quantity().to_dict() for name, one in spending.inputs.items()}
        made: dict[str, Any] = {"title": spending.title, "currency": spending.currency, "inputs": inputs}
        print(json.dumps({**made, "crossings": [one.to_dict() for one in found]}))
    else:
        print("\n".join(lines))
    return 0


def _spending(args: argparse.Namespace) -> Spending:
    from dataclasses import replace

    from fathom.plan.crossover import of_demand, read_spending
    from fathom.plan.demand import read_demand

    spending = read_spending(args.file, args.set)
    if args.training_usd is not None:  # of another model: what was spent on this one's RL is not known
        spending = replace(spending, inputs={k: v for k, v in spending.inputs.items() if k != "training.rl"})
        spending = replace(spending, title="as given")
    if args.demand:
        spending = of_demand(spending, read_demand(args.demand))
    return spending.changed(
        training__model=args.training_usd, training__rl=args.rl_usd, training__share_of_rd=args.rd_share,
        inference__per_day=args.inference_usd_per_day, growth__inference=args.growth,
    )  # fmt: skip


def report(spending: Spending, found: Sequence[Crossing]) -> Iterator[str]:
    """The lines of the tables that a person reads."""
    from fathom.plan.inputs import spoken
    from fathom.plan.report import table

    rows = []
    for name, one in spending.inputs.items():
        ends = ["" if end is None else spoken(end) for end in (one.low, one.high)]
        rows.append((name, spoken(one.value), *ends, one.term.unit.replace("money", spending.currency), one.tag))
    yield from (spending.title, "", *table(("input", "value", "P10", "P90", "unit", "source"), rows), "")
    rows = []
    for crossing in found:
        days, years = "never", ""
        if crossing.day is not None:
            days, years = f"{crossing.day.value:,.0f}", f"{crossing.day.value / 365:.2f}"
        ends = ["", ""] if crossing.spread is None else [f"{crossing.spread.p10:,.0f}", f"{crossing.spread.p90:,.0f}"]
        if crossing.spread and crossing.never > 0.1:
            ends[1] = f"never in {crossing.never:.0%}"
        rows.append((crossing.case, spoken(crossing.training.value), days, years, *ends))
    yield from table(
        ("training counted", f"cost [{spending.currency}]", "day", "years", "P10 [days]", "P90 [days]"), rows
    )
