"""`fathom plan scaling` prints the laws."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fathom.cli import main
from tests.plan.synthetic import score, write_evaluation, write_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("r")
    for hidden in (64, 128, 256):
        for steps in (100, 400, 1600):
            _, _, loss = write_run(directory / f"{hidden}-{steps}", hidden, steps)
            scores = [
                score(m, 0.9 - 0.15 * loss - less, t) for m, less, t in (("a", 0.2, 0), ("b", 0.1, 30), ("c", 0, 90))
            ]
            write_evaluation(directory / f"{hidden}-{steps}" / "x.eval.json", scores)
    write_run(directory / "tuned", 64, 100, init="nano")
    return directory


def test_laws_and_the_next_dollar(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "a.html"
    assert main(["plan", "scaling", str(runs), "--html", str(page)]) == 0
    table = capsys.readouterr().out
    for words in (
        "left out",
        "continues nano",
        "exponent of tokens",
        "more tokens",
        "longer thought",
        "best by accuracy",
    ):
        assert words in table
    assert page.read_text().count("<svg") == 2


def test_json(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "scaling", str(runs), "--set", "answers.lifetime=10", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["runs"]) == 9 and found["next_dollar"]["best"] == "longer thought"
    assert found["laws"]["parameters and tokens"]["exponent of tokens"]["value"] == pytest.approx(0.45, rel=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [(["missing"], "missing is not a directory"), (["docs"], "no ledger.jsonl below docs")],
)
def test_bad_input_gets_one_line(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "scaling", *options]) == 2
    said = capsys.readouterr().err
    assert message in said and len(said.strip().splitlines()) == 1
