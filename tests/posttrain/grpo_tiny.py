"""A model with an MTP module, a tokenizer of the tasks, and a run that takes a second."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from random import Random

from fathom import tasks
from fathom.checkpoint import save_weights
from fathom.model import Transformer, init_weights
from fathom.posttrain.grpo import GRPOConfig
from fathom.posttrain.objective import ObjectiveConfig
from fathom.posttrain.prompts import ProblemConfig
from fathom.posttrain.rewards import RewardConfig
from fathom.posttrain.rollout import RolloutConfig
from fathom.posttrain.update import OptimiserConfig
from fathom.tokenizer import Tokenizer
from tests.model.tiny import CONFIG

PROBLEMS = ProblemConfig(levels={"arithmetic": [1], "chain": [1]}, controls={"budget": 0.2, "direct": 0.6})
TINY = GRPOConfig(
    steps=3,
    save_every=2,
    threads=1,
    problems=PROBLEMS,
    rollout=RolloutConfig(groups=3, samples=3, max_tokens=8, at_once=8),
    rewards=RewardConfig(weights={"accuracy": 1.0, "format": 1.0, "language": 1.0, "overlong": 0.5}, overlong_tokens=4),
    objective=ObjectiveConfig(kl=0.1, ref_every=2),
    optim=OptimiserConfig(lr=1e-2, mtp_lr=1e-2, mini_batches=2, micro_tokens=64),
)


@cache
def tokenizer() -> Tokenizer:
    rng = Random(0)
    problems = [tasks.draw("arithmetic", 1, "train", rng) for _ in range(50)]
    return Tokenizer.train([text for p in problems for text in (p.prompt, p.trace, p.reply)], 320, digits=1)


@cache
def tiny() -> Transformer:
    """Weights wide enough that every token depends on all before it."""
    ids = {"bos_token_id": tokenizer().bos_id, "eos_token_id": tokenizer().eos_id}
    config = replace(CONFIG, vocab_size=tokenizer().vocab_size, torch_dtype="float32", **ids)
    return init_weights(Transformer(config), std=0.15, seed=1)


def write_model(directory: Path) -> Path:
    save_weights(directory, tiny().state_dict(), tiny().config.to_dict(), extra_files=tokenizer().files())
    return directory
