"""The same plan as a table, as JSON and as a page."""

import json
from pathlib import Path

import pytest

from fathom.plan.quantity import Quantity
from fathom.plan.training.job import Job
from fathom.plan.training.report import added, charts, plan, table, to_dict, write


def test_the_table_is_calm(v3: Job) -> None:
    lines = list(table(plan(v3, 14.8e12, why="as published")))
    assert max(map(len, lines)) <= 120
    assert "deepseek-v3: 14.8T tokens on 2,048 H800 SXM 80GB" in lines[0] and "PP16, EP64, DP128" in lines[1]
    assert any(line.strip().startswith("in all") and "fits" in line for line in lines)


def test_every_number_of_the_json_has_a_unit(v3: Job) -> None:
    found = json.loads(json.dumps(to_dict(plan(v3, 14.8e12))))

    def check(value: object) -> int:
        if isinstance(value, dict):
            if "value" in value:
                assert value["unit"]
                return 1
            return sum(map(check, value.values()))
        return sum(map(check, value)) if isinstance(value, list) else 0

    assert check(found) > 25
    parts = sum(one["value"] for one in found["parts"].values())
    assert parts == pytest.approx(found["step"]["value"])


def test_conventions_of_utilisation_differ_as_their_denominators(v3: Job) -> None:
    said = plan(v3, 14.8e12).quantities
    assert said["mfu"].value / said["mfu_fp8"].value == pytest.approx(1979 / 989)
    assert said["mfu_noncausal"].value / said["mfu"].value == pytest.approx(1.1225, rel=0.01)


def test_the_charts_show_the_parts_and_the_bill(v3: Job, tmp_path: Path) -> None:
    one = plan(v3, 14.8e12)
    parts, bill = charts(one)
    assert sum(y for _, y in parts.series[0].points) == pytest.approx(one.quantities["step"].value)
    counted = sum(y for _, y in bill.series[0].points)
    assert counted * 1e6 == pytest.approx(one.totals[1].value)
    assert len(parts.categories) == len(parts.series[0].points)
    write(one, tmp_path / "v3.html")
    assert "<svg" in (tmp_path / "v3.html").read_text(encoding="utf-8")


def test_sums_keep_their_ends() -> None:
    total = added([Quantity(1.0, "USD", low=0.5, high=2.0), Quantity(3.0, "USD")])
    assert (total.value, total.low, total.high) == (4.0, 3.5, 5.0)
