"""What training minimises: next token, token after next (MTP), and the balance of experts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fathom import ops
from fathom.model import Batch, Routing, Transformer
from fathom.train.packing import Packed

#: What a prediction costs: (documents, logits [rows, vocabulary], place of each predicted token [rows]) -> [rows].
Criterion = Callable[[Packed, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class LossConfig:
    """Weights of the parts. Defaults are DeepSeek-V3's (section 4.2)."""

    mtp: float = 0.3
    balance: float = 1e-4


@dataclass
class Losses:
    """Sums over a micro-batch; divide by the counts of the whole batch."""

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
        ahead = model.predict_ahead(hidden, tokens.roll(-1), batch)
        rows, targets = predictions(tokens, counted, last, ahead=2)
        logits = model.logits(ahead[rows])
        mtp = criterion(packed, logits, rows + 2).sum()
        correct = int((logits.argmax(-1) == targets).sum())
    balance = balance_loss(routing, packed.row_lengths or packed.rows, model.config.num_experts_per_tok) / rows_in_batch
    total = (main + config.mtp * mtp) / counted_in_batch + config.balance * balance
    return Losses(total, main.item(), mtp.item(), balance.item(), correct)


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
