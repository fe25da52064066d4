"""`fathom plan step` says what the profile's posterior says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fathom.cli import main
from fathom.plan.calibrate import decode, predict, prefill, write_profile
from fathom.plan.ownstep import Group
from tests.plan.machine import profile


@pytest.fixture
def file(tmp_path: Path) -> str:
    write_profile(profile(), tmp_path / "profile.json")
    return str(tmp_path / "profile.json")


def asked(capsys, file: str, *words: str) -> dict:
    assert main(["plan", "step", file, *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_decodes_chunks_and_both_are_predicted(file: str, capsys) -> None:
    known = profile()
    found = asked(capsys, file, "--batch", "8", "--context", "512")
    assert found["step"] == decode(known, 8, 512).to_dict()
    assert found["tokens_per_s"] == pytest.approx(8 / found["step"]["value"])
    chunk = asked(capsys, file, "--tokens", "100", "--cached", "32")
    assert chunk["step"] == prefill(known, 100, 32).to_dict() and "tokens_per_s" not in chunk
    both = asked(capsys, file, "--batch", "8", "--context", "512", "--tokens", "100", "--cached", "32")
    assert both["step"] == predict(known, (Group(8, 1, 512), Group(1, 100, 32))).to_dict()
    assert asked(capsys, file)["step"] == decode(known, 1, 0).to_dict()


def test_a_person_reads_units_interval_and_source(file: str, capsys) -> None:
    assert main(["plan", "step", file, "--batch", "8", "--context", "512"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert " ms (" in lines[0] and " to " in lines[0] and "bound by attention" in lines[0]
    assert "tokens/s" in lines[1] and "2026-01-02" in lines[2]


@pytest.mark.parametrize("bad", [["--batch", "-2"], ["--context", "-1"], ["--tokens", "-5"], ["--batch", "0"]])
def test_bad_input_is_one_line_and_exit_2(bad: list[str], file: str, capsys) -> None:
    assert main(["plan", "step", file, *bad]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert main(["plan", "step", "pyproject.toml"]) == 2
