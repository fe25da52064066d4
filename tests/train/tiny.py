"""A recipe that trains in a second."""

from dataclasses import replace

from fathom.train.data import DataConfig
from fathom.train.optim import OptimConfig
from fathom.train.trainer import Recipe, TrainConfig
from tests.model.tiny import CONFIG

MODEL = replace(CONFIG, rope_scaling=None, vocab_size=320).to_dict()
RECIPE = Recipe(
    model=MODEL,
    data=DataConfig(row_tokens=128, vocab_size=320, tokenizer_documents=200),
    train=TrainConfig(steps=6, rows=2, micro_rows=1, init_std=0.05, save_every=2, log_every=1, threads=1),
    optim=OptimConfig(lr=1e-2, warmup_steps=2),
)
