"""What fewer bits cost: how far a model's predictions are from another's, on text that neither was trained on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fathom.config import ModelConfig, find_model
from fathom.engine import load_model
from fathom.errors import ConfigError
from fathom.model import Batch, OneAtATime, PackedTransformer, Transformer
from fathom.think.dialogues import Dialogue, dialogues
from fathom.tokenizer import Tokenizer

TOKENS = 20_000
BATCH_TOKENS = 4096  # of one forward
ROWS = 512  # predictions compared at a time: bounds what logits take
Scorer = Transformer | PackedTransformer  # whatever reads whole sequences at once


@dataclass(frozen=True)
class Quality:
    """A model beside its reference, on the answers of some dialogues.

    agreement: share of tokens whose likeliest successor is the same. divergence: mean KL divergence of the model's
    distribution from the reference's [nats]: it sees what perplexity, which can fall by luck, does not.
    """

    tokens: int
    perplexity: float
    reference_perplexity: float
    agreement: float
    divergence: float

    @property
    def perplexity_change(self) -> float:
        """Relative to the reference; 0.01 is one per cent worse."""
        return self.perplexity / self.reference_perplexity - 1


@torch.inference_mode()
def compare(reference: Scorer, model: Scorer, given: Sequence[Dialogue]) -> Quality:
    """`model` beside `reference`; the right answers are given, and both predict every token of them."""
    tokens = agreed = 0
    loss = reference_loss = divergence = 0.0
    for batch, ids, rows in _batches(given):
        hidden = [each(ids, batch)[rows] for each in (reference, model)]
        targets = ids[rows + 1]
        for begin in range(0, len(rows), ROWS):
            part = slice(begin, begin + ROWS)
            expected, found = (
                each.logits(h[part]).log_softmax(-1) for each, h in zip((reference, model), hidden, strict=True)
            )
            right = targets[part, None]
            reference_loss -= float(expected.gather(1, right).double().sum())
            loss -= float(found.gather(1, right).double().sum())
            divergence += float((expected.exp() * (expected - found)).double().sum())
            agreed += int((expected.argmax(-1) == found.argmax(-1)).sum())
        tokens += len(rows)
    perplexity, expected_perplexity = (math.exp(each / tokens) for each in (loss, reference_loss))
    return Quality(tokens, perplexity, expected_perplexity, agreed / tokens, divergence / tokens)


def _batches(given: Sequence[Dialogue]) -> Iterator[tuple[Batch, Tensor, Tensor]]:
    """(batch, token ids, rows that predict a token of an answer), dialogues of like length together."""
    ordered = sorted(given, key=lambda each: len(each.prompt) + len(each.answer))
    some: list[Dialogue] = []
    for i, each in enumerate(ordered):
        some.append(each)
        held = sum(len(d.prompt) + len(d.answer) for d in some)
        if i + 1 == len(ordered) or held + len(each.prompt) + len(each.answer) > BATCH_TOKENS:
            ids: list[int] = []
            rows: list[int] = []
            for dialogue in some:
                begin = len(ids) + len(dialogue.prompt) - 1
                rows += range(begin, begin + len(dialogue.answer))
                ids += [*dialogue.prompt, *dialogue.answer]
            lengths = [len(d.prompt) + len(d.answer) for d in some]
            yield Batch.packed(lengths), torch.tensor(ids), torch.tensor(rows)
            some = []


def report(reference: str | Path, model: str | Path, answer_tokens: int = TOKENS, seed: int = 0) -> dict[str, Any]:
    """`compare` of two checkpoints, both as they are stored, on the test split of fathom.tasks.

    Raises: ConfigError: they do not share a vocabulary.
    """
    directories = [find_model(each) for each in (reference, model)]
    configs = [ModelConfig.read(directory) for directory in directories]
    sizes = [config.vocab_size for config in configs]
    if sizes[0] != sizes[1]:
        raise ConfigError(f"{model} has a vocabulary of {sizes[1]}, {reference} one of {sizes[0]}; they must be equal.")
    longest = min(config.max_position_embeddings for config in configs)
    given = dialogues(Tokenizer.load(directories[0]), "test", answer_tokens, seed, longest)
    quality = compare(_scorer(directories[0]), _scorer(directories[1]), given)
    return asdict(quality) | {"perplexity_change": quality.perplexity_change}


def _scorer(directory: Path) -> Scorer:
    model = load_model(directory, numerics="fast")  # the kernels are exact all the same
    assert not isinstance(model, OneAtATime), "fast numerics read whole sequences"
    return model


def described(quality: dict[str, Any]) -> str:
    """A report in one line."""
    return (
        f"{quality['agreement']:.2%} top-1 agreement, perplexity {quality['perplexity']:.4f} "
        f"({quality['perplexity_change']:+.2%}), divergence {quality['divergence']:.5f} nats, "
        f"{quality['tokens']:,} tokens"
    )
