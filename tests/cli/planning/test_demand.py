"""`fathom plan demand` prints what the arithmetic says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fathom.cli import main
from fathom.plan.demand import estimate, read_demand

DAY, DOUBAO = (f"recipes/plan/{name}.toml" for name in ("deepseek-day", "doubao"))


@pytest.mark.parametrize("recipe", sorted(Path("recipes/plan").glob("*.toml")), ids=lambda path: path.stem)
def test_every_demand_that_is_shown_prints_within_the_width(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "demand", str(recipe), "--samples", "500"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 120 and not any("nan" in line.split() for line in lines)


def test_deepseeks_day_shows_what_was_published(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "demand", DAY]) == 0
    table = capsys.readouterr().out
    for figure in ("226.75", "87,072", "562,027", "545", "608 bn", "168 bn"):
        assert figure in table


def test_the_brokers_file_says_what_is_inferred(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "demand", DOUBAO, "--samples", "500"]) == 0
    table = capsys.readouterr().out
    for words in ("75.9 bn", "113.9 bn", "189.8 bn", "inferred", "3.24e+11", "456.8 tok/s", "sum 301.2", "Amazon 96.4"):
        assert words in table
    line = next(line for line in table.splitlines() if line.strip().startswith("fleet.utilisation  "))
    assert line.endswith("inferred")


def test_json_is_the_estimate(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--samples", "300", "--seed", "4", "--set", "peak.to_average=3"]
    assert main(["plan", "demand", DOUBAO, *options, "--json"]) == 0
    again = estimate(read_demand(DOUBAO, ["peak.to_average=3"]), 300, 4)
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(again.to_dict()))


def test_pages_and_pictures_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, picture = tmp_path / "a.html", tmp_path / "a.png"
    assert main(["plan", "demand", DOUBAO, "--samples", "200", "--html", str(page), "--png", str(picture)]) == 0
    assert page.read_text().count("<svg") >= 3 and picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["missing.toml"], "missing.toml cannot be read"),
        ([DAY, "--set", "traffic.input=-1"], "traffic.input is -1"),
        ([DAY, "--set", "traffic.inptu=1"], "unknown input 'traffic.inptu'"),
        ([DAY, "--samples", "1"], "samples is 1"),
        ([DAY, "--seed", "-1"], "seed is -1"),
    ],
)
def test_bad_input_gets_one_line(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "demand", *options]) == 2
    said = capsys.readouterr().err
    assert message in said and len(said.strip().splitlines()) == 1
