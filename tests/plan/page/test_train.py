"""The section about training is the bill of report.py, in parts that add up."""

from __future__ import annotations

import pytest

from fathom.errors import RequestError
from fathom.plan.page.fields import Asked
from fathom.plan.page.train import answer, training


def test_the_published_run_costs_about_what_was_published() -> None:
    found = answer(Asked({}))
    numbers = dict(found.numbers)
    assert numbers["Cost"].value == pytest.approx(5.576e6, rel=0.1)
    assert numbers["Days"].value < 62
    assert numbers["Per trillion tokens"].value == pytest.approx(180e3, rel=0.1)


def test_the_lines_add_up_to_the_headline() -> None:
    found = answer(Asked({"train_price": "3", "tokens": "1T"}))
    (bill, _) = found.tables
    usd, counted = bill.head.index("USD"), bill.head.index("in the headline")
    total = sum(row[usd] for row in bill.rows if row[counted] == "yes")
    assert dict(found.numbers)["Cost"].value == pytest.approx(total)
    assert dict(found.numbers)["Device hours"].value * 3 == pytest.approx(total)
    step, _ = found.plots
    assert sum(y for _, y in step.chart.series[0].points) == pytest.approx(
        training(Asked({"tokens": "1T"})).quantities["step"].value
    )


def test_a_run_that_cannot_be_is_laid_at_its_input() -> None:
    with pytest.raises(RequestError, match="does not train|cannot be divided") as caught:
        answer(Asked({"trained_on": "8"}))
    assert caught.value.param == "trained_on"
    with pytest.raises(RequestError, match="no price of A100") as caught:
        answer(Asked({"gpu": "a100_sxm", "model": "llama-3.1-8b", "trained_on": "64"}))
    assert caught.value.param == "train_price"
