"""Rounding to few levels with the least harm to a matrix's outputs: GPTQ, arXiv:2210.17323.

Rounding to nearest minds each weight alone. Here the columns are rounded one after the other, those that meet the
largest inputs first, and what one column's rounding does to the outputs is made up for in the columns to come. What the
inputs look like is known from text: only their second moments `x^T x` count.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fathom.ops.packing import LEVELS, Kind

DAMPING = 0.01  # of the mean input's energy, added to each: moments of few tokens say less than they seem to
SHRINK = [1.2 - i / 40 for i in range(23)]  # scales tried, as parts of the one that holds the largest weight
SPAN = 128  # columns rounded before the rest hears of it: a product instead of many thin updates


@dataclass(frozen=True)
class Inputs:
    """What a matrix meets. order: columns, the most energetic first; factor: upper Cholesky factor of the inverse."""

    energy: Tensor
    order: Tensor
    factor: Tensor

    @staticmethod
    def of(moments: Tensor, group: int) -> Inputs:
        """Of the second moments [columns, columns] of all inputs, for groups of so many columns."""
        padding = -moments.shape[0] % group
        padded = F.pad(moments.double(), (0, padding, 0, padding))
        energy = padded.diagonal()
        damped = padded + torch.diag(torch.full_like(energy, DAMPING * float(moments.diagonal().mean()) + 1e-12))
        order = energy.argsort(descending=True, stable=True)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped[order][:, order]))
        factor = torch.linalg.cholesky(inverse, upper=True).float()
        return Inputs(damped.diagonal().float(), order, factor)


def round_for_inputs(weight: Tensor, inputs: Inputs, kind: Kind, group: int) -> tuple[Tensor, Tensor]:
    """(levels int8 [rows, padded columns], scales float16 [rows, groups]), as ops.packing.round_to_nearest gives."""
    columns = len(inputs.order)
    padded = F.pad(weight.float(), (0, columns - weight.shape[1]))
    scale = best_scale(padded.unflatten(1, (-1, group)), inputs.energy.view(-1, group), kind)
    wide = scale.float().repeat_interleave(group, 1)
    order, factor = inputs.order, inputs.factor
    left, step = padded.T[order].contiguous(), wide.T[order].contiguous()  # [columns, rows]
    inverse = torch.where(step == 0, 0.0, 1.0 / step)
    least, most = LEVELS[kind]
    levels = torch.empty_like(left)
    for begin in range(0, columns, SPAN):
        end = min(begin + SPAN, columns)
        errors = torch.empty_like(left[begin:end])
        for i in range(begin, end):
            levels[i] = (left[i] * inverse[i]).round_().clamp_(least, most)
            errors[i - begin] = (left[i] - levels[i] * step[i]) / factor[i, i]
            left[i + 1 : end] -= factor[i, i + 1 : end, None] * errors[i - begin]
        left[end:] -= factor[begin:end, end:].T @ errors
    return levels[order.argsort()].T.to(torch.int8).contiguous(), scale


def best_scale(groups: Tensor, energy: Tensor, kind: Kind) -> Tensor:
    """The float16 scale [rows, groups] that rounds each group best, inputs weighed by their energy.

    Args: groups: weights [rows, groups, group]. energy: [groups, group].
    """
    least, most = LEVELS[kind]
    peak = groups.abs().amax(-1, keepdim=True) / -least
    best, found = torch.full_like(peak, torch.inf), torch.zeros_like(peak)
    for part in SHRINK:
        for sign in (1.0, -1.0) if -least != most else (1.0,):  # -8 has no positive twin: either end may hold it
            scale = (peak * (part * sign)).half().float()
            inverse = torch.where(scale == 0, 0.0, 1.0 / scale)
            rounded = (groups * inverse).round_().clamp_(least, most).mul_(scale)
            error = (rounded - groups).square_().mul_(energy).sum(-1, keepdim=True)
            better = error < best
            best, found = torch.where(better, error, best), torch.where(better, scale, found)
    return found[..., 0].half()
