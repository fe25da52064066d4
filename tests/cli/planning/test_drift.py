"""`fathom plan drift` reads a real engine's step log, and rings when its times leave the profile."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from fathom.batching.plan import Plan, Row, Sampled, Sampling
from fathom.batching.request import SamplingParams
from fathom.cli import main
from fathom.engine.record import LogHeader, StepLog, StepRecord
from fathom.plan.calibrate import write_profile
from fathom.plan.ownstep import step_of
from tests.plan.machine import profile, seconds

GREEDY = Sampling(1, SamplingParams(temperature=0.0))
HEADER = LogHeader(config="abc", probe="p", kind="i8", numerics="exact", page_tokens=16, num_pages=9)


@pytest.fixture
def file(tmp_path: Path) -> str:
    write_profile(profile(), tmp_path / "profile.json")
    return str(tmp_path / "profile.json")


def log(path: Path, slower: float, header: LogHeader = HEADER) -> str:
    """Forty steps of three sequences, and two that guess, which take far longer."""
    written = StepLog(path, header)
    for i in range(42):
        rows = tuple(Row(name, (1,), 100 + i, (0,), GREEDY, propose=int(i > 39)) for name in "abc")
        plan = Plan(i, rows=rows)
        written.write(
            StepRecord(plan, (Sampled((1,)),), 0.9 * slower * seconds(step_of(plan, "abc")) * (9 if i > 39 else 1))
        )
    return str(path)


def test_steps_as_predicted_are_no_drift(file: str, tmp_path: Path, capsys) -> None:
    assert main(["plan", "drift", file, log(tmp_path / "log", 1.0)]) == 0
    said = capsys.readouterr().out
    assert "no drift" in said and "2 others guessed" in said and "generating" in said and "DRIFTED" not in said


def test_slower_steps_ring(file: str, tmp_path: Path, capsys) -> None:
    assert main(["plan", "drift", file, log(tmp_path / "log", 1.3), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["rings"] and found["left_out"] == 2
    (shift,) = found["shifts"]
    assert shift["kind"] == "generating" and shift["steps"] == 40 and shift["ratio"] == pytest.approx(1.3, abs=0.15)
    assert main(["plan", "drift", file, log(tmp_path / "log", 1.3)]) == 1
    assert "DRIFTED" in capsys.readouterr().out


@pytest.mark.parametrize("other", [{"config": "else"}, {"kind": "i4"}])
def test_a_log_of_another_model_is_refused(other: dict[str, str], file: str, tmp_path: Path, capsys) -> None:
    header = msgspec.structs.replace(HEADER, **other)
    assert main(["plan", "drift", file, log(tmp_path / "log", 1.0, header)]) == 2
    assert "name two of the same model" in capsys.readouterr().err


def test_what_is_no_log_or_no_profile_is_refused(file: str, tmp_path: Path, capsys) -> None:
    assert main(["plan", "drift", file, file]) == 2
    assert main(["plan", "drift", "pyproject.toml", log(tmp_path / "log", 1.0)]) == 2
    capsys.readouterr()
