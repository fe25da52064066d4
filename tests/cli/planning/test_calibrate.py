"""`fathom plan calibrate` measures, writes a profile and shows how well it foresees. No timing is judged."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from fathom.cli import INTERRUPTED, main
from fathom.cli.planning import calibrate
from fathom.engine.probe import Kernel
from fathom.plan.calibrate import read_profile
from tests.ops.conftest import library, native
from tests.plan.machine import KERNELS

__all__ = ["library", "native"]


@pytest.fixture(autouse=True)
def quick(native, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Kernels that are not measured, and few turns."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fathom.engine.probe.kernels", lambda model: (Kernel(**asdict(k)) for k in KERNELS))
    monkeypatch.setattr(calibrate, "MOST_ROUNDS", 1)


def words(model: Path, *more: str) -> list[str]:
    return ["plan", "calibrate", str(model), "--threads", "1", "--points", "4", *more]


def test_a_profile_is_written_and_shown(tiny_model: Path, tmp_path: Path, capsys) -> None:
    assert main(words(tiny_model, "--check", "3", "--out", "mine.json")) == 0
    said, progress = capsys.readouterr()
    known = read_profile(tmp_path / "mine.json")
    assert len(known.points) == 4 and known.kind == "i8" and known.machine.threads == 1
    for words_ in (
        f"{len(KERNELS)} kernels and 4 steps",
        "fitted to",
        "unseen",
        "80 % interval [ms]",
        "written to mine.json",
    ):
        assert words_ in said
    assert max(map(len, said.splitlines())) <= 120
    assert progress.count("kernel ") == len(KERNELS) and "step 4 of 4: " in progress and "step 3 of 3: " in progress


def test_json_is_one_object(tiny_model: Path, capsys) -> None:
    assert main(words(tiny_model, "--check", "2", "--json")) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["out"] == "profile.json" and len(found["profile"]["points"]) == 4
    assert found["checks"].keys() == {"rows", "median_error", "largest_error", "inside_share"}
    assert found["checks"]["rows"][0]["predicted"]["unit"] == "s"


@pytest.mark.parametrize("bad", [["--points", "0"], ["--minutes", "0"], ["--check", "-1"], ["--bits", "7"]])
def test_bad_input_is_one_line_and_exit_2(bad: list[str], tiny_model: Path, tmp_path: Path, capsys) -> None:
    assert main(words(tiny_model, *bad)) == 2
    assert capsys.readouterr().err.count("\n") == 1 and not list(tmp_path.glob("*.json"))


def test_an_interrupted_run_leaves_no_file(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fathom.engine.probe.measure", interrupted)
    assert main(words(tiny_model)) == INTERRUPTED
    assert not list(tmp_path.iterdir())
