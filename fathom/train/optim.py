"""AdamW, the learning-rate schedule, and the nudge that balances experts without a loss."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fathom.errors import ConfigError
from fathom.model import Transformer
from fathom.model.moe import MoE


@dataclass(frozen=True)
class OptimConfig:
    """AdamW with warmup, then down to `final_lr`: "wsd" by a constant stretch and a straight line, "cosine" by half a
    cosine, as DeepSeek-V3 is fine-tuned (section 5.1)."""

    schedule: Literal["wsd", "cosine"] = "wsd"
    lr: float = 2e-3
    final_lr: float = 2e-5
    warmup_steps: int = 100
    decay_share: float = 0.35  # of all steps, at the end; wsd only
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8  # DeepSeek does not publish theirs
    weight_decay: float = 0.1
    clip_norm: float = 1.0
    bias_speed: float = 1e-3  # gamma of the correction bias; DeepSeek-V3, section 4.2

    def __post_init__(self) -> None:
        if not 0 <= self.decay_share <= 1:
            raise ConfigError(f"decay_share is {self.decay_share:g}; it must be between 0 and 1.")


def learning_rate(config: OptimConfig, step: int, steps: int) -> float:
    """Learning rate of step 0 .. steps - 1."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if config.schedule == "cosine":
        done = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
        return config.final_lr + (config.lr - config.final_lr) * (1 + math.cos(math.pi * done)) / 2
    decay_steps = max(1, round(config.decay_share * steps))
    left = (steps - step) / decay_steps
    return config.lr if left >= 1 else config.final_lr + (config.lr - config.final_lr) * left


def build(model: Transformer, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW over matrices with decay, over norms without."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.dim() == 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2), eps=config.eps, fused=True)


@torch.no_grad()
def update_bias(model: Transformer, counts: Mapping[int, Tensor], speed: float) -> dict[int, float]:
    """Once per optimiser step: b += speed * sign(mean load - load), from the counts of the whole global batch.

    Returns: MaxVio of each MoE layer, (most loaded - mean) / mean (arXiv:2408.15664).
    """
    violation = {}
    for layer, count in counts.items():
        load = count.float()
        mean = load.mean()
        violation[layer] = float((load.max() - mean) / mean)
        moe = model.model.layers[layer].mlp
        assert isinstance(moe, MoE), f"layer {layer} routed tokens"
        if moe.gate.e_score_correction_bias is not None:
            moe.gate.e_score_correction_bias += speed * torch.sign(mean - load)
    return violation
