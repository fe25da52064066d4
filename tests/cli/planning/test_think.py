"""`fathom plan think` prints what thought costs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fathom.cli import main

CSV = "thinking_tokens,accuracy,n,family\n0,0.2,100,a\n1000,0.7,100,a\n32000,0.72,100,a\n"


def test_without_a_curve_lengths_are_priced(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "think"]) == 0
    table = capsys.readouterr().out
    assert "3,750" in table and "0.00116" in table and max(map(len, table.splitlines())) <= 120


def test_the_nano_model_in_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "think", "fathom/weights/nano/evaluation.json"]) == 0
    table = capsys.readouterr().out
    assert "knee: own" in table and "a budget for each kind of problem" in table
    assert max(map(len, table.splitlines())) <= 120


def test_a_curve_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.csv").write_text(CSV)
    page, picture = tmp_path / "a.html", tmp_path / "a.png"
    options = ["--value", "10", "--tokens", "10", "20", "--html", str(page), "--png", str(picture), "--json"]
    assert main(["plan", "think", str(tmp_path / "a.csv"), *options]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["advice"]["knee"]["mode"] == "1000 tokens" and found["advice"]["best"]["mode"] == "32000 tokens"
    assert [one["tokens"] for one in found["lengths"]] == [10, 20] and found["policy"] is None
    assert page.read_text().count("<svg") == 3 and picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["missing.eval.json"], "missing.eval.json cannot be read"),
        (["--tokens", "-1"], "each must be from 0"),
        (["--set", "fleet.decode=-1"], "fleet.decode is -1"),
        (["--value", "nan"], "answers.value is nan"),
        (["fathom/weights/nano/evaluation.json", "--margin", "2"], "margin is 2.0"),
        (["fathom/weights/nano/evaluation.json", "--samples", "1"], "samples is 1"),
    ],
)
def test_bad_input_gets_one_line(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "think", *options]) == 2
    said = capsys.readouterr().err
    assert message in said and len(said.strip().splitlines()) == 1
