"""The run: agrees with the engine to the bit, resumes to the bit, learns, and leaves a model that loads."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fathom import ops
from fathom.batching import SamplingParams
from fathom.checkpoint import load_latest
from fathom.engine import LLM
from fathom.errors import ConfigError
from fathom.posttrain import grpo, rewards
from fathom.posttrain.grpo import GRPO, check
from fathom.posttrain.rewards import RewardConfig
from fathom.posttrain.rollout import RolloutConfig
from fathom.train.ledger import read
from tests.posttrain.grpo_tiny import TINY, write_model


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("grpo") / "model")


def state(run_dir: Path) -> dict[str, torch.Tensor]:
    found = load_latest(run_dir)
    assert found is not None
    return found[1]


def test_check_finds_no_gap_and_moves_nothing(model_dir: Path) -> None:
    found = check(model_dir, TINY)
    assert found.passed and found.exact and found.moved == 0
    assert found.gap == 0.0 and found.ratio_low == found.ratio_high == 1.0
    assert found.torch_gap > 0.0, "torch alone would not have agreed"


def test_check_fails_where_numerics_are_not_exact(model_dir: Path) -> None:
    with ops.use("reference"):
        found = check(model_dir, TINY, steps=1)
    assert not found.exact and not found.passed and found.moved == 0 and 0.0 < found.gap < 1e-3


def test_check_at_another_temperature(model_dir: Path) -> None:
    assert check(model_dir, replace(TINY, rollout=replace(TINY.rollout, temperature=0.7)), steps=1).passed


def test_resumed_equals_uninterrupted(model_dir: Path, tmp_path: Path) -> None:
    whole = GRPO(model_dir, tmp_path / "whole", TINY).run()
    first = GRPO(model_dir, tmp_path / "parts", TINY)
    assert first.run(lambda step: first.interrupt() if step.step == 1 else None) is None
    second = GRPO(model_dir, tmp_path / "parts", TINY)
    assert second.step == 1
    resumed = second.run()
    assert whole is not None and resumed is not None
    one, other = state(tmp_path / "whole"), state(tmp_path / "parts")
    assert one.keys() == other.keys() and any(name.startswith("reference.") for name in one)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert (whole / "model.safetensors").read_bytes() == (resumed / "model.safetensors").read_bytes()


def test_an_interrupt_while_sampling_saves_the_step_before(model_dir: Path, tmp_path: Path) -> None:
    job = GRPO(model_dir, tmp_path, TINY)
    generate = job.actor.generate

    def interrupted(prompts, seeds, stop):
        job.interrupt()
        return generate(prompts, seeds, stop)

    job.actor.generate = interrupted
    assert job.run() is None
    assert load_latest(tmp_path)[0] == 0
    assert [event["event"] for event in read(tmp_path)] == ["start", "save", "interrupted"]


def test_the_ledger_says_what_a_step_did(model_dir: Path, tmp_path: Path) -> None:
    target = GRPO(model_dir, tmp_path, TINY).run()
    steps = [event for event in read(tmp_path) if event["event"] == "step"]
    assert [event["step"] for event in steps] == [1, 2, 3]
    for event in steps:
        assert event["gap"] == 0.0 and event["torch_gap"] > 0
        assert {"parts", "families", "zero_variance", "kl", "clip_share", "mtp_loss", "rollout_s", "update_s"} <= set(
            event
        )
    assert steps[0]["kl"] >= 0.0 and any(event["ratio_high"] > 1.0 for event in steps), "later mini-batches moved"
    assert LLM(target).generate("1+1=", SamplingParams(max_tokens=4))[0].token_ids, "what is exported answers"


def test_the_reference_follows_every_so_many_steps(model_dir: Path, tmp_path: Path) -> None:
    job = GRPO(model_dir, tmp_path, TINY)
    first = job.reference.tensors()
    job.one_step()
    assert all(torch.equal(tensor, job.reference.tensors()[name]) for name, tensor in first.items())
    job.one_step()
    assert all(torch.equal(tensor, job.reference.tensors()[name]) for name, tensor in job.model.state_dict().items())


def test_it_learns(model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bandit: say letters. Some steps bring it from two in five to nearly always."""

    def letters(group, _):
        texts = [answer.thought + answer.reply for answer in group]
        return [sum(c.isascii() and c.isalpha() for c in text) / max(1, len(text)) for text in texts]

    monkeypatch.setitem(rewards.REWARDS, "letters", letters)
    config = replace(
        TINY, steps=10, rollout=RolloutConfig(groups=4, samples=8, max_tokens=4, at_once=32),
        rewards=RewardConfig(weights={"letters": 1.0}, overlong_tokens=4), objective=replace(TINY.objective, kl=0.0),
        optim=replace(TINY.optim, lr=3e-2, micro_tokens=4096),
    )  # fmt: skip
    job = GRPO(model_dir, tmp_path, config)
    found = [job.one_step().reward for _ in range(config.steps)]
    assert found[0] < 0.5 and found[-1] > found[0] + 0.3, found


def test_cut_off_answers_are_warned_about(model_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        GRPO(model_dir, tmp_path, TINY).one_step()
    assert "cut off at 8 tokens" in caplog.text


def test_another_configuration_does_not_resume(model_dir: Path, tmp_path: Path) -> None:
    job = GRPO(model_dir, tmp_path, replace(TINY, steps=1))
    job.run()
    assert GRPO(model_dir, tmp_path, replace(TINY, steps=2)).step == 1  # longer is the same run
    with pytest.raises(ConfigError, match="seed is 7"):
        GRPO(model_dir, tmp_path, replace(TINY, seed=7))


def test_refused() -> None:
    with pytest.raises(ConfigError, match="steps is 0"):
        grpo.GRPOConfig(steps=0)
