"""`fathom plan think`: what longer reasoning costs, and where it stops being worth it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fathom.plan.policy import Policy
    from fathom.plan.thinking import Advice, Length, Priced, Rates

NAME = "think"
SUMMARY = "what longer reasoning costs, the knee, and what a budget saves"
HELP = (
    "Cost of an answer and size of the fleet against tokens of thought and samples. With a measured curve: where "
    "thought stops being worth it, and what a budget for each kind of problem saves."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `fathom plan think`."""
    known = "NAME.eval.json of `fathom eval --out`, or a CSV: thinking_tokens,accuracy"
    parser.add_argument("curve", nargs="?", metavar="CURVE", help=known)
    parser.add_argument("--rates", metavar="FILE.toml", help="what tokens cost (default: V3-class, as published)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override: answers.prompt=2000")
    parser.add_argument("--tokens", type=int, nargs="+", metavar="N", help="generated per answer, to be priced")
    parser.add_argument("--value", type=float, metavar="N", help="what a right answer is worth, in the rates' money")
    parser.add_argument("--margin", type=float, default=0.01, metavar="N", help="of accuracy a budget may lose (0.01)")
    parser.add_argument("--samples", type=int, default=2_000, metavar="N", help="resampled evaluations (default: 2000)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the samples (default: 0)")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with tables and charts")
    parser.add_argument("--png", type=Path, metavar="FILE", help="write the charts as a picture")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Print what thought costs."""
    from fathom.errors import InputError
    from fathom.plan.curves import read_curve
    from fathom.plan.figures import of_lengths, of_thinking
    from fathom.plan.policy import budget_policy
    from fathom.plan.report import as_json, save
    from fathom.plan.thinking import LENGTHS, advise, lengths, priced, read_rates

    if args.tokens and not all(0 <= count <= 10**9 for count in args.tokens):
        raise InputError(f"--tokens is {args.tokens}; each must be from 0 to 1e9 tokens.")
    worth = [] if args.value is None else [f"answers.value={args.value!r}"]
    rates = read_rates(args.rates, [*args.set, *worth])
    long = lengths(rates, args.tokens or LENGTHS)
    lines, charts = list(_lengths(rates, long)), [of_lengths(long)] if any(one.tokens for one in long) else []
    made: dict[str, Any] = {"title": rates.title, "lengths": as_json(long), "doubling": _doubling(rates)}
    made["inputs"] = {name: one.quantity().to_dict() for name, one in rates.inputs.items()}
    if args.curve:
        cells = read_curve(args.curve)
        ways = priced(cells, rates)
        advice, policy = advise(ways, rates, args.samples, args.seed), budget_policy(cells, rates, args.margin)
        lines += [*_ways(rates, ways), *_advice(ways, advice), *_policy(policy)]
        charts = [*of_thinking(ways, advice), *charts]
        made |= {"ways": [one.to_dict() for one in ways], "advice": advice.to_dict()}
        made["policy"] = policy.to_dict() if policy else None
    for path in filter(None, (args.html, args.png)):
        save(path, "What thought costs", charts, ["\n".join(lines)])
    print(json.dumps(made) if args.json else "\n".join(lines))
    return 0


def _doubling(rates: Rates) -> dict[str, Any]:
    from fathom.plan.thinking import doubling_context

    return (
        rates.inputs["fleet.doubling"].quantity() if "fleet.doubling" in rates.inputs else doubling_context()
    ).to_dict()


def _lengths(rates: Rates, found: Sequence[Length]) -> Iterator[str]:
    from fathom.plan.inputs import spoken
    from fathom.plan.report import table

    yield f"{rates.title}: an answer after {spoken(rates['answers.prompt'])} tokens of prompt"
    rows = [(spoken(one.tokens), *(f"{q.value:.3g}" for q in (one.flat, one.cost, one.accelerators))) for one in found]
    money = f"[{rates.currency}]"
    yield from table(("tokens generated", f"at one price {money}", f"context growing {money}", "fleet [GPU]"), rows)
    yield f"  a token at {rates.doubling:,.0f} tokens of context costs twice one without any"
    yield f"  fleet: for {spoken(rates['answers.per_day'])} answers a day"


def _ways(rates: Rates, ways: Sequence[Priced]) -> Iterator[str]:
    from fathom.plan.report import table

    rows = []
    for one in ways:
        ends = (
            ""
            if one.accuracy.low is None or one.accuracy.high is None
            else f"{one.accuracy.low:.1%}..{one.accuracy.high:.1%}"
        )
        per_right = "" if one.per_right is None else f"{one.per_right:.3g}"
        numbers = (f"{one.cell.thinking:,.0f}", f"{one.cell.accuracy:.1%}", ends, f"{one.cost.value:.3g}", per_right)
        rows.append((one.cell.label, *numbers, f"{one.accelerators.value:.3g}", "" if one.frontier else "no"))
    money = f"[{rates.currency}]"
    head = (
        "mode",
        "thought [tokens]",
        "right",
        "80 % interval",
        f"answer {money}",
        f"right answer {money}",
        "fleet [GPU]",
    )
    yield from ("", *table((*head, "worth it"), rows))


def _advice(ways: Sequence[Priced], advice: Advice) -> Iterator[str]:
    knee, most = advice.knee, ways[-1]
    sure = "" if advice.sure is None else f" (the same in {advice.sure:.0%} of resampled evaluations)"
    yield f"\nknee: {knee.cell.label}{sure}"
    if most is not knee:
        less, lost = 1.0 - knee.cost.value / most.cost.value, most.cell.accuracy - knee.cell.accuracy
        yield f"  against {most.cell.label}: costs {less:.1%} less, {lost * 100:+.1f} points of accuracy given up"
    if advice.cheapest is not None and advice.cheapest.per_right is not None:
        cost = f"{advice.cheapest.per_right:.3g} {knee.cost.unit}"
        yield f"cheapest per right answer: {advice.cheapest.cell.label}, {cost}"
    if advice.best is not None:
        yield f"best for that value of a right answer: {advice.best.cell.label}"


def _policy(policy: Policy | None) -> Iterator[str]:
    if policy is not None:
        judged = (
            "judged on problems it was not chosen on" if policy.held_out else "chosen and judged on the same problems"
        )
        yield f"a budget for each kind of problem ({judged}): saves {policy.saving.value:.1%} of the cost"
        before, after = policy.uniform_accuracy.value, policy.accuracy.value
        yield f"  accuracy {after:.1%}, against {before:.1%} with {policy.uniform} for all"
        count: dict[str, int] = {}
        for mode in policy.chosen.values():
            count[mode] = count.get(mode, 0) + 1
        yield "  " + ", ".join(f"{mode} for {n} kinds" for mode, n in count.items())
