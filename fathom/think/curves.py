"""What a run left behind, and the curves that show it: from ledgers and evaluations to points."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import quantiles
from typing import Any

from fathom.errors import InputError
from fathom.think.charts import Chart, Point
from fathom.think.evaluate import Score
from fathom.think.results import SUFFIX, Result, gather
from fathom.train.ledger import read

MOST_POINTS = 300  # of a training curve


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
        files = sorted(directory.rglob(f"*{SUFFIX}"))
        short = len({file.name for file in files}) == len(files)
        names = [file.name if short else str(file.relative_to(directory)) for file in files]
        results = {name.removesuffix(SUFFIX): Result.read(f) for name, f in zip(names, files, strict=True)}
        if not any(ledgers.values()) and not results:
            raise InputError(f"{directory} holds no ledger.jsonl and no *{SUFFIX}; name the directory of a run.")
        begun = sorted(((events[0]["time_s"], name) for name, events in ledgers.items() if events))
        return cls(
            {name: ledgers[name] for _, name in begun},
            dict(sorted(results.items(), key=lambda pair: pair[1].time_s)),
        )

    @property
    def stages(self) -> dict[str, Result]:
        """Evaluations that ask for one answer, with no number of tokens: what models are compared by."""
        plain = {n: [s for s in r.scores if " " not in s.effort and s.samples == 1] for n, r in self.results.items()}
        return {n: replace(self.results[n], scores=tuple(scores)) for n, scores in plain.items() if scores}

    def last(self, *modes: str) -> tuple[str, list[Score]]:
        """The newest evaluation in modes whose labels begin so, or with several samples if none is named."""
        for name, result in reversed(self.results.items()):
            if scores := [s for s in result.scores if (s.effort.startswith(modes) if modes else s.pass_at)]:
                return name, scores
        return "", []


def curves(run: Run) -> Iterator[Chart]:
    """Every chart of a report; without series where nothing was measured."""
    yield Chart("Loss by stage", "minutes", "nats per token", _training(run, "loss"))
    yield Chart("Reward by stage", "minutes", "mean reward", _training(run, "reward"))
    yield _by_stage(run)
    for kind, title in (("budget ", "told to think so much"), ("forced ", "its own thought cut")):
        yield _by_thinking(run, kind, title)
    yield _by_samples(run)
    yield _lengths(run)
    yield _by_family(run)


def _by_stage(run: Run) -> Chart:
    series: dict[str, list[Point]] = {}
    for index, result in enumerate(run.stages.values()):
        for (effort,), score in gather(result.scores, "effort").items():
            series.setdefault(effort, []).append(_point(index, score))
    return Chart("Accuracy by stage", "evaluation", "accuracy", series, list(run.stages), percent=True)


def _by_thinking(run: Run, kind: str, title: str) -> Chart:
    name, scores = run.last(kind)
    series: dict[str, list[Point]] = {}
    for by in (("effort",), ("effort", "family")):
        for score in gather(scores, *by).values():
            if score.family == "all" or len(by) > 1:
                place = _point(score.thinking_mean, score)  # a dozen intervals would hide the curves
                series.setdefault(score.family, []).append(place if score.family == "all" else (*place[:2], None, None))
    title = f"Accuracy against thinking, {title}: {name or '-'}"
    return Chart(title, "thinking tokens, mean", "accuracy", series, percent=True)


def _by_samples(run: Run) -> Chart:
    name, scores = run.last()
    series: dict[str, list[Point]] = {}
    for score in gather(scores).values():
        series["vote"] = [(k, value, None, None) for k, value in score.majority_at.items()]
        series["best of n, by a checker"] = [(k, value, None, None) for k, value in score.pass_at.items()]
    return Chart(f"Accuracy against samples: {name or '-'}", "samples", "accuracy", series, percent=True)


def _lengths(run: Run) -> Chart:
    name, scores = run.last("asked ", "budget ")
    series: dict[str, list[Point]] = {}
    for (effort,), score in gather(scores, "effort").items():
        what = "asked" if effort.startswith("asked ") else "asked and enforced"
        series.setdefault(what, []).append((score.asked or 0, score.thinking_mean, *tenths(score)))
    title = f"Asked against used length: {name or '-'}"
    return Chart(title, "tokens asked for", "tokens used: mean, 10 % to 90 %", series, diagonal=True)


def _by_family(run: Run) -> Chart:
    families = list(dict.fromkeys(s.family for r in run.stages.values() for s in r.scores))
    series: dict[str, list[Point]] = {}
    for name, result in list(run.stages.items())[-2:]:
        for (effort, family), score in gather(result.scores, "effort", "family").items():
            if effort in ("own", "none"):
                label = f"{name}, {'direct' if effort == 'none' else 'thinking'}"
                series.setdefault(label, []).append(_point(families.index(family), score))
    return Chart("Thinking against direct, the last two models", "family", "accuracy", series, families, percent=True)


def _training(run: Run, key: str) -> dict[str, list[Point]]:
    began = min((events[0]["time_s"] for events in run.ledgers.values()), default=0.0)
    series: dict[str, list[Point]] = {}
    for name, events in run.ledgers.items():
        held = [event for event in events if event.get(key) is not None]
        for event in held[:: -(-len(held) // MOST_POINTS) or 1]:
            series.setdefault(name, []).append(((event["time_s"] - began) / 60, float(event[key]), None, None))
    return series


def _point(x: float, score: Score) -> Point:
    return x, score.accuracy, score.low, score.high


def tenths(score: Score) -> tuple[float, float]:
    """Tokens of thought that a tenth of the problems, and all but a tenth, stay below."""
    found = quantiles(score.used, n=10) if len(score.used) > 1 else [*score.used] * 2
    return found[0], found[-1]
