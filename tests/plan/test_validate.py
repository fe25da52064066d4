"""Errors are those of the rows, by hand; groups left out; files that cannot be read say why."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from fathom.errors import ConfigError
from fathom.plan.validate import COLUMNS, DATA, Outcome, errors, grouped, predict, read, refusals, validate
from tests.plan.test_rows import CATALOGUE, ROW


def written(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_errors_by_hand() -> None:
    said = [Outcome(ROW | {"value": "10"}, value, 0.8 * value, 1.25 * value) for value in (9, 10, 11, 15)]
    found = errors([*said, Outcome(ROW, reason="no")])
    assert (found.rows, found.refused) == (5, 1)
    assert found.median == pytest.approx(0.1) and found.p90 == pytest.approx(0.5)
    assert found.bias == pytest.approx(0.05) and found.covered == 0.75
    assert errors([Outcome(ROW, reason="no")]).median is None


def test_every_kind_of_row_is_predicted_or_refused_by_name(tmp_path: Path) -> None:
    kinds = [ROW, ROW | {"id": "y", "kind": "demand"}, ROW | {"id": "z", "model": "Skynet"}]
    found = validate(read(written(tmp_path / "rows.csv", kinds)))
    assert [bool(one.reason) for one in found] == [False, True, True]
    assert sum(refusals(found).values()) == 2 and grouped(found, "engine")["sglang"].rows == 3
    assert predict(ROW | {"kind": "weather"}, CATALOGUE)


def test_a_row_left_out_is_predicted_without_its_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wild value in the file's own group changes nothing for that group."""
    shipped = [row for row in read(DATA) if row["kind"] == "serving_mixed" and row["batch"].startswith("conc")]
    monkeypatch.setattr("fathom.plan.validate.DATA", written(tmp_path / "shipped.csv", shipped[::24]))
    rows = [ROW | {"id": str(n), "batch": f"conc {n}", "value": str(10 + n / 8)} for n in (4, 16, 64)]
    wild = [row | {"value": "5000"} for row in rows]
    calm, spoilt = (validate(read(written(tmp_path / "rows.csv", some)), leave_out=True) for some in (rows, wild))
    assert [one.value for one in calm] == pytest.approx([one.value for one in spoilt])
    assert all(one.low < one.value < one.high for one in calm)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column"),
        ("id,kind\n1,2\n", "no column"),
        (",".join(COLUMNS) + "\n", "no rows"),
        (",".join(COLUMNS) + "\n" + "x," * 12 + "much,ms,,g\n", "line 2"),
        (",".join(COLUMNS) + "\n" + "x," * 12 + "nan,ms,,g\n", "nan"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "rows.csv"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read(file)


def test_the_shipped_points_name_their_sources() -> None:
    assert all(row["source"] and row["group"] for row in read(DATA))
