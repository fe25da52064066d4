"""`fathom plan demand`: from users or tokens a day to accelerators, capital, a yearly bill and megawatts."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fathom.plan.demand import Estimate

NAME = "demand"
SUMMARY = "from users or tokens a day to servers, capital, a yearly bill and megawatts"
HELP = (
    "What a demand comes to: tokens by stream, accelerators, servers, capital, bill, power; in scenarios, by sampling, "
    "over years, and what moves it most. Every input says whether it was published, measured, inferred or given."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `fathom plan demand`."""
    parser.add_argument("file", metavar="FILE.toml", help="a demand, for example recipes/plan/doubao.toml")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override: traffic.total=4e12")
    parser.add_argument("--samples", type=int, default=10_000, metavar="N", help="of the inputs (default: 10000)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the samples (default: 0)")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with tables and charts")
    parser.add_argument("--png", type=Path, metavar="FILE", help="write the charts as a picture")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Print what `args.file` comes to."""
    from fathom.plan.demand import estimate, read_demand

    found = estimate(read_demand(args.file, args.set), args.samples, args.seed)
    lines = list(report(found))
    if args.html or args.png:
        from fathom.plan.figures import of_demand
        from fathom.plan.report import save

        for path in filter(None, (args.html, args.png)):
            save(path, found.demand.title, of_demand(found), ["\n".join(lines)], found.to_dict())
    print(json.dumps(found.to_dict()) if args.json else "\n".join(lines))
    return 0


def report(found: Estimate) -> Iterator[str]:
    """The lines of the tables that a person reads."""
    yield found.demand.title
    yield from [found.demand.about] if found.demand.about else []
    for part in (_inputs, _results, _sets, _composite, _compared, _years, _tornado, _placed, _capex):
        lines = list(part(found))
        yield from ["", *lines] if lines else []


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """A table whose numbers are as people say them."""
    from fathom.plan.inputs import spoken
    from fathom.plan.report import table

    return table(head, ([spoken(c) if isinstance(c, float) else "" if c is None else c for c in row] for row in rows))


def _inputs(found: Estimate) -> list[str]:
    rows = []
    for name, one in found.demand.inputs.items():
        unit = one.term.unit.replace("money", found.demand.currency)
        rows.append((name, one.value, one.low, one.high, unit, one.tag))
    return _table(("input", "value", "P10", "P90", "unit", "source"), rows)


def _results(found: Estimate) -> list[str]:
    from fathom.plan.inputs import spoken

    rows: list[Sequence[object]] = []
    for name, one in found.quantities.items():
        ends = (s.p10, s.p50, s.p90) if (s := found.spreads.get(name)) else (None,) * 3
        rows.append((name.replace("_", " "), spoken(one.value, 5), *ends, one.unit, one.bound))
    return _table(("result", "as stated", "P10", "P50", "P90", "unit", "most of it"), rows)


def _sets(found: Estimate) -> Iterator[str]:
    names = [name for name in ("tokens", "accelerators_peak", "capital", "bill") if name in found.quantities]
    heads = [f"{name.replace('_', ' ')} [{found.demand.unit(name)}]" for name in names]
    for title, sets in (("scenario", found.scenarios), ("the same from other inputs", found.alternatives)):
        if sets:
            yield from _table((title, *heads), ((key, *(one[n].value for n in names)) for key, one in sets.items()))


def _composite(found: Estimate) -> Iterator[str]:
    if found.composite is not None:
        yield "Such results fix only this product of inferred inputs, not its parts:"
        yield f"  {found.composite.formula()} = {found.composite.value.value:.4g}"
        if flops := found.quantities.get("flop_per_token"):
            yield f"  {flops.value:.4g} FLOP of peak bought per mean token: peak-to-average x 2N / utilisation"


def _compared(found: Estimate) -> list[str]:
    from fathom.plan.inputs import spoken

    rows = []
    for one in found.compared:
        of = one.of.replace("_", " ") + (f", {one.scenario}" if one.scenario else "")
        values = (spoken(one.published.value, 5), spoken(one.computed.value, 5))
        rows.append((of, *values, f"{one.error:+.2%}", one.published.unit))
    return _table(("published figure", "published", "computed", "error", "unit"), rows) if rows else []


def _years(found: Estimate) -> list[str]:
    from fathom.plan.inputs import spoken

    if len(found.years) < 2:
        return []
    names, rows = list(found.years[0]), []
    for year, spreads in enumerate(found.years):
        rows.append((f"{year}", *(spoken(one.p50, 3) for one in spreads.values())))
        ends = (f"{spoken(one.p10, 2)}..{spoken(one.p90, 2)}" for one in spreads.values())
        rows += [("  P10..P90", *ends)] if found.spreads else []
    units = ", ".join(f"{name.replace('_', ' ')} [{one.unit}]" for name, one in found.years[0].items())
    return [*_table(("year: P50", *(name.replace("_", " ") for name in names)), rows), f"  {units}"]


def _tornado(found: Estimate) -> list[str]:
    of = f"{found.of.replace('_', ' ')} [{found.demand.unit(found.of)}]"
    moving = [s for s in found.swings if s.width > 1e-9 * abs(found.quantities[found.of].value)]
    rows = [(s.name, s.low.value, s.high.value, s.at_low.value, s.at_high.value) for s in moving]
    return _table((f"what moves {of}", "input from", "to", "result from", "to"), rows) if rows else []


def _placed(found: Estimate) -> Iterator[str]:
    from fathom.plan.inputs import spoken

    if found.place is not None:
        place, rows = found.place, [(name, rate, f"{per:.2f}") for name, rate, per, _ in found.place.rows]
        per_flop = f", {place.ratio_per_flop.value:.2f} times per peak FLOP" if place.ratio_per_flop else ""
        yield f"{spoken(place.implied.value)} tok/s of mean demand per accelerator bought; measured on V3-class models:"
        median = (
            f"the median is {spoken(place.median.value)} tok/s/GPU, {place.ratio.value:.1f} times as much{per_flop}"
        )
        yield f"  {place.below} of {place.systems} systems do less; {median}"
        yield from _table(("measured", "tok/s/GPU", "per peak BF16 TFLOP/s"), rows)


def _capex(found: Estimate) -> Iterator[str]:
    from fathom.plan.published import clouds

    if found.capex_share is not None:
        four, total = clouds()
        each = ", ".join(f"{one.who} {one.value / 1e9:.1f}" for one in four)
        yield f"Published capital expenditure, forecast 2025 [bn USD]: {each}; sum {total.value / 1e9:.1f}"
        yield f"  this capital is {found.capex_share.value:.2%} of that sum (Morgan Stanley, Nov 2024)"
