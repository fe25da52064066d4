"""Runs, read from the ledgers that the trainer writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fathom.config import ModelConfig
from fathom.cost import parameters, training_flops
from fathom.errors import InputError
from fathom.plan.runs import Run, read_runs
from tests.plan.synthetic import MODEL, score, write_evaluation, write_run


def test_a_run_is_its_size_its_tokens_and_its_last_losses(tmp_path: Path) -> None:
    activated, tokens, loss = write_run(tmp_path / "a", 64, 100)
    (run,), left_out = read_runs([tmp_path])
    config = ModelConfig.from_dict({**MODEL, "hidden_size": 64}, "test")
    assert (run.activated, run.tokens, left_out) == (activated, tokens, ())
    assert run.parameters == parameters(config) and run.loss == pytest.approx(loss)
    assert run.flops == tokens * training_flops(config, 128, mtp=True)


def test_runs_are_found_below_and_in_order_of_compute(tmp_path: Path) -> None:
    for name, steps in (("x/c", 400), ("a", 100), ("x/b", 200)):
        write_run(tmp_path / name, 64, steps)
    runs, _ = read_runs([tmp_path, tmp_path / "x"])
    assert [Path(run.name).name for run in runs] == ["a", "b", "c"]


def test_what_cannot_be_compared_is_named(tmp_path: Path) -> None:
    write_run(tmp_path / "tuned", 64, 100, init="nano")
    (tmp_path / "grpo").mkdir()
    (tmp_path / "grpo" / "ledger.jsonl").write_text('{"event": "start", "stage": "grpo"}\n')
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "ledger.jsonl").write_text(
        '{"event": "start", "recipe": {"train": {}, "model": {"x": 1}, "data": {"vocab_size": 9}}, '
        '"tokens_per_step": 1}\n'
        '{"event": "step", "step": 1, "loss": 2.0}\n'
    )
    runs, left_out = read_runs([tmp_path])
    reasons = {Path(one.name).name: one.reason for one in left_out}
    assert runs == () and reasons["tuned"] == "continues nano" and reasons["grpo"] == "no training steps in it"
    assert "cannot be read" in reasons["odd"]


def test_a_resumed_run_counts_each_step_once_and_a_cut_line_is_left_out(tmp_path: Path) -> None:
    _, tokens, loss = write_run(tmp_path / "a", 64, 100)
    file = tmp_path / "a" / "ledger.jsonl"
    lines = file.read_text().splitlines()
    again = json.loads(lines[0]) | {"step": 95}
    file.write_text("\n".join([*lines, json.dumps(again), lines[-1], '{"event": "st']))
    (run,), _ = read_runs([tmp_path / "a"])
    assert (run.tokens, run.loss) == (tokens, pytest.approx(loss))


def test_the_newest_evaluation_belongs_to_the_run(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 64, 100)
    write_evaluation(tmp_path / "a" / "x.eval.json", [score("own", 0.5, 40), score("none", 0.2, 0)])
    (run,), _ = read_runs([tmp_path])
    assert isinstance(run, Run) and {cell.label: cell.accuracy for cell in run.cells} == {"own": 0.5, "none": 0.2}


def test_no_directory_or_no_ledger_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a directory"):
        read_runs([tmp_path / "missing"])
    with pytest.raises(InputError, match="no ledger.jsonl below"):
        read_runs([tmp_path])
