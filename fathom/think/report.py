"""One page about a run: its ledgers and evaluations as curves and tables, in report.html and report.png.

Reads every ledger.jsonl and every NAME.eval.json below a directory. Nothing is measured here, and nothing left out that
was: a curve whose data are missing says so.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import quantiles
from typing import Any

from fathom.errors import InputError
from fathom.think.charts import Chart, Point, Series, png, svg
from fathom.think.evaluate import Score
from fathom.think.results import SUFFIX, Result, asked_and_used, compare, gather
from fathom.train.ledger import read

MOST_POINTS = 300  # of a training curve
STYLE = """body{font:15px/1.5 system-ui,sans-serif;color:#22262a;max-width:1180px;margin:2em auto;padding:0 1em}
svg{width:560px;max-width:100%;font-family:system-ui,sans-serif}table{border-collapse:collapse;margin:1em 0}
td,th{padding:.15em .7em;text-align:right;border-bottom:1px solid #dfe3e8}td:first-child,th:first-child{text-align:left}"""
SCALE_WORDS = """Everything here is in miniature: the largest model has {parameters:,} parameters, DeepSeek-V3 has 671 billion.
Problems are drawn by the package's own generators, in wordings that training reads too; only the problems of the test
split, told apart by a hash, are new to a model.
Intervals are 95 % over problems, of one trained model each. What another seed of training would give, they do not say:
each trained run that was evaluated is shown as it is.
Levels with few problems repeat them: of {n:,} questions in a table of all, at most {distinct:,} are different problems.
Best-of-n is picked by a checker that knows a right answer when it sees one. Where no such checker exists, it is a bound.
A forced budget cuts a thought where it stands. What a model would do that had been asked to be short, it does not show.
{cut_off:,} of {answers:,} answers ran into the longest length and count as they stand, mostly as wrong."""


@dataclass(frozen=True)
class Run:
    """ledgers: events by folder. results: evaluations by the file's name. Both in the order of time."""

    ledgers: dict[str, list[dict[str, Any]]]
    results: dict[str, Result]

    @classmethod
    def read(cls, directory: Path) -> Run:
        """Raises: InputError: there is neither a ledger nor an evaluation below it."""
        names = {path.parent: path.parent.relative_to(directory).as_posix() for path in directory.rglob("ledger.jsonl")}
        ledgers = {name if name != "." else "run": read(folder) for folder, name in names.items()}
        found = sorted(directory.rglob(f"*{SUFFIX}"))
        results = {p.relative_to(directory).as_posix().removesuffix(SUFFIX): Result.read(p) for p in found}
        ledgers = {name: events for name, events in ledgers.items() if events}
        if not ledgers and not results:
            raise InputError(f"{directory} holds no ledger.jsonl and no *{SUFFIX}; name the directory of a run.")
        return cls(
            dict(sorted(ledgers.items(), key=lambda pair: pair[1][0]["time_s"])),
            dict(sorted(results.items(), key=lambda pair: pair[1].time_s)),
        )

    def last(self, wanted: Callable[[Score], bool]) -> tuple[str, list[Score]]:
        """The newest evaluation with such scores, and those scores."""
        for name, result in reversed(self.results.items()):
            if scores := [score for score in result.scores if wanted(score)]:
                return name, scores
        return "", []


def render(directory: Path, out: Path | None = None) -> tuple[Path, Path]:
    """Write report.html and report.png for a run; returns where they are (in `out`, or beside the run's ledger)."""
    run, out = Run.read(directory), out or directory
    sections = list(_sections(run))
    charts = [chart for _, chart, _ in sections if chart is not None and any(s.points for s in chart.series)]
    parts = [f"<h1>{html.escape(directory.resolve().name)}</h1>"]
    for title, chart, body in sections:
        parts += [f"<h2>{html.escape(title)}</h2>", svg(chart) if chart in charts and chart is not None else "", body]
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>fathom report</title><style>{STYLE}</style>'
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.html").write_text("\n".join([head, *parts, "</html>", ""]), encoding="utf-8")
    png(charts, out / "report.png")
    return out / "report.html", out / "report.png"


Section = tuple[str, Chart | None, str]


def _sections(run: Run) -> Iterator[Section]:
    began = min((events[0]["time_s"] for events in run.ledgers.values()), default=0.0)
    yield "Stages", None, _table(("stage", "seconds", "steps", "loss", "reward", "tokens/s", "model"), _stages(run))
    for name, label in (("loss", "nats per token"), ("reward", "mean reward")):
        chart = Chart(f"{name.capitalize()} by stage", "minutes", label, list(_training(run, name, began)))
        yield f"{name.capitalize()} over time", chart, "" if chart.series else _missing("no step of a ledger holds it")
    yield _by_stage(run)
    yield "Each stage against the one before", None, _table(_PAIRED, _paired(run))
    yield _by_thinking(run)
    yield _by_samples(run)
    yield _by_length(run)
    yield _by_family(run)
    rows = [(name, *_facts(score)) for name, result in run.results.items() for score in result.scores]
    yield "Every score", None, _table(("evaluation", *_FACTS), rows)
    scores = [score for result in run.results.values() for score in result.scores]
    words = SCALE_WORDS.format(
        parameters=max((result.parameters for result in run.results.values()), default=0),
        n=sum(s.n for s in scores), distinct=sum(s.distinct for s in scores),
        cut_off=sum(s.cut_off for s in scores), answers=sum(s.n * s.samples for s in scores),
    )  # fmt: skip
    yield "What this does not show", None, "<ul>" + "".join(f"<li>{each}" for each in _sentences(words)) + "</ul>"


def _stages(run: Run) -> Iterator[Sequence[object]]:
    for name, events in run.ledgers.items():
        for event in events:
            if event["event"] == "stage":
                yield event["stage"], f"{event.get('seconds', 0):,.0f}", "", "", "", "", event.get("model") or ""
        steps = [event for event in events if event["event"] == "step"]
        if steps:
            last, rates = steps[-1], [event["tokens_per_s"] for event in steps if event.get("tokens_per_s")]
            facts = [f"{last[key]:.4f}" if key in last else "" for key in ("loss", "reward")]
            rate = f"{sum(rates) / len(rates):,.0f}" if rates else ""
            yield name, f"{events[-1]['time_s'] - events[0]['time_s']:,.0f}", last.get("step", ""), *facts, rate, ""


def _training(run: Run, key: str, began: float) -> Iterator[Series]:
    for name, events in run.ledgers.items():
        points = [((e["time_s"] - began) / 60, float(e[key]), None, None) for e in events if e.get(key) is not None]
        if points:
            yield Series(name, points[:: -(-len(points) // MOST_POINTS)])


def _by_stage(run: Run) -> Section:
    by_mode: dict[str, list[Point]] = {}
    for index, result in enumerate(run.results.values()):
        for (effort,), score in gather(result.scores, "effort").items():
            if " " not in effort:  # forced and asked budgets have a chart of their own
                by_mode.setdefault(effort, []).append((index, *_accuracy(score)))
    rows = [(name, *_facts(s)) for name, r in run.results.items() for s in gather(r.scores, "effort").values()]
    chart = Chart(
        "Accuracy by stage", "evaluation", "accuracy", [Series(*pair) for pair in by_mode.items()],
        categories=list(run.results), percent=True,
    )  # fmt: skip
    hashes = {result.problems for result in run.results.values()}
    said = "<p>All were asked the same problems.</p>" if len(hashes) == 1 else "<p>Not all were asked the same problems.</p>"
    return "Accuracy by stage", chart, said + _table(("evaluation", *_FACTS), rows)


_PAIRED = ("stages", "family", "n", "before", "after", "difference", "95 % interval", "only before", "only after", "p")


def _paired(run: Run) -> Iterator[Sequence[object]]:
    for (before, a), (after, b) in pairwise(run.results.items()):
        try:
            found = compare(a, b)
        except InputError:
            yield f"{before} → {after}", "no problems in common", *[""] * 8
            continue
        for family, pair in found.items():
            yield (
                f"{before} → {after}", family, pair.n, f"{pair.a:.1%}", f"{pair.b:.1%}", f"{pair.difference:+.1%}",
                f"{pair.low:+.1%} to {pair.high:+.1%}", pair.a_only, pair.b_only, "" if pair.p is None else f"{pair.p:.2g}",
            )  # fmt: skip


def _by_thinking(run: Run) -> Section:
    name, scores = run.last(lambda score: score.effort.startswith(("forced ", "budget ")))
    title = f"Accuracy against thinking tokens {name}"
    series = [
        Series(family, sorted((s.thinking_mean, *_accuracy(s)) for s in gather(part, "effort").values()))
        for family, part in [("all", scores), *_families(scores)] if part
    ]  # fmt: skip
    rows = [(name, *_facts(score)) for score in gather(scores, "family", "effort").values()]
    chart = Chart(title, "thinking tokens, mean", "accuracy", series, percent=True)
    return title, chart, _table(("evaluation", *_FACTS), rows) if rows else _missing("fathom eval --forced 16,32,64")


def _by_samples(run: Run) -> Section:
    name, scores = run.last(lambda score: bool(score.pass_at))
    series, rows = [], []
    for family, part in [("all", scores), *_families(scores)] if scores else []:
        score = next(iter(gather(part).values()))
        for what, by_n in (("vote", score.majority_at), ("best of n", score.pass_at)):
            rows += [(family, what, k, score.n, f"{value:.1%}") for k, value in by_n.items()]
            if family == "all":
                series.append(Series(what, [(k, value, None, None) for k, value in by_n.items()]))
    title = f"Accuracy against the number of samples {name}"
    chart = Chart(title, "samples", "accuracy", series, log_x=True, percent=True)
    body = _table(("family", "chosen by", "samples", "problems", "accuracy"), rows)
    return title, chart, body if rows else _missing("fathom eval --samples 8")


def _by_length(run: Run) -> Section:
    name, scores = run.last(lambda score: score.effort.startswith(("asked ", "budget ")))
    series, said = [], ""
    for enforced, what in ((False, "asked"), (True, "asked and enforced")):
        part = [score for score in scores if score.effort.startswith("budget ") is enforced]
        if (found := asked_and_used(part, enforced=enforced)) is None:
            continue
        series.append(Series(what, sorted(_length(score) for score in gather(part, "effort").values())))
        rank = "not defined" if found.spearman is None else f"{found.spearman:.3f}"
        said += f"<p>{what}: Spearman {rank}, mean relative error {found.relative_error:.1%}, {found.n} thoughts.</p>"
    title = f"Asked against used length {name}"
    chart = Chart(title, "tokens asked for", "tokens used: mean, 10 % to 90 %", series, diagonal=True)
    rows = [(score.effort, *(f"{value:.1f}" for value in _length(score)[1:])) for score in gather(scores, "effort").values()]
    return title, chart, said + _table(("mode", "used", "10 %", "90 %"), rows) if rows else _missing("--asked 32,64,128")


def _length(score: Score) -> tuple[float, float, float, float]:
    tenths = quantiles(score.used, n=10) if len(score.used) > 1 else [score.used[0]] * 9
    return score.asked or 0, score.thinking_mean, tenths[0], tenths[-1]


def _by_family(run: Run) -> Section:
    families = list(dict.fromkeys(s.family for r in run.results.values() for s in r.scores))
    series, rows = [], []
    for name, result in list(run.results.items())[-2:]:
        for effort, what in (("own", "thinking"), ("none", "direct")):
            found = gather([score for score in result.scores if score.effort == effort], "family")
            rows += [(name, *_facts(score)) for score in found.values()]
            points = [(families.index(family), *_accuracy(score)) for (family,), score in found.items()]
            series += [Series(f"{name}, {what}", points, line=False)] if points else []
    title = "Thinking against answering at once, the last two models"
    chart = Chart(title, "", "accuracy", series, categories=families, percent=True)
    return title, chart, _table(("evaluation", *_FACTS), rows) if rows else _missing("fathom eval --efforts own,none")


_FACTS = ("family", "level", "language", "mode", "n", "samples", "accuracy", "95 % interval", "thinking", "answer", "cut off")


def _facts(s: Score) -> Sequence[object]:
    interval = f"{s.low:.1%} to {s.high:.1%}"
    tokens = f"{s.thinking_mean:.1f}", f"{s.answer_mean:.1f}"
    level = s.level or "all"
    return s.family, level, s.language, s.effort, s.n, s.samples, f"{s.accuracy:.1%}", interval, *tokens, s.cut_off


def _accuracy(score: Score) -> tuple[float, float, float]:
    return score.accuracy, score.low, score.high


def _families(scores: list[Score]) -> Iterator[tuple[str, list[Score]]]:
    for family in dict.fromkeys(score.family for score in scores):
        yield family, [score for score in scores if score.family == family]


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = ["".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) for row in rows]
    titles = "".join(f"<th>{html.escape(title)}</th>" for title in head)
    return f"<table><tr>{titles}</tr>" + "".join(f"<tr>{line}</tr>\n" for line in lines) + "</table>"


def _missing(how: str) -> str:
    return f"<p>Not measured in this run ({html.escape(how)}).</p>"


def _sentences(words: str) -> list[str]:
    """Its paragraphs: a line that begins with a capital, or a number, after a full stop begins a new one."""
    return [html.escape(part) for part in words.replace(".\n", ".\0").replace("\n", " ").split("\0")]
