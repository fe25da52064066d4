"""The file of an evaluation, `NAME.eval.json`: which model, which problems, every score; and two of them paired.

Two results are comparable where their problems have the same hash, whatever the models were.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fathom import __version__, cost
from fathom.config import ModelConfig, find_model
from fathom.errors import InputError
from fathom.think.evaluate import EvalConfig, Score
from fathom.think.intervals import Paired, paired, wilson
from fathom.think.lengths import Obedience, obedience

FORMAT = 1
SUFFIX = ".eval.json"
MODEL_FILES = ("*.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json")


@dataclass(frozen=True)
class Result:
    """One evaluation. fingerprint: of the model's weights, configuration and tokenizer. time_s: when it ended (Unix).

    parameters: of the main model. asked: the EvalConfig, with its modes by label. seconds: it took.
    """

    model: str
    fingerprint: str
    parameters: int
    asked: dict[str, Any]
    scores: tuple[Score, ...]
    seconds: float = 0.0
    time_s: float = field(default_factory=time.time)
    fathom: str = __version__
    format: int = FORMAT

    @classmethod
    def of(cls, model: str | Path, config: EvalConfig, scores: Sequence[Score], seconds: float = 0.0) -> Result:
        """What `run(LLM(model), config)` gave, with the facts about the model."""
        directory = find_model(model)
        asked = asdict(config) | {"modes": [mode.label for mode in config.modes]}
        parameters = cost.parameters(ModelConfig.read(directory))
        return cls(str(model), fingerprint(directory), parameters, asked, tuple(scores), round(seconds, 3))

    @property
    def problems(self) -> str:
        """One hash over the problems of all scores."""
        cells = sorted({f"{score.family} {score.level} {score.language} {score.problems}" for score in self.scores})
        return hashlib.sha256("\n".join(cells).encode()).hexdigest()[:16]

    def write(self, path: Path) -> None:
        table = asdict(self) | {"problems": self.problems}
        path.write_text(json.dumps(table, indent=1, sort_keys=True) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Result:
        """Raises: InputError: it cannot be read, or is not such a file."""
        try:
            table = json.loads(path.read_text(encoding="utf-8"))
            if table.pop("format") != FORMAT:
                raise ValueError("another format")
            table.pop("problems")
            return cls(**table | {"scores": tuple(score_from(each) for each in table["scores"])})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path} is not a result of an evaluation ({error}); make one with `fathom eval --out`."
            ) from error


def score_from(table: Mapping[str, Any]) -> Score:
    """The Score that asdict and JSON made a table of."""
    by_samples = {name: {int(k): v for k, v in table[name].items()} for name in ("pass_at", "majority_at")}
    return Score(**{**table, **by_samples, "right": tuple(table["right"]), "used": tuple(table["used"])})


def fingerprint(directory: Path) -> str:
    """A name for a model's weights, configuration and tokenizer: the files' hashes, which a manifest holds already."""
    manifest = directory / "manifest.json"
    known = json.loads(manifest.read_text(encoding="utf-8"))["files"] if manifest.is_file() else {}
    digest = hashlib.sha256()
    for file in sorted(path for pattern in MODEL_FILES for path in directory.glob(pattern)):
        listed = known.get(file.name, {}).get("sha256") or _sha256(file)
        digest.update(f"{file.name} {listed}\n".encode())
    return digest.hexdigest()[:16]


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def gather(scores: Iterable[Score], *by: str) -> dict[tuple[Any, ...], Score]:
    """Scores joined over all but the named fields, e.g. by "effort" and "family"; other names are then "all" or 0."""
    parts: dict[tuple[Any, ...], list[Score]] = {}
    for score in scores:
        parts.setdefault(tuple(getattr(score, name) for name in by), []).append(score)
    return {key: part[0] if len(part) == 1 else _joined(part) for key, part in parts.items()}


def _joined(part: list[Score]) -> Score:
    """One score for several cells; means are over problems."""
    n, samples = sum(score.n for score in part), part[0].samples
    if any(score.samples != samples for score in part):
        raise InputError(
            f"{part[0].effort}: cells of {samples} samples and of others cannot be joined; keep them apart."
        )

    def mean(values: Iterable[float]) -> float:
        return sum(value * score.n for value, score in zip(values, part, strict=True)) / n

    correct = sum(score.correct for score in part)
    low, high = wilson(correct / samples, n)
    same = {
        name: {getattr(score, name) for score in part} for name in ("family", "level", "effort", "language", "asked")
    }
    named = {name: values.pop() if len(values) == 1 else None for name, values in same.items()}
    return Score(
        family=named["family"] or "all", level=named["level"] or 0, effort=named["effort"] or "all",
        language=named["language"] or "all", asked=named["asked"], n=n, samples=samples, correct=correct,
        accuracy=correct / (n * samples), low=low, high=high, tokens_mean=mean(score.tokens_mean for score in part),
        cut_off=sum(score.cut_off for score in part), distinct=sum(score.distinct for score in part),
        thinking_mean=mean(score.thinking_mean for score in part),
        answer_mean=mean(score.answer_mean for score in part),
        pass_at={k: mean(score.pass_at[k] for score in part) for k in part[0].pass_at},
        majority_at={k: mean(score.majority_at[k] for score in part) for k in part[0].majority_at},
        right=tuple(each for score in part for each in score.right),
        used=tuple(each for score in part for each in score.used),
    )  # fmt: skip


def asked_and_used(scores: Iterable[Score], *, enforced: bool) -> Obedience | None:
    """Asked against used length, over the modes that enforce what they ask for, or over those that only ask."""
    chosen = [score for score in scores if score.effort.startswith("budget " if enforced else "asked ")]
    pairs = [(score.asked or 0, used) for score in chosen for used in score.used]
    return obedience([asked for asked, _ in pairs], [used for _, used in pairs]) if pairs else None


def compare(a: Result, b: Result) -> list[tuple[str, str, Paired]]:
    """b against a, on the problems that both were asked: (mode, family, pair), and family "all" for each mode.

    Cells are paired by family, level, language and mode; if each result has one mode, whatever those are.
    Raises: InputError: no cell of both has the same problems.
    """
    modes = [list(dict.fromkeys(score.effort for score in result.scores)) for result in (a, b)]
    one = f"{modes[0][0]} / {modes[1][0]}" if len(modes[0]) == len(modes[1]) == 1 and modes[0] != modes[1] else None

    def cells(result: Result) -> dict[tuple[Any, ...], Score]:
        return {(one or s.effort, s.family, s.level, s.language, s.problems): s for s in result.scores}

    of_a, of_b = cells(a), cells(b)
    shared = [key for key in of_a if key in of_b]
    if not shared:
        raise InputError(
            f"{a.model} (modes {', '.join(modes[0])}) and {b.model} (modes {', '.join(modes[1])}) were asked no "
            "problems in common; evaluate both with the same seed, n, split, levels and efforts."
        )
    found = []
    for mode in dict.fromkeys(key[0] for key in shared):
        here = [key for key in shared if key[0] == mode]
        for family in [*dict.fromkeys(key[1] for key in here), "all"]:
            part = [key for key in here if family in (key[1], "all")]
            found.append((mode, family, paired(*([*_rates(of[key] for key in part)] for of in (of_a, of_b)))))
    return found


def _rates(scores: Iterable[Score]) -> Iterator[float]:
    """Of each problem in turn: the share of its samples that are right."""
    return (right / score.samples for score in scores for right in score.right)
