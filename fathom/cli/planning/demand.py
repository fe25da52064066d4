"""`fathom plan demand`: from users or tokens a day to accelerators, capital, a yearly bill and megawatts."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fathom.plan.demand import Estimate

NAME = "demand"
SUMMARY = "from users or tokens a day to servers, capital, a yearly bill and megawatts"
HELP = (
    "What a demand comes to: tokens by stream, accelerators, servers, capital, bill, power; in scenarios, by sampling, over "
    "years, and what moves it most. Every input says whether it was published, measured, inferred or given."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `fathom plan demand`."""
    parser.add_argument("file", metavar="FILE.toml", help="a demand, for example recipes/plan/doubao.toml")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override: traffic.total=4e12")
    parser.add_argument("--samples", type=int, default=10_000, metavar="N", help="of the inputs (default: 10000)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the samples (default: 0)")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with the charts")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Print what `args.file` comes to."""
    from fathom.plan.demand import estimate, read_demand

    found = estimate(read_demand(args.file, args.set), args.samples, args.seed)
    if args.html:
        from fathom.plan.demandcharts import page

        args.html.write_text(page(found), encoding="utf-8")
    print(json.dumps(found.to_dict()) if args.json else "\n".join(report(found)))
    return 0


def report(found: Estimate) -> Iterator[str]:
    """The lines of the tables that a person reads."""
    yield found.demand.title
    if found.demand.about:
        yield found.demand.about
    yield from _inputs(found)
    yield from _results(found)
    yield from _sets(found)
    yield from _compared(found)
    yield from _years(found)
    yield from _tornado(found)
    yield from _placed(found)
    yield from _capex(found)


def _inputs(found: Estimate) -> Iterator[str]:
    from fathom.plan.inputs import short

    yield f"\n{'input':<30}{'value':>14}{'P10':>12}{'P90':>12}  {'unit':<16}source"
    for name, one in found.demand.inputs.items():
        ends = ["" if end is None else short(end) for end in (one.low, one.high)]
        unit = one.term.unit.replace("money", found.demand.currency)
        yield f"{name:<30}{short(one.value):>14}{ends[0]:>12}{ends[1]:>12}  {unit:<16}{one.tag}".rstrip()


def _results(found: Estimate) -> Iterator[str]:
    from fathom.plan.inputs import short

    yield f"\n{'result':<30}{'as stated':>14}{'P10':>14}{'P50':>14}{'P90':>14}  unit"
    for name, one in found.quantities.items():
        spread = found.spreads.get(name)
        ends = ["", "", ""] if spread is None else [short(end) for end in (spread.p10, spread.p50, spread.p90)]
        yield f"{name.replace('_', ' '):<30}{short(one.value):>14}{''.join(f'{end:>14}' for end in ends)}  {one.unit}"


def _sets(found: Estimate) -> Iterator[str]:
    from fathom.plan.inputs import short

    names = [name for name in ("tokens", "accelerators_peak", "capital", "bill") if name in found.quantities]
    for title, sets in (("scenario", found.scenarios), ("the same from other inputs", found.alternatives)):
        if not sets:
            continue
        heads = "".join(f"{f'{name} [{found.demand.unit(name)}]'.replace('_', ' '):>29}" for name in names)
        yield f"\n{title:<28}{heads}"
        for label, one in sets.items():
            yield f"{label:<28}" + "".join(f"{short(one[name].value):>29}" for name in names)
    if found.composite is not None:
        yield "\nOnly this product of inferred inputs is fixed by such results, not its parts:"
        yield f"  {found.composite.formula()} = {found.composite.value.value:.4g}"
        if "flop_per_token" in found.quantities:
            yield f"  FLOPs of peak bought per token of mean demand: {found.quantities['flop_per_token'].value:.4g}"


def _compared(found: Estimate) -> Iterator[str]:
    from fathom.plan.inputs import short

    if found.compared:
        yield f"\n{'published':<34}{'value':>20}{'computed here':>20}{'error':>9}  unit"
    for one in found.compared:
        of = one.of.replace("_", " ")
        label = f"{of}, {one.scenario}" if one.scenario else of
        values = f"{short(one.published.value, 5):>20}{short(one.computed.value, 5):>20}"
        yield f"{label:<34}{values}{one.error:>+9.2%}  {one.published.unit}"


def _years(found: Estimate) -> Iterator[str]:
    from fathom.plan.inputs import short

    if len(found.years) < 2:
        return
    names = list(found.years[0])
    yield "\nyears, P50 (P10 to P90)"
    for name in names:
        yield f"{name.replace('_', ' ')} [{found.years[0][name].unit}]"
        for year, spreads in enumerate(found.years):
            one = spreads[name]
            yield f"  {year:<4}{short(one.p50):>22}  ({short(one.p10)} to {short(one.p90)})"


def _tornado(found: Estimate) -> Iterator[str]:
    from fathom.plan.inputs import short

    if found.swings:
        of = f"{found.of.replace('_', ' ')} [{found.demand.unit(found.of)}]"
        yield f"\n{f'what moves {of}':<44}{'input from':>14}{'to':>14}{'result from':>20}{'to':>20}"
    for one in found.swings:
        ends = f"{short(one.low.value):>14}{short(one.high.value):>14}"
        yield f"{one.name:<44}{ends}{short(one.at_low.value):>20}{short(one.at_high.value):>20}"


def _placed(found: Estimate) -> Iterator[str]:
    from fathom.plan.inputs import short

    if found.place is None:
        return
    place = found.place
    yield f"\n{short(place.implied.value)} tok/s of mean demand per accelerator bought. Measured on V3-class models:"
    per_flop = "" if place.ratio_per_flop is None else f"; {short(place.ratio_per_flop.value)} times that per peak FLOP"
    yield (
        f"  {place.below} of {place.systems} systems do less; the median is {short(place.median.value)} tok/s/GPU, "
        f"{short(place.ratio.value)} times that{per_flop}"
    )
    for name, rate, per, _ in place.rows:
        yield f"  {name:<42}{short(rate):>10} tok/s/GPU{per:>9.2f} per peak BF16 TFLOP/s"


def _capex(found: Estimate) -> Iterator[str]:
    from fathom.plan.published import clouds

    if found.capex_share is None:
        return
    four, total = clouds()
    each = ", ".join(f"{one.who} {one.value / 1e9:.1f}" for one in four)
    yield f"\nPublished capital expenditure, forecast 2025 [bn USD]: {each}; sum {total.value / 1e9:.1f}"
    yield f"  this capital is {found.capex_share.value:.2%} of that sum ({four[0].source.split(',')[0]}, Nov 2024)"
