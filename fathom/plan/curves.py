"""Accuracy against thinking, as it was measured: from the files of `fathom eval --out`, or from a user's CSV.

A CSV has a head of column names: thinking_tokens and accuracy (0 to 1), and if known samples, n (problems),
answer_tokens, family, label.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fathom.config import nearest, read_json
from fathom.errors import InputError
from fathom.plan.inputs import Z90

COLUMNS = ("thinking_tokens", "accuracy", "samples", "n", "answer_tokens", "family", "label")


@dataclass(frozen=True)
class Cell:
    """One mode of thinking on the problems of one kind.

    Fields: kind: family and level. mode: how it was asked to think. thinking, answer: tokens of one sample, mean.
            samples: that an answer is made of, by majority, or as `choice` says. n: problems; 0: not known.
            right: share of each problem's samples that are right; used: tokens of thought of each; empty: not known.
    """

    kind: str
    mode: str
    accuracy: float
    thinking: float
    answer: float = 0.0
    samples: int = 1
    n: int = 0
    right: tuple[float, ...] = ()
    used: tuple[float, ...] = ()
    choice: str = ""

    @property
    def label(self) -> str:
        """The mode, and how many samples."""
        return self.mode if self.samples == 1 else f"{self.mode}, {self.choice} of {self.samples}"

    def interval(self) -> tuple[float, float] | None:
        """80 % interval of the accuracy (Wilson); None: the number of problems is not known."""
        return wilson(self.accuracy, self.n) if self.n else None


def wilson(accuracy: float, n: int) -> tuple[float, float]:
    """80 % Wilson interval of a share over n problems."""
    around = Z90 * Z90 / n
    middle = (accuracy + around / 2) / (1 + around)
    half = Z90 * math.sqrt(accuracy * (1 - accuracy) / n + around / n / 4) / (1 + around)
    return max(0.0, middle - half), min(1.0, middle + half)


def read_curve(path: str | Path) -> tuple[Cell, ...]:
    """What was measured, from an evaluation's JSON or a CSV. Raises: InputError: the file is neither."""
    path = Path(path)
    cells = _from_csv(path) if path.suffix.lower() == ".csv" else _from_evaluation(path)
    if not cells:
        raise InputError(f"{path} holds no measurement; it needs a row for each mode of thinking.")
    return cells


def _from_evaluation(path: Path) -> tuple[Cell, ...]:
    table = read_json(path)
    scores = table.get("scores") if isinstance(table, Mapping) else table
    if not isinstance(scores, list):
        raise InputError(f"{path} is not a result of an evaluation; make one with `fathom eval --out`.")
    try:
        return tuple(cell for score in scores for cell in _cells(score))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{path} is not a result of an evaluation ({type(error).__name__}: {error}); use `fathom eval --out`."
        ) from None


def _cells(score: Mapping[str, Any]) -> Iterable[Cell]:
    """The single sample of a score, and what majorities of its samples do."""
    samples = int(score.get("samples", 1))
    used = tuple(float(each) for each in score.get("used", ()))
    one = Cell(
        kind=f"{score['family']} {score['level']} {score.get('language', 'en')}", mode=str(score["effort"]),
        accuracy=_share(score["accuracy"]), thinking=_tokens(score["thinking_mean"]),
        answer=_tokens(score["answer_mean"]), n=int(score["n"]),
        right=tuple(int(each) / samples for each in score.get("right", ())), used=used,
    )  # fmt: skip
    yield one
    for name, choice in (("majority_at", "majority"), ("pass_at", "best by a checker")):
        for count, accuracy in score.get(name, {}).items():
            if int(count) > 1:
                yield replace(one, samples=int(count), accuracy=_share(accuracy), right=(), used=(), choice=choice)


def _share(value: Any) -> float:
    share = float(value)
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"an accuracy of {share}")
    return share


def _tokens(value: Any) -> float:
    tokens = float(value)
    if not 0.0 <= tokens < 1e12:
        raise ValueError(f"{tokens} tokens")
    return tokens


def _from_csv(path: Path) -> tuple[Cell, ...]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            columns = [name.strip() for name in reader.fieldnames or ()]
            rows = [
                {(k or "").strip(): (v or "").strip() for k, v in row.items() if isinstance(v, str)} for row in reader
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as CSV ({error}).") from None
    for name in columns:
        if name not in COLUMNS:
            raise InputError(f"{path}: unknown column {name!r}{nearest(name, COLUMNS)}; known: {', '.join(COLUMNS)}.")
    for name in COLUMNS[:2]:
        if name not in columns:
            raise InputError(
                f"{path} has no column {name}; its first line names the columns, such as {COLUMNS[0]},{COLUMNS[1]}."
            )
    return tuple(_row(row, f"{path}, line {number}") for number, row in enumerate(rows, 2))


def _row(row: Mapping[str, str], where: str) -> Cell:
    try:
        thinking = _tokens(row["thinking_tokens"])
        samples, n = int(row.get("samples") or 1), int(row.get("n") or 0)
        if samples < 1 or n < 0:
            raise ValueError(f"samples {samples}, n {n}")
        return Cell(
            kind=row.get("family") or "all", mode=row.get("label") or f"{thinking:g} tokens",
            accuracy=_share(row["accuracy"]), thinking=thinking, answer=_tokens(row.get("answer_tokens") or 0.0),
            samples=samples, n=n, choice="majority" if samples > 1 else "",
        )  # fmt: skip
    except (KeyError, ValueError) as error:
        raise InputError(f"{where}: {error}; thinking_tokens from 0, accuracy from 0 to 1, samples from 1.") from None


def joined(cells: Sequence[Cell]) -> tuple[Cell, ...]:
    """One cell for each mode, over the kinds of problem that all modes were asked; means are over problems.

    Where no kind was asked in all modes, as in a CSV of one curve each, nothing is joined and all stay as they are.
    """
    modes: dict[str, dict[str, Cell]] = {}
    for cell in cells:
        modes.setdefault(cell.label, {})[cell.kind] = cell
    shared = set.intersection(*(set(kinds) for kinds in modes.values()))
    if not shared:
        return tuple(cells)
    return tuple(_join([cell for kind, cell in kinds.items() if kind in shared]) for kinds in modes.values())


def _join(part: Sequence[Cell]) -> Cell:
    if len(part) == 1:
        return part[0]
    weights = [cell.n or 1 for cell in part]
    total = sum(weights)

    def mean(name: str) -> float:
        return float(sum(getattr(cell, name) * weight for cell, weight in zip(part, weights, strict=True)) / total)

    known = all(cell.n for cell in part)
    whole = all(len(cell.right) == cell.n for cell in part) and known
    return replace(
        part[0], kind="all", accuracy=mean("accuracy"), thinking=mean("thinking"), answer=mean("answer"),
        n=total if known else 0, right=tuple(r for cell in part for r in cell.right) if whole else (),
        used=tuple(u for cell in part for u in cell.used) if whole else (),
    )  # fmt: skip
