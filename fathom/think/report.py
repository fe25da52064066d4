"""One page about a run: its ledgers and evaluations as curves and tables, in report.html and report.png.

Reads every ledger.jsonl and every NAME.eval.json below a directory. A curve whose data are missing says so.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import quantiles
from typing import Any

from fathom.errors import InputError
from fathom.think.charts import Chart, Point, png, svg
from fathom.think.evaluate import Score
from fathom.think.results import SUFFIX, Result, asked_and_used, compare, gather
from fathom.train.ledger import read

MOST_POINTS = 300  # of a training curve
STYLE = """body{font:15px/1.5 system-ui,sans-serif;color:#22262a;max-width:1180px;margin:2em auto;padding:0 1em}
svg{width:560px;max-width:100%;font-family:system-ui,sans-serif}table{border-collapse:collapse;margin:1em 0}
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


@dataclass(frozen=True)
class Run:
    """ledgers: events by folder. results: evaluations by the file's name. Both in the order of time."""

    ledgers: dict[str, list[dict[str, Any]]]
    results: dict[str, Result]

    @classmethod
    def read(cls, directory: Path) -> Run:
        """Raises: InputError: there is neither a ledger nor an evaluation below it."""
        directory = directory.resolve()
        folders = [path.parent for path in directory.rglob("ledger.jsonl")]
        ledgers = {str(f.relative_to(directory.parent)): read(f) for f in folders}
        files = directory.rglob(f"*{SUFFIX}")
        results = {str(f.relative_to(directory)).removesuffix(SUFFIX): Result.read(f) for f in files}
        if not any(ledgers.values()) and not results:
            raise InputError(f"{directory} holds no ledger.jsonl and no *{SUFFIX}; name the directory of a run.")
        begun = sorted(((events[0]["time_s"], name) for name, events in ledgers.items() if events))
        return cls(
            {name: ledgers[name] for _, name in begun},
            dict(sorted(results.items(), key=lambda pair: pair[1].time_s)),
        )

    def last(self, *modes: str) -> tuple[str, list[Score]]:
        """The newest evaluation in modes whose labels begin so, or with several samples if none is named."""
        for name, result in reversed(self.results.items()):
            if scores := [s for s in result.scores if (s.effort.startswith(modes) if modes else s.pass_at)]:
                return name, scores
        return "", []


def render(directory: Path, out: Path | None = None) -> tuple[Path, Path]:
    """Write report.html and report.png about a run, in `out` or the run's directory; returns where they are."""
    run, out = Run.read(directory), out or directory
    charts = list(_charts(run))
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


def _charts(run: Run) -> Iterator[Chart]:
    yield Chart("Loss by stage", "minutes", "nats per token", _training(run, "loss"))
    yield Chart("Reward by stage", "minutes", "mean reward", _training(run, "reward"))
    stages: dict[str, list[Point]] = {}
    for index, result in enumerate(run.results.values()):
        for (effort,), score in gather(result.scores, "effort").items():
            if " " not in effort:  # budgets have charts of their own
                stages.setdefault(effort, []).append(_point(index, score))
    yield Chart("Accuracy by stage", "evaluation", "accuracy", stages, list(run.results), percent=True)
    name, scores = run.last("forced ", "budget ")
    by_thinking: dict[str, list[Point]] = {}
    for by in (("effort",), ("effort", "family")):
        for score in gather(scores, *by).values():
            if score.family == "all" or len(by) > 1:
                by_thinking.setdefault(score.family, []).append(_point(score.thinking_mean, score))
    yield Chart(f"Accuracy against thinking, {name}", "thinking tokens, mean", "accuracy", by_thinking, percent=True)
    name, scores = run.last()
    by_n: dict[str, list[Point]] = {}
    for (_,), score in gather(scores, "samples").items():
        by_n["vote"] = [(k, value, None, None) for k, value in score.majority_at.items()]
        by_n["best of n, by a checker"] = [(k, value, None, None) for k, value in score.pass_at.items()]
    yield Chart(f"Accuracy against samples, {name}", "samples", "accuracy", by_n, percent=True)
    name, scores = run.last("asked ", "budget ")
    lengths: dict[str, list[Point]] = {}
    for (effort,), score in gather(scores, "effort").items():
        what = "asked" if effort.startswith("asked ") else "asked and enforced"
        lengths.setdefault(what, []).append((score.asked or 0, score.thinking_mean, *_tenths(score)))
    title = f"Asked against used length, {name}"
    yield Chart(title, "tokens asked for", "tokens used: mean, 10 % to 90 %", lengths, diagonal=True)
    families = list(dict.fromkeys(s.family for r in run.results.values() for s in r.scores))
    styles: dict[str, list[Point]] = {}
    for name, result in list(run.results.items())[-2:]:
        for (effort, family), score in gather(result.scores, "effort", "family").items():
            if effort in ("own", "none"):
                label = f"{name}, {'direct' if effort == 'none' else 'thinking'}"
                styles.setdefault(label, []).append(_point(families.index(family), score))
    yield Chart("Thinking against direct, the last two models", "family", "accuracy", styles, families, percent=True)


def _training(run: Run, key: str) -> dict[str, list[Point]]:
    began = min((events[0]["time_s"] for events in run.ledgers.values()), default=0.0)
    curves: dict[str, list[Point]] = {}
    for name, events in run.ledgers.items():
        points = [((e["time_s"] - began) / 60, float(e[key]), None, None) for e in events if e.get(key) is not None]
        if points:
            curves[name] = points[:: -(-len(points) // MOST_POINTS)]
    return curves


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
    for (before, a), (after, b) in pairwise(run.results.items()):
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
    rate, interval, used = f"{s.accuracy:.1%}", f"{s.low:.1%} to {s.high:.1%}", "{:.0f} to {:.0f}".format(*_tenths(s))
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


def _point(x: float, score: Score) -> Point:
    return x, score.accuracy, score.low, score.high


def _tenths(score: Score) -> tuple[float, float]:
    tenths = quantiles(score.used, n=10) if len(score.used) > 1 else [*score.used] * 2
    return tenths[0], tenths[-1]
