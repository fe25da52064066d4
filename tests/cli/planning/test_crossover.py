"""`fathom plan crossover` prints the days."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fathom.cli import main


def test_without_a_file_it_is_deepseeks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "crossover"]) == 0
    lines = capsys.readouterr().out.splitlines()
    found = {
        line.split("  ")[1]: line.split() for line in lines if line.startswith("  the model") or " and " in line[:8]
    }
    assert "64" in found["the model"] and "67" in found["and reinforcement learning"]
    assert "1.76" in found["and all research compute"]


def test_given_numbers_and_growth(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--training-usd", "1e6", "--inference-usd-per-day", "1e4", "--json"]
    assert main(["plan", "crossover", *options]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["crossings"][0]["day"]["value"] == pytest.approx(100.0)
    assert "training.rl" not in found["inputs"]  # that of another model
    assert main(["plan", "crossover", *options, "--growth", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["crossings"][0]["day"]["value"] < 100.0


def test_the_bill_of_a_demand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "a.html"
    options = ["--demand", "recipes/plan/deepseek-day.toml", "--html", str(page), "--json"]
    assert main(["plan", "crossover", *options]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["crossings"][0]["day"]["value"] == pytest.approx(64.04, abs=0.01)
    assert "<svg" in page.read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--growth", "-1"], "growth.inference is -1"),
        (["--inference-usd-per-day", "0"], "inference.per_day is 0"),
        (["--rd-share", "2"], "training.share_of_rd is 2"),
        (["--demand", "recipes/plan/doubao.toml"], "is in RMB and training in USD"),
        (["missing.toml"], "missing.toml"),
    ],
)
def test_bad_input_gets_one_line(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "crossover", *options]) == 2
    said = capsys.readouterr().err
    assert message in said and len(said.strip().splitlines()) == 1
