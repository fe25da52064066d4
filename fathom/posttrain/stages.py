"""Stages of a run that build on each other, each in a folder of its own; what is done already is not done again.

A stage is named by what decides its output: its own settings and, through their keys, those of the stages it reads. A
folder with another key is from other settings and is begun anew; one with the same key is done, or goes on.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fathom.errors import InputError
from fathom.train.ledger import Ledger

STATE = "stage.json"
TRUSTED_S = 60.0  # the plan counts as much as so many seconds of work: a short first stage says little of the machine

#: Says how far a stage is: a line, and the seconds it still takes if it knows.
Tell = Callable[[str, float | None], None]


@dataclass(frozen=True)
class Stage:
    """One step of a run.

    Fields: needs: stages whose folders it reads. facts: what decides its output, as plain JSON. planned_s: seconds it
            shall take, to guess what is left. work: does it in its folder; False: interrupted, its state is saved.
    """

    name: str
    needs: tuple[str, ...]
    facts: Mapping[str, Any]
    planned_s: float
    work: Callable[[Path, Tell], bool]


@dataclass(frozen=True)
class Line:
    """A line of progress. left_s: seconds to the end of the whole run, as far as one can say."""

    stage: str
    number: int
    stages: int
    text: str
    left_s: float


class Pipeline:
    """Runs stages in order in folders of `out`.

    Raises: InputError: a stage needs one that does not come before it.
    """

    def __init__(self, stages: Sequence[Stage], out: Path) -> None:
        self.stages, self.out = tuple(stages), out
        self._keys: dict[str, str] = {}
        for stage in stages:
            if missing := [name for name in stage.needs if name not in self._keys]:
                raise InputError(f"stage {stage.name} needs {missing[0]}, which does not come before it.")
            told = [stage.name, stage.facts, [self._keys[name] for name in stage.needs]]
            self._keys[stage.name] = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]

    def folder(self, name: str) -> Path:
        """Where a stage's output is."""
        return self.out / name

    def seconds(self, name: str) -> float | None:
        """What a stage took; None: it is not done with these settings."""
        state = self._state(name)
        return float(state["seconds"]) if state.get("key") == self._keys[name] and state.get("done") else None

    def run(self, report: Callable[[Line], None] = lambda line: None, only: Collection[str] = ()) -> bool:
        """Do what is not done; False: interrupted, the same call goes on.

        Args:   only: names of stages, the others are left alone; all if empty.
        Raises: InputError: no such stage, or one of them needs another that is not done.
        """
        self._check(only)
        chosen = [stage for stage in self.stages if not only or stage.name in only]
        left = {stage.name: stage.planned_s for stage in chosen if self.seconds(stage.name) is None}
        planned, spent = 0.0, 0.0
        ledger = Ledger(self.out)
        try:
            for number, stage in enumerate(chosen, 1):

                def say(text: str, left_s: float, stage: Stage = stage, number: int = number) -> None:
                    report(Line(stage.name, number, len(chosen), text, left_s))

                if (before := self.seconds(stage.name)) is not None:
                    say(f"done before, in {before:.0f} s", sum(left.values()))
                    continue
                del left[stage.name]
                pace = (spent + TRUSTED_S) / (planned + TRUSTED_S)  # of this machine, now, against the plan
                later = pace * sum(left.values())
                began = time.monotonic()
                if not self._work(stage, say, later, pace):
                    ledger.append("interrupted", stage=stage.name)
                    return False
                took = time.monotonic() - began
                planned, spent = planned + stage.planned_s, spent + took
                ledger.append("stage", stage=stage.name, key=self._keys[stage.name], seconds=self.seconds(stage.name))
                say(f"done in {took:.0f} s", later)
            return True
        finally:
            ledger.close()

    def _work(self, stage: Stage, say: Callable[[str, float], None], later: float, pace: float) -> bool:
        """Do one stage; its seconds are those of all tries."""
        folder, key = self.folder(stage.name), self._keys[stage.name]
        state = self._state(stage.name)
        if folder.exists() and state.get("key") != key:
            if not state:
                raise InputError(f"{folder} is there, but no stage of a run made it; use another --out.")
            shutil.rmtree(folder)
            state = {}
        folder.mkdir(parents=True, exist_ok=True)
        before, began = float(state.get("seconds", 0.0)), time.monotonic()
        self._note(stage.name, key, before, done=False)

        def tell(text: str, left_s: float | None) -> None:
            rest = max(0.0, pace * stage.planned_s - (time.monotonic() - began)) if left_s is None else left_s
            say(text, rest + later)

        try:
            ended = stage.work(folder, tell)
        except KeyboardInterrupt:
            ended = False
        self._note(stage.name, key, before + time.monotonic() - began, done=ended)
        return ended

    def _check(self, only: Collection[str]) -> None:
        names = [stage.name for stage in self.stages]
        for name in only:
            if name not in names:
                raise InputError(f"stage is {name!r}; it must be one of {', '.join(names)}.")
        for stage in self.stages:
            for need in stage.needs if stage.name in only else ():
                if need not in only and self.seconds(need) is None:
                    raise InputError(f"stage {stage.name} needs {need}, which is not done in {self.out}; add it.")

    def _state(self, name: str) -> dict[str, Any]:
        try:
            found = json.loads((self.folder(name) / STATE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _note(self, name: str, key: str, seconds: float, *, done: bool) -> None:
        file = self.folder(name) / STATE
        part = file.with_suffix(".part")
        part.write_text(json.dumps({"key": key, "done": done, "seconds": round(seconds, 3)}) + "\n", encoding="utf-8")
        os.replace(part, file)
