"""All that a handful of runs says, on ledgers that follow a known law."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fathom.errors import InputError
from fathom.plan.figures import of_study
from fathom.plan.report import svg
from fathom.plan.study import COMPUTE, SIZES, study
from tests.plan.synthetic import FLOOR, OF_SIZE, OF_TOKENS, score, write_evaluation, write_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("runs")
    for hidden in (64, 128, 256):
        for steps in (100, 400, 1600):
            run = directory / f"{hidden}-{steps}"
            _, _, loss = write_run(run, hidden, steps)
            best = 0.9 - 0.15 * loss
            scores = [
                score(m, best - less, t)
                for m, less, t in (("none", 0.3, 0), ("low", 0.15, 30), ("high", 0.05, 60), ("own", 0.0, 150))
            ]
            write_evaluation(run / "x.eval.json", scores)
    return directory


def test_the_law_of_the_ledgers_is_found(runs: Path) -> None:
    found = study([runs])
    law = found.laws[SIZES]
    assert law.floor == pytest.approx(FLOOR, rel=0.02)
    assert law.exponents == pytest.approx((OF_SIZE[1], OF_TOKENS[1]), rel=0.02)
    assert law.held_out is not None and abs(law.held_out) < 0.01
    assert (
        found.laws[COMPUTE].error > law.error
    )  # compute alone does not tell a small model trained long from a large one
    assert found.thought is not None and found.thought.ceiling == pytest.approx(found.cells[-1].accuracy, abs=0.03)
    assert found.worth is not None and found.worth.measure == "accuracy" and found.notes == ()


def test_json_is_plain_and_charts_are_drawn(runs: Path) -> None:
    found = study([runs])
    table = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert len(table["runs"]) == 9 and set(table["laws"]) == {COMPUTE, SIZES} and table["next_dollar"]["best"]
    loss, thought = of_study(found)
    assert len(loss.series) == 2 and len(thought.series[1].points) == 4 and svg(loss).startswith("<svg")


def test_a_curve_of_ones_own(runs: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("thinking_tokens,accuracy,n\n0,0.1,100\n100,0.4,100\n1000,0.9,100\n")
    found = study([runs], file, thinking_tokens=100.0)
    assert found.worth is not None and found.worth.thinking.value == 100.0 and len(found.cells) == 3


def test_few_runs_say_what_is_missing(tmp_path: Path) -> None:
    for steps in (100, 200, 400):
        write_run(tmp_path / str(steps), 64, steps)
    found = study([tmp_path])
    assert COMPUTE in found.laws and found.worth is None
    assert found.notes == ("loss against parameters and tokens: 3 runs; it takes 5, better twice as many.",)
    for steps in (800, 1600):
        write_run(tmp_path / str(steps), 64, steps)
    assert "parameters is 9.792e+04 in all runs" in study([tmp_path]).notes[0]


def test_bad_input_gets_one_line(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 64, 100, init="nano")
    with pytest.raises(InputError, match="no training run to compare .*continues nano"):
        study([tmp_path])
    with pytest.raises(InputError, match="seed is -1"):
        study([tmp_path], seed=-1)
