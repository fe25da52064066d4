"""Measured accuracy, read from evaluations and from CSV."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from fathom.errors import InputError
from fathom.plan.curves import Cell, joined, read_curve, wilson
from tests.plan.synthetic import score, write_evaluation


def test_an_evaluation_is_read_cell_by_cell(tmp_path: Path) -> None:
    known = {"majority_at": {"1": 0.5, "4": 0.6}, "pass_at": {"4": 0.8}}
    many = score("own", 0.5, 100) | known | {"samples": 4, "right": [4, 0] * 50}
    write_evaluation(tmp_path / "a.eval.json", [score("none", 0.2, 0), many])
    none, own, majority, best = read_curve(tmp_path / "a.eval.json")
    assert (none.kind, none.mode, none.accuracy, none.thinking, none.n) == ("sums 1 en", "none", 0.2, 0.0, 100)
    assert own.right[:2] == (1.0, 0.0) and len(own.used) == 100
    assert (majority.label, majority.accuracy) == ("own, majority of 4", 0.6)
    assert (best.label, best.accuracy) == ("own, best by a checker of 4", 0.8)


def test_the_evaluation_in_the_package_is_read() -> None:
    cells = joined(read_curve("fathom/weights/nano/evaluation.json"))
    table = json.loads(Path("fathom/weights/nano/evaluation.json").read_text())
    by_hand = [s for s in table if s["effort"] == "own"]
    own = next(cell for cell in cells if cell.mode == "own")
    assert own.accuracy == pytest.approx(sum(s["correct"] for s in by_hand) / sum(s["n"] for s in by_hand))


def test_modes_are_joined_over_the_kinds_that_all_were_asked() -> None:
    cells = [
        Cell("a", "none", 0.2, 0.0, n=100), Cell("a", "own", 0.6, 50.0, n=100), Cell("b", "none", 0.0, 0.0, n=300),
        Cell("b", "own", 0.2, 90.0, n=300), Cell("c", "own", 1.0, 1.0, n=1000),
    ]  # fmt: skip
    none, own = joined(cells)
    assert (none.accuracy, none.n) == (pytest.approx(0.05), 400)
    assert (own.accuracy, own.thinking) == (pytest.approx(0.3), pytest.approx(80.0))


def test_a_csv_is_read(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("thinking_tokens, accuracy,n,samples\n300,0.4,200,1\n1000,0.7,,8\n")
    short, many = read_curve(file)
    assert (short.thinking, short.accuracy, short.n, short.samples) == (300.0, 0.4, 200, 1)
    assert many.label == "1000 tokens, majority of 8" and many.interval() is None


def test_wilson_by_its_equation() -> None:
    """The ends solve (p - end)^2 = z^2 end (1 - end) / n."""
    for p, n in ((0.3, 40), (0.0, 10), (1.0, 25)):
        for end in wilson(p, n):
            assert (p - end) ** 2 == pytest.approx(1.2815515655**2 * end * (1 - end) / n, abs=1e-9)
    assert math.isclose(sum(wilson(0.5, 77)), 1.0)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "thinking_tokens\n3\n", "no column accuracy"),
        ("a.csv", "thinking_tokens,accuracy,tokns\n1,0.5,1\n", "unknown column 'tokns'"),
        ("a.csv", "thinking_tokens,accuracy\n1,1.5\n", "line 2: an accuracy of 1.5"),
        ("a.csv", "thinking_tokens,accuracy\nx,0.5\n", "line 2"),
        ("a.csv", "thinking_tokens,accuracy\n", "holds no measurement"),
        ("a.csv", "thinking_tokens,accuracy,samples\n1,0.5,0\n", "samples 0"),
        ("a.eval.json", "{}", "not a result of an evaluation"),
        ("a.eval.json", '{"scores": [{"effort": "x"}]}', "not a result of an evaluation (KeyError"),
        ("a.eval.json", '{"scores": [3]}', "not a result of an evaluation"),
        ("a.eval.json", "[", "not valid JSON"),
    ],
)
def test_bad_files_get_one_line(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError) as caught:
        read_curve(tmp_path / name)
    assert message in str(caught.value) and "\n" not in str(caught.value)
