"""Supervised fine-tuning: a checkpoint learns the thoughts and replies of samples (DeepSeek-V3, section 5.1).

Samples are packed into rows whole and do not see each other; loss is taken on thought and reply, not on what was asked.
V3 takes two epochs and a cosine from 5e-6 to 1e-6. Small models want more: the defaults here are for fathom-nano.
"""

from __future__ import annotations

import hashlib
import logging
from array import array
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fathom.config import find_model
from fathom.errors import ConfigError, InputError
from fathom.tokenizer import Tokenizer
from fathom.train.ledger import Ledger
from fathom.train.loss import LossConfig
from fathom.train.optim import OptimConfig
from fathom.train.packing import Document, Epochs, Packed, pack
from fathom.train.samples import Sample
from fathom.train.trainer import Progress, Recipe, TrainConfig, Trainer

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SFTConfig:
    """How samples are read and learned."""

    epochs: int = 2
    lr: float = 5e-4  # V3: 5e-6
    final_lr: float = 5e-5  # V3: 1e-6
    warmup_steps: int = 10
    rows: int = 8  # of row_tokens at most, in one optimiser step
    micro_rows: int = 0  # in one forward; 0: all of them
    row_tokens: int = 512
    seed: int = 0
    weight_decay: float = 0.1
    clip_norm: float = 1.0
    mtp: float = 0.3  # weight of the MTP loss: the module must go along, or drafts go stale
    mtp_depth: int = 1  # guesses in a row that it learns to make (train/loss.py)
    balance: float = 1e-4
    bias_speed: float = 0.0  # of the correction bias; 0 keeps it, as V3 did when pretraining ended
    obeys_effort: bool | None = None  # what the new checkpoint says of itself (config/effort.py); None: as the old
    compute_dtype: str = "bfloat16"
    log_every: int = 10
    save_every: int = 100
    threads: int = 0  # 0: torch's choice

    def __post_init__(self) -> None:
        for name in ("epochs", "rows", "row_tokens", "log_every", "save_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1.")

    def recipe(self, init: Path, steps: int) -> Recipe:
        """What the trainer is told."""
        if steps <= self.warmup_steps:
            log.warning("%d steps end within warmup_steps=%d: the rate never reaches lr", steps, self.warmup_steps)
        return Recipe(
            train=TrainConfig(
                init=str(init), steps=steps, rows=self.rows, micro_rows=self.micro_rows or self.rows, seed=self.seed,
                compute_dtype=self.compute_dtype, log_every=self.log_every, save_every=self.save_every,
                threads=self.threads,
            ),
            optim=OptimConfig(
                schedule="cosine", lr=self.lr, final_lr=self.final_lr, warmup_steps=self.warmup_steps,
                weight_decay=self.weight_decay, clip_norm=self.clip_norm, bias_speed=self.bias_speed,
            ),
            loss=LossConfig(mtp=self.mtp, balance=self.balance, mtp_depth=self.mtp_depth),
        )  # fmt: skip


class SampleData:
    """Encoded samples as a trainer reads them: packed into rows, shuffled anew each epoch."""

    def __init__(self, documents: Sequence[Document], config: SFTConfig) -> None:
        self.documents, self.row_tokens = documents, config.row_tokens
        lengths = [len(prompt) + len(answer) for prompt, answer in documents]
        self.epochs = Epochs(lengths, config.row_tokens, config.rows, config.epochs, config.seed)
        self.facts: dict[str, Any] = {
            "samples": len(documents), "sha256": fingerprint(documents), "row_tokens": config.row_tokens,
            "epochs": config.epochs, "rows": self.epochs.rows, "steps_per_epoch": self.epochs.steps_per_epoch,
            "tokens": sum(lengths), "answer_tokens": sum(len(answer) for _, answer in documents),
            "fill": sum(lengths) / (self.epochs.rows * config.row_tokens),
        }  # fmt: skip

    def batch(self, step: int, rows: int, first_row: int = 0) -> Packed:
        """Rows first_row .. first_row + rows of a step, or as many of them as it has."""
        chosen = self.chosen(step, rows, first_row)
        return pack([[self.documents[index] for index in row] for row in chosen])

    def chosen(self, step: int, rows: int, first_row: int) -> list[list[int]]:
        """The documents of those rows, by number."""
        return self.epochs.step(step)[first_row : first_row + rows]


def encode(samples: Sequence[Sample], tokenizer: Tokenizer, row_tokens: int) -> list[Document]:
    """Token ids of the samples that fit in a row; how many do not is said in a warning.

    Raises:  InputError: none fits.
    """
    documents = [sample.encode(tokenizer) for sample in samples]
    return [documents[index] for index in fitting(documents, row_tokens)]


def fitting(documents: Sequence[Document], row_tokens: int) -> list[int]:
    """Numbers of the documents that fit in a row; how many do not is said in a warning."""
    lengths = [len(prompt) + len(answer) for prompt, answer in documents]
    kept = [index for index, length in enumerate(lengths) if length <= row_tokens]
    if not kept:
        raise InputError(f"none of {len(lengths)} samples fits in row_tokens={row_tokens}; raise it, or give others.")
    if len(kept) < len(lengths):
        log.warning(
            "%d of %d samples are longer than row_tokens=%d and are left out; the longest has %d tokens",
            len(lengths) - len(kept), len(lengths), row_tokens, max(lengths),
        )  # fmt: skip
    return kept


def fingerprint(documents: Sequence[Document]) -> str:
    """SHA-256 of token ids and of where the answers begin."""
    digest = hashlib.sha256()
    for prompt, answer in documents:
        digest.update(array("i", [len(prompt), len(answer), *prompt, *answer]).tobytes())
    return digest.hexdigest()


def train_on(
    samples: Sequence[Sample], model_dir: Path | str, run_dir: Path, config: SFTConfig | None = None,
    report: Callable[[Progress], None] = lambda progress: None, device: str = "cpu",
) -> Path | None:  # fmt: skip
    """Fine-tune the checkpoint `model_dir` on samples; called again with the same, it goes on where it stopped.

    Returns: directory of the new checkpoint (bfloat16), or None if interrupted: the state is saved in `run_dir`.
    """
    config = config or SFTConfig()
    model_dir = find_model(model_dir)
    documents = encode(samples, Tokenizer.load(model_dir), config.row_tokens)
    source = SampleData(documents, config)
    trainer = Trainer(config.recipe(model_dir, source.epochs.steps), run_dir, device, source=source)
    if config.obeys_effort is not None:
        trainer.tokenizer.settings["obeys_effort"] = config.obeys_effort
    ledger = Ledger(run_dir)
    dropped = len(samples) - len(documents)
    ledger.append("sft", model=str(model_dir), dropped=dropped, config=asdict(config), **source.facts)
    ledger.close()
    return trainer.run(report)
