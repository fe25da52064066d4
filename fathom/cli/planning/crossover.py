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
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with the chart")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Print the days."""
    from fathom.plan.crossover import crossover

    spending = _spending(args)
    found = crossover(spending, args.samples, args.seed)
    if args.html:
        from fathom.plan.demandcharts import crossover_page

        args.html.write_text(crossover_page(spending, found), encoding="utf-8")
    if args.json:
        inputs = {name: one.quantity().to_dict() for name, one in spending.inputs.items()}
        made: dict[str, Any] = {"title": spending.title, "currency": spending.currency, "inputs": inputs}
        print(json.dumps({**made, "crossings": [one.to_dict() for one in found]}))
    else:
        print("\n".join(report(spending, found)))
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
    from fathom.plan.inputs import short

    yield spending.title
    yield f"\n{'input':<26}{'value':>14}{'P10':>12}{'P90':>12}  {'unit':<10}source"
    for name, one in spending.inputs.items():
        ends = ["" if end is None else short(end) for end in (one.low, one.high)]
        unit = one.term.unit.replace("money", spending.currency)
        yield f"{name:<26}{short(one.value):>14}{ends[0]:>12}{ends[1]:>12}  {unit:<10}{one.tag}"
    yield f"\n{'training counted':<30}{f'cost [{spending.currency}]':>16}{'day':>10}{'years':>8}{'P10 to P90 [days]':>24}"
    for crossing in found:
        days, years = ("never", "") if crossing.day is None else (short(crossing.day.value), "")
        if crossing.day is not None:
            days, years = f"{crossing.day.value:,.0f}", f"{crossing.day.value / 365:.2f}"
        spread = "" if crossing.spread is None else f"{crossing.spread.p10:,.0f} to {crossing.spread.p90:,.0f}"
        never = f"  never in {crossing.never:.0%} of samples" if crossing.spread and crossing.never else ""
        yield f"{crossing.case:<30}{short(crossing.training.value):>16}{days:>10}{years:>8}{spread:>24}{never}"
