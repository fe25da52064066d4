"""Training runs as their ledgers tell them: how large, how long, how good.

A run is a directory with a `ledger.jsonl` (train/ledger.py: one JSON object a line; "start" holds the recipe and the
tokens of a step, "step" the loss). Only runs from random weights are compared: a run that continues another model says
nothing of what its own compute buys.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fathom.config import ModelConfig
from fathom.cost import training_flops
from fathom.errors import InputError
from fathom.plan.curves import Cell, joined, read_curve
from fathom.plan.shape import from_config

TAIL = 0.1  # of the logged steps, whose mean is the final loss: one step's loss is noisy
MAX_FILE_BYTES = 256 << 20


@dataclass(frozen=True)
class Run:
    """One run. parameters: of the main model; activated: that a token meets. flops: in all. loss: nats per token.

    cells: accuracy by mode of thinking, of the newest evaluation beside it.
    """

    name: str
    parameters: int
    activated: int
    tokens: float
    flops: float
    loss: float
    cells: tuple[Cell, ...] = ()


@dataclass(frozen=True)
class LeftOut:
    """A run that cannot be compared, and why."""

    name: str
    reason: str


def read_runs(paths: Sequence[str | Path]) -> tuple[tuple[Run, ...], tuple[LeftOut, ...]]:
    """Every run at or below these directories, in order of compute, and those that were left out.

    Raises: InputError: a path is no directory, or there is no ledger below any.
    """
    ledgers: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir():
            raise InputError(f"{path} is not a directory; name the directories of runs, or one above them.")
        ledgers += sorted(path.rglob("ledger.jsonl"))
    if not ledgers:
        raise InputError(f"no ledger.jsonl below {', '.join(map(str, paths))}; name the directories of training runs.")
    found = [_read(path) for path in dict.fromkeys(ledgers)]
    runs = sorted((one for one in found if isinstance(one, Run)), key=lambda run: run.flops)
    return tuple(runs), tuple(one for one in found if isinstance(one, LeftOut))


def _read(path: Path) -> Run | LeftOut:
    name, events = str(path.parent), list(_events(path))
    starts = [e for e in events if e.get("event") == "start" and "recipe" in e]
    steps = [e for e in events if e.get("event") == "step" and "stage" not in e]
    if not starts or not steps:
        return LeftOut(name, "no training steps in it")
    try:
        recipe = starts[-1]["recipe"]
        if recipe["train"].get("init"):
            return LeftOut(name, f"continues {recipe['train']['init']}")
        config = _config(path.parent, recipe)
        tokens = float(starts[-1]["tokens_per_step"]) * max(int(e["step"]) for e in steps)
        row = int(recipe["data"]["row_tokens"])
        last = {int(e["step"]): float(e["loss"]) for e in steps}
        tail = [last[step] for step in sorted(last)][-max(1, math.ceil(TAIL * len(last))) :]
    except (KeyError, TypeError, ValueError, InputError) as error:
        return LeftOut(name, f"its ledger cannot be read ({type(error).__name__}: {error})")
    loss = sum(tail) / len(tail)
    if not (tokens > 0 and math.isfinite(loss) and loss > 0):
        return LeftOut(name, f"{tokens:g} tokens with a loss of {loss:g}")
    shape, flops = from_config(config), tokens * training_flops(config, row, mtp=True)
    return Run(name, shape.parameters, shape.activated, tokens, flops, loss, _evaluation(path.parent))


def _events(path: Path) -> Iterable[dict[str, Any]]:
    """Every event; a line cut short by a crash is left out."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise InputError(f"{path} has more than {MAX_FILE_BYTES:,} bytes; a ledger of one run is smaller.")
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from None
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict):
            yield event


def _config(directory: Path, recipe: Mapping[str, Any]) -> ModelConfig:
    """The model: as it was exported, else as the recipe says, with the vocabulary that was asked for."""
    exported = directory / "model" / "config.json"
    if exported.is_file():
        return ModelConfig.read(exported)
    vocabulary = {} if "vocab_size" in recipe["model"] else {"vocab_size": recipe["data"]["vocab_size"]}
    return ModelConfig.from_dict({**recipe["model"], **vocabulary}, f"{directory}: model")


def _evaluation(directory: Path) -> tuple[Cell, ...]:
    files = sorted(directory.glob("*.eval.json"), key=lambda path: path.stat().st_mtime)
    return joined(read_curve(files[-1])) if files else ()
