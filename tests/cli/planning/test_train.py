"""`fathom plan train` answers the published case in one command, and refuses in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fathom.cli import main
from fathom.cli.planning.train import amount, axes
from fathom.errors import ConfigError

V3 = ["plan", "train", "deepseek-v3", "--tokens", "14.8T", "--gpu", "h800", "--gpus", "2048", "--price", "2"]


def test_the_published_bill_of_v3(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main([*V3, "--json", "--html", str(tmp_path / "v3.html")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["usd_in_all"]["value"] == pytest.approx(5.576e6, rel=0.1)
    assert found["hours_per_trillion"]["value"] == pytest.approx(180e3, rel=0.1)
    assert found["days"]["value"] < 62
    assert "<svg" in (tmp_path / "v3.html").read_text(encoding="utf-8")


def test_the_table_says_what_the_headline_leaves_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(V3) == 0
    table = capsys.readouterr().out
    for line in ("mixture ablations", "failed and repeated runs", "synthetic data", "a reasoner, as R1", "fits"):
        assert line in table
    assert max(map(len, table.splitlines())) <= 120


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (["--layout", "pp17"], "does not divide"),
        (["--layout", "zz4"], "none of pp"),
        (["--layout", "pp0"], "none of pp"),
        (["--gpus", "0"], "at least 1"),
        (["--gpus", "8"], "use"),
        (["--gpu", "h900"], "not known"),
        (["--schedule", "gpipe"], "use one of"),
        (["--precision", "fp3"], "bf16 or fp8"),
        (["--tokens", "many"], "no number of tokens"),
        (["--tokens", "0"], "above 0"),
        (["--seq", "0"], "seq is 0"),
        (["--batch", "7"], "a batch of 7"),
        (["--failed", "-1"], "failed is -1"),
        (["--software", "none"], "not known"),
        (["--recompute", "some"], "none, norms"),
    ],
)
def test_bad_input_is_refused_in_one_line(change: list[str], what: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*V3, *change]) != 0
    said = capsys.readouterr().err.strip()
    assert what in said and "\n" not in said and "Traceback" not in said


def test_amounts_and_axes_are_read_as_written() -> None:
    assert amount("14.8T") == 14.8e12 and amount("600b") == 600e9 and amount("1e12") == 1e12
    assert axes("pp16,ep64") == {"pp": 16, "tp": 1, "cp": 1, "ep": 64, "vp": 1}
    with pytest.raises(ConfigError):
        amount("14.8X")
