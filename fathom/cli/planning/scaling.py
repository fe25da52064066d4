"""`fathom plan scaling`: laws of a handful of runs, and where the next dollar buys more."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fathom.plan.study import Study

NAME = "scaling"
SUMMARY = "fit loss against compute from training ledgers; where the next dollar buys more"
HELP = (
    "Fits loss against compute, and against parameters and tokens, from the ledgers of training runs, and accuracy "
    "against thought from their evaluations; with intervals and the error on the largest run, left out. Says where the "
    "next dollar buys more: a bigger model, more tokens, or longer thought."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `fathom plan scaling`."""
    parser.add_argument("runs", nargs="+", metavar="RUNS", help="directories of runs, or one above them")
    parser.add_argument("--curve", metavar="FILE", help="accuracy against thought: NAME.eval.json, or a CSV")
    tokens = "of an answer today (default: at the knee of the curve)"
    parser.add_argument("--thinking-tokens", type=float, metavar="N", help=tokens)
    parser.add_argument("--rates", metavar="FILE.toml", help="what tokens cost (default: V3-class, as published)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override: answers.lifetime=1e9"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the intervals (default: 0)")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with tables and charts")
    parser.add_argument("--png", type=Path, metavar="FILE", help="write the charts as a picture")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Print the laws."""
    from fathom.plan.study import study

    found = study(args.runs, args.curve, args.rates, args.set, args.thinking_tokens, args.seed)
    lines = list(report(found))
    if args.html or args.png:
        from fathom.plan.figures import of_study
        from fathom.plan.report import save

        for path in filter(None, (args.html, args.png)):
            save(path, "Scaling", of_study(found), ["\n".join(lines)])
    print(json.dumps(found.to_dict()) if args.json else "\n".join(lines))
    return 0


def report(found: Study) -> Iterator[str]:
    """The lines of the tables that a person reads."""
    from fathom.plan.inputs import spoken
    from fathom.plan.report import table

    rows = []
    for one in found.runs:
        sizes = (spoken(float(one.activated)), spoken(one.tokens), f"{one.flops:.3g}", f"{one.loss:.4f}")
        rows.append((one.name[-40:], *sizes))
    yield from table(("run", "parameters met", "tokens", "FLOP", "loss [nats/token]"), rows)
    for left in found.left_out:
        yield f"  left out: {left.name}: {left.reason}"
    for title, law in found.laws.items():
        yield f"\nloss against {title}: {_errors(law.error, law.held_out)}"
        yield from table(("", "value", "P10", "P90", "unit"), _rows(law.quantities()))
    if found.thought is not None:
        held = found.thought.held_out
        longest = "" if held is None else f"; {held * 100:+.1f} points off at the longest thought, left out"
        yield f"\naccuracy against thought: {found.thought.error * 100:.1f} points off{longest}"
        start, ceiling, scale = found.thought.start, found.thought.ceiling, found.thought.scale
        yield f"  from {start:.1%} to {ceiling:.1%}, closer by e every {scale:,.0f} tokens"
    for note in found.notes:
        yield f"\n{note}"
    if found.worth is not None:
        yield from _worth(found)


def _rows(quantities: dict[str, Any]) -> list[Sequence[object]]:
    return [(name, q.value, q.low, q.high, q.unit) for name, q in quantities.items()]


def _errors(error: float, held_out: float | None) -> str:
    left = "too few runs to leave one out" if held_out is None else f"{held_out:+.2%} on the largest run, left out"
    return f"{error:.2%} error, {left}"


def _worth(found: Study) -> Iterator[str]:
    from fathom.plan.inputs import spoken
    from fathom.plan.report import table

    worth = found.worth
    assert worth is not None, "only called where there is one"
    unit = worth.money.unit
    today = f" ({worth.thinking.value:,.0f} tokens of thought an answer)" if found.thought is not None else ""
    yield f"\n1 % more of the bill is {spoken(worth.money.value)} {unit}{today}; spent in one place it buys"
    rows = []
    for one in worth.options:
        cells = []
        for quantity, scale in ((one.loss, 1.0), (one.accuracy, 100.0)):
            shown = quantity.times(scale) if quantity else None
            cells.append(f"{shown.value:.3g}" if shown else "-")
            known = shown is not None and shown.low is not None
            cells.append(f"{shown.low:.2g}..{shown.high:.2g}" if shown and known else "")
        rows.append((one.name, f"{one.factor.value:.4g}", *cells))
    head = ("", "times as much", "less loss [nats/token]", "80 % interval", "accuracy [points]", "80 % interval")
    yield from table(head, rows)
    yield f"  training {spoken(worth.training.value)} {unit}, answers {spoken(worth.answers.value)} {unit}"
    if worth.best:
        yield f"best by {worth.measure}: {worth.best}"
    if worth.break_even is not None:
        yield f"  longer thought is the better buy below {spoken(worth.break_even.value)} answers in the model's life"
