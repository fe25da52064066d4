"""The planner reads what the trainer wrote: the same tokens, parameters, FLOPs and loss."""

from dataclasses import replace

import pytest

from fathom.plan.runs import read_runs
from fathom.train.ledger import read
from fathom.train.trainer import Trainer
from tests.train.tiny import RECIPE


def test_a_run_is_what_the_trainer_did(tmp_path) -> None:
    trainer = Trainer(replace(RECIPE, train=replace(RECIPE.train, steps=2)), tmp_path / "run")
    trainer.run()
    (run,), left_out = read_runs([tmp_path])
    assert left_out == ()
    mtp = f"model.layers.{trainer.config.num_hidden_layers}."
    weights = [*trainer.model.named_parameters(), *trainer.model.named_buffers()]
    assert run.parameters == sum(p.numel() for name, p in weights if not name.startswith(mtp))
    assert run.tokens == 2 * trainer.tokens_per_step
    assert run.flops == run.tokens * trainer.flops_per_token
    losses = [event["loss"] for event in read(tmp_path / "run") if event["event"] == "step"]
    assert run.loss == pytest.approx(losses[-1])
