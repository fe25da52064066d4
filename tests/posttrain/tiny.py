"""A checkpoint of a few thousand parameters with a tokenizer, and samples that it can learn in a second."""

from dataclasses import replace
from pathlib import Path
from random import Random

import torch

from fathom import tasks
from fathom.checkpoint import save_weights
from fathom.config import ModelConfig
from fathom.model import Transformer, init_weights
from fathom.posttrain.sft import SFTConfig
from fathom.tokenizer import Tokenizer
from fathom.train.data import train_tokenizer
from fathom.train.samples import Sample
from fathom.train.trainer import export_tensors
from tests.train.tiny import MODEL, RECIPE

CONFIG = SFTConfig(
    rows=2, micro_rows=1, row_tokens=128, lr=1e-2, final_lr=1e-3, warmup_steps=2, log_every=1, save_every=2, threads=1,
    compute_dtype="float32",
)  # fmt: skip


def tokenizer() -> Tokenizer:
    return train_tokenizer(RECIPE.data, seed=1)


def write_model(directory: Path, seed: int = 1, **changes) -> Path:
    """A checkpoint with random weights."""
    ids = tokenizer()
    config = replace(ModelConfig.from_dict(MODEL), vocab_size=ids.vocab_size, torch_dtype="float32", **changes)
    config = replace(config, bos_token_id=ids.bos_id, eos_token_id=ids.eos_id)
    model = init_weights(Transformer(config), std=0.2, seed=seed)
    save_weights(directory, export_tensors(model, torch.float32), config.to_dict(), extra_files=ids.files())
    return directory


def samples(count: int = 12, seed: int = 0) -> list[Sample]:
    """Every third answers without thinking."""
    rng = Random(seed)
    problems = [tasks.draw("sorting", 1, "train", rng) for _ in range(count)]
    return [
        Sample(({"role": "user", "content": p.prompt},), p.trace if i % 3 else None, p.reply, key=p.key)
        for i, p in enumerate(problems)
    ]
