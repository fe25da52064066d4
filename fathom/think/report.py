"""One page about a run: its ledgers and evaluations as curves and tables, in report.html and report.png.

Reads every ledger.jsonl and every NAME.eval.json below a directory. A curve whose data are missing says so.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from fathom.errors import InputError
from fathom.think.charts import png, svg
from fathom.think.curves import Run, curves, tenths
from fathom.think.evaluate import Score
from fathom.think.results import asked_and_used, compare, gather

STYLE = """body{font:15px/1.5 system-ui,sans-serif;color:#22262a;max-width:1180px;margin:2em auto;padding:0 1em}
svg{width:560px;max-width:100%;font-family:system-ui,sans-serif}table{border-collapse:collapse;font-size:12px;white-space:nowrap}
td,th{padding:.15em .7em;text-align:right;border-bottom:1px solid #dfe3e8}td:first-child{text-align:left}"""
LIMITS = (
    "Everything here is in miniature: the largest model has {parameters:,} parameters, DeepSeek-V3 has 671 billion.",
    "Problems are drawn by the package's own generators, in wordings that training reads too; only the problems of the "
    "test split, told apart by a hash, are new to a model.",
    "Intervals are 95 % over problems, of one trained model each; another seed of training may lie outside.",
    "Levels with few problems repeat them: of {n:,} questions asked, {distinct:,} were different within their level.",
    "Best-of-n is picked by a checker that knows a right answer when it sees one; without such a one it is a bound.",
    "A forced budget cuts a thought where it stands: not what the model would do if it had been asked to be short.",
    "{cut_off:,} of {answers:,} answers ran into the longest length and were judged as they stood.",
)
FACTS = (
    "evaluation", "family", "level", "language", "mode", "problems", "accuracy", "95 % interval", "thinking tokens",
    "10 % to 90 %", "answer tokens", "cut off", "samples", "best of n (pass@n)", "vote (majority@n)",
)  # fmt: skip
PAIRED = (
    "stages", "mode", "family", "problems", "before", "after", "difference", "95 % interval", "only before",
    "only after", "p",
)  # fmt: skip


def render(directory: Path, out: Path | None = None) -> tuple[Path, Path]:
    """Write report.html and report.png about a run, in `out` or the run's directory; returns where they are."""
    run, out = Run.read(directory), out or directory
    charts = list(curves(run))
    parts = ["<h2>Curves</h2>"]
    parts += [svg(c) if c.series else f"<p>{html.escape(c.title)}: not measured in this run.</p>" for c in charts]
    parts += [f"<p>{html.escape(line)}</p>" for line in _said(run)]
    for title, head, rows in _tables(run):
        cells = ["".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) for row in rows]
        top = "".join(f"<th>{html.escape(each)}</th>" for each in head)
        parts.append(
            f"<h2>{title}</h2>\n<table><tr>{top}</tr>" + "\n".join(f"<tr>{c}</tr>" for c in cells) + "</table>"
        )
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>fathom report</title><style>{STYLE}</style>'
    name = html.escape(directory.resolve().name)
    page = [head, f"<h1>{name}</h1>", *parts, "<h2>What this does not show</h2>", _limits(run), "</html>\n"]
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.html").write_text("\n".join(page), encoding="utf-8")
    png([chart for chart in charts if chart.series], out / "report.png")
    return out / "report.html", out / "report.png"


def _tables(run: Run) -> Iterator[tuple[str, Sequence[str], Iterable[Sequence[object]]]]:
    yield "Stages", ("stage", "seconds", "steps", "loss", "reward", "tokens/s", "model"), _stages(run)
    for title, by in (
        ("Accuracy by mode and language", ("effort", "language")), ("By family", ("effort", "family")),
        ("Every score", ("effort", "family", "level", "language")),
    ):  # fmt: skip
        yield title, FACTS, [(n, *_facts(s)) for n, r in run.results.items() for s in gather(r.scores, *by).values()]
    yield "Each stage against the one before", PAIRED, _paired(run)


def _stages(run: Run) -> Iterator[Sequence[object]]:
    for name, events in run.ledgers.items():
        for event in events:
            if event["event"] == "stage":
                yield event["stage"], f"{event.get('seconds', 0):,.0f}", "", "", "", "", event.get("model") or ""
        if steps := [event for event in events if event["event"] == "step"]:
            last, rates = steps[-1], [event["tokens_per_s"] for event in steps if event.get("tokens_per_s")]
            facts = [f"{last[key]:.4f}" if last.get(key) is not None else "" for key in ("loss", "reward")]
            rate = f"{sum(rates) / len(rates):,.0f}" if rates else ""
            yield name, f"{events[-1]['time_s'] - events[0]['time_s']:,.0f}", last.get("step", ""), *facts, rate, ""


def _paired(run: Run) -> Iterator[Sequence[object]]:
    for (before, a), (after, b) in pairwise(run.stages.items()):
        try:
            found = compare(a, b)
        except InputError:
            yield f"{before} → {after}", "no problems and modes in common", *[""] * 9
            continue
        for mode, family, p in found:
            rates = f"{p.a:.1%}", f"{p.b:.1%}", f"{p.difference:+.1%}", f"{p.low:+.1%} to {p.high:+.1%}"
            chance = "" if p.p is None else f"{p.p:.2g}"
            yield f"{before} → {after}", mode, family, p.n, *rates, p.a_only, p.b_only, chance


def _said(run: Run) -> Iterator[str]:
    same = len({result.problems for result in run.results.values()}) == 1
    yield f"The evaluations were {'all' if same else 'not all'} asked the same problems."
    for name, result in run.results.items():
        for enforced, what in ((False, "asked for"), (True, "asked for and enforced")):
            if found := asked_and_used(result.scores, enforced=enforced):
                rank = "not defined" if found.spearman is None else f"{found.spearman:.3f}"
                error = f"mean relative error {found.relative_error:.1%}"
                yield f"{name}, length {what}: Spearman {rank}, {error}, {found.n} thoughts."


def _limits(run: Run) -> str:
    scores = [score for result in run.results.values() for score in result.scores]
    facts = {name: sum(getattr(score, name) for score in scores) for name in ("n", "distinct", "cut_off")}
    facts["answers"] = sum(score.n * score.samples for score in scores)
    facts["parameters"] = max((result.parameters for result in run.results.values()), default=0)
    return "<ul>" + "".join(f"<li>{html.escape(line.format(**facts))}</li>" for line in LIMITS) + "</ul>"


def _facts(s: Score) -> Sequence[object]:
    rate, interval, used = f"{s.accuracy:.1%}", f"{s.low:.1%} to {s.high:.1%}", "{:.0f} to {:.0f}".format(*tenths(s))
    by_n = [", ".join(f"{k}: {value:.1%}" for k, value in table.items()) for table in (s.pass_at, s.majority_at)]
    named = s.family, s.level or "all", s.language, s.effort
    return (
        *named,
        s.n,
        rate,
        interval,
        f"{s.thinking_mean:.1f}",
        used,
        f"{s.answer_mean:.1f}",
        s.cut_off,
        s.samples,
        *by_n,
    )
