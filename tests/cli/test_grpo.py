"""`fathom grpo`: the check and its exit code, a run and its result, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from fathom.cli import main
from fathom.config import build, read_toml
from fathom.posttrain import grpo
from fathom.posttrain.grpo import GRPOConfig
from tests.posttrain.grpo_tiny import write_model

SMALL = [
    "steps=1", "threads=1", "problems.levels={arithmetic=[1]}", "rollout.groups=2", "rollout.samples=2",
    "rollout.max_tokens=6", "rewards.overlong_tokens=4",
]  # fmt: skip
OPTIONS = [word for each in SMALL for word in ("--set", each)]
RECIPE = Path(__file__).resolve().parents[2] / "recipes/grpo-nano.toml"


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_model(tmp_path_factory.mktemp("grpo") / "model"))


def test_check_passes(model_dir: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["grpo", "--model", model_dir, "--check", "--json", *OPTIONS]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["passed"] and found["gap"] == 0.0 and found["moved"] == 0


def test_check_exits_with_1_when_it_fails(
    model_dir: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = grpo.check
    monkeypatch.setattr(grpo, "check", lambda *args, **options: replace(real(*args, **options), gap=1e-7))
    assert main(["grpo", "--model", model_dir, "--check", *OPTIONS]) == 1
    assert "FAILED: gap 1e-07" in capsys.readouterr().out


def test_a_run_ends_with_a_model(model_dir: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["grpo", "--model", model_dir, "--out", str(tmp_path / "run"), "--json", *OPTIONS]) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert (Path(found["model"]) / "config.json").exists() and found["step"] == 1
    assert "step 1/1" in said.err


def test_the_recipe_is_one() -> None:
    config = build(GRPOConfig, read_toml(RECIPE), "grpo-nano")
    assert config.rollout.groups * config.rollout.samples == 320 and config.objective.normalise == "token"


def test_refused(model_dir: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["grpo", "--model", model_dir, *OPTIONS]) == 2
    assert "--out is not given" in capsys.readouterr().err
    assert main(["grpo", "--model", model_dir, "--out", str(tmp_path), "--set", "optim.lrr=1"]) == 2
    assert "did you mean 'lr'" in capsys.readouterr().err
