"""`fathom plan validate`: tables for people, one object for programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fathom.cli import main
from tests.plan.test_rows import ROW
from tests.plan.test_validate import written


def test_tables_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(written(tmp_path / "rows.csv", [ROW, ROW | {"id": "y", "model": "Skynet"}]))
    assert main(["plan", "validate", file, "--worst", "1"]) == 0
    table = capsys.readouterr().out
    assert "2 rows" in table and "Skynet" in table and "deepseek-r1" in table and "furthest off" in table
    assert max(map(len, table.splitlines())) <= 120
    assert main(["plan", "validate", file, "--json", "--by", "kind"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["rows"] == 2 and found["all"]["refused"] == 1
    assert found["by"]["kind"]["serving_mixed"]["rows"] == 2 and len(found["refusals"]) == 1


def test_knobs_are_written_where_one_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        ROW
        | {"id": f"{metric} {n}", "group": f"g{n % 3}", "batch": f"conc {n}", "metric": metric, "value": f"{10 + n}"}
        for metric in ("tpot", "ttft")
        for n in range(1, 10)
    ]
    target = tmp_path / "knobs.toml"
    assert main(["plan", "validate", str(written(tmp_path / "rows.csv", rows)), "--refit", str(target)]) == 0
    assert target.read_text().startswith("# Knobs")


def test_no_such_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "validate", "/nowhere.csv"]) == 2
    assert "cannot be read" in capsys.readouterr().err
