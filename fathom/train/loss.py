"""What training minimises: next token, token after next (MTP), and the balance of experts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fathom import ops
from fathom.errors import ConfigError
from fathom.model import Batch, Routing, Transformer
from fathom.train.packing import Packed

#: What a prediction costs: (documents, logits [rows, vocabulary], place of each predicted token [rows]) -> [rows].
Criterion = Callable[[Packed, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class LossConfig:
    """Weights of the parts. Defaults are DeepSeek-V3's (section 4.2).

    mtp_depth: guesses in a row that MTP learns to make, at least one for each module. A module that learned one, as
               V3's, goes astray once it is fed its own guesses; longer drafts want one that was trained on them.
    """

    mtp: float = 0.3
    balance: float = 1e-4
    mtp_depth: int = 1

    def __post_init__(self) -> None:
        if self.mtp_depth < 1:
            raise ConfigError(f"loss.mtp_depth is {self.mtp_depth}; it must be at least 1 (mtp = 0 leaves MTP out).")


@dataclass
class Losses:
    """Sums over a micro-batch; divide by the counts of the whole batch. mtp: the mean of all depths.

    mtp_correct: guesses from the model's own states that are right.
    """

    total: Tensor  # what to differentiate, already divided
    main: float
    mtp: float
    balance: float
    mtp_correct: int


def next_token(packed: Packed, logits: Tensor, places: Tensor) -> Tensor:
    """Cross-entropy with the tokens that came: the criterion of pretraining and fine-tuning [rows]."""
    return ops.cross_entropy(logits, packed.tokens.to(logits.device)[places])


def compute(
    model: Transformer, packed: Packed, config: LossConfig, counted_in_batch: int, rows_in_batch: int,
    routing: Routing, criterion: Criterion = next_token,
) -> Losses:  # fmt: skip
    """Loss of one micro-batch as its share of the whole batch.

    Args:    counted_in_batch: predicted tokens in the whole batch; rows_in_batch: its rows. routing: filled here.
             criterion: what a prediction costs, of the model itself and of its MTP module.
    """
    device = model.lm_head.weight.device
    tokens, counted = packed.tokens.to(device), packed.counted.to(device)
    batch = Batch.packed(packed.lengths, device=device, routing=routing)
    hidden = model(tokens, batch)
    last = torch.tensor(packed.lengths, device=device).cumsum(0) - 1

    rows, _ = predictions(tokens, counted, last, ahead=1)
    main = criterion(packed, model.logits(hidden[rows]), rows + 1).sum()
    mtp, correct = torch.zeros((), device=device), 0
    if model.config.num_nextn_predict_layers and config.mtp:
        rows, targets = predictions(tokens, counted, last, ahead=2)
        depth = max(config.mtp_depth, model.mtp_modules)
        for step, ahead in enumerate(guesses(model, hidden, tokens, batch, depth)):
            logits = model.logits(ahead[rows])
            mtp = mtp + criterion(packed, logits, rows + 2).sum() / depth
            correct += 0 if step else int((logits.argmax(-1) == targets).sum())
    balance = balance_loss(routing, packed.row_lengths or packed.rows, model.config.num_experts_per_tok) / rows_in_batch
    total = (main + config.mtp * mtp) / counted_in_batch + config.balance * balance
    return Losses(total, main.item(), mtp.item(), balance.item(), correct)


def guesses(model: Transformer, hidden: Tensor, tokens: Tensor, batch: Batch, depth: int) -> Iterator[Tensor]:
    """States that predict the token after next: from the model's own states, from those guesses, from theirs, ...

    As the engine drafts (engine/speculative.py): a guess stands on the module's own output at the position before it;
    the last module goes on alone. At the first position of a document, where nothing is before, the model's own state
    takes its place. The engine's keys of earlier positions come from the model's states, these from the guesses before.
    """
    begins = (batch.positions == 0)[:, None]
    following, ahead = tokens.roll(-1), hidden
    for step in range(depth):
        module = min(step, model.mtp_modules - 1)
        if step:
            ahead = torch.where(begins, hidden, ahead.roll(1, 0))
            if module < step:
                batch = replace(batch, routing=None)  # the balance is that of its first time
        ahead = model.predict_ahead(ahead, following, batch, depth=module)
        yield ahead


def predictions(tokens: Tensor, counted: Tensor, last: Tensor, ahead: int) -> tuple[Tensor, Tensor]:
    """Rows that predict the token `ahead` of them, and that token, where it counts and lies in the same document.

    Args:    last: index of each document's last token.
    """
    inside = torch.ones_like(counted)
    for back in range(ahead):  # the last `ahead` rows of a document predict nothing in it
        inside[(last - back).clamp_min(0)] = False
    rows = (inside & counted.roll(-ahead)).nonzero()[:, 0]
    return rows, tokens[rows + ahead]


def balance_loss(routing: Routing, rows: int | Sequence[int], top_k: int) -> Tensor:
    """Sequence-wise balance loss, summed over rows and MoE layers; 1 for each at perfect balance (V3, eq. 17-20).

    f counts the experts really chosen (bias included), P is the mean normalised affinity; gradient flows through P.

    Args:    rows: how many of equal length, or the length of each.
    """
    total = torch.zeros(())
    for layer, affinity in routing.affinity.items():
        experts = affinity.shape[-1]
        lengths = [len(affinity) // rows] * rows if isinstance(rows, int) else list(rows)
        for ids, part in zip(routing.ids[layer].split(lengths), affinity.split(lengths), strict=True):
            share = (part / part.sum(-1, keepdim=True)).mean(0)
            chosen = ids.flatten()
            counts = torch.zeros(experts, device=part.device).scatter_add_(0, chosen, torch.ones_like(chosen).float())
            total = total.to(part.device) + (counts * experts / (top_k * len(part)) * share).sum()
    return total
