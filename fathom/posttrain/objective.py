"""GRPO in arithmetic: advantages of a group, the clipped surrogate, the k3 estimate of KL, how tokens are averaged.

DeepSeekMath (arXiv:2402.03300), eq. 3; DeepSeek-V3, eq. 26-28; DeepSeek-R1, eq. 1-3; options of DAPO (arXiv:2503.14476)
and Dr. GRPO (arXiv:2503.20783). No model here: log-probabilities in, a loss out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from fathom.errors import ConfigError


@dataclass(frozen=True)
class ObjectiveConfig:
    """What is maximised.

    Fields: clip: how far a ratio may fall, and rise unless clip_high says otherwise (DAPO: 0.28; R1 used 10 for both,
            which never binds below). kl: weight of k3 (R1: 0.001). ref_every: steps between two references (R1: 400; 0:
            the first stays). normalise: "sequence" averages each answer's tokens, then answers (GRPO); "token" averages
            all tokens of a mini-batch (DAPO). scale: divide by the group's standard deviation (Dr. GRPO: false).
            overlong: "keep" answers that were cut off, or "mask" them: they set the baseline, and teach nothing. To
            punish them, give the reward `overlong` a weight. replay: gradients go through the experts that the kernels
            chose.
    """

    clip: float = 0.2
    clip_high: float | None = None
    kl: float = 0.001
    ref_every: int = 400
    normalise: Literal["sequence", "token"] = "sequence"
    scale: bool = True
    overlong: Literal["keep", "mask"] = "keep"
    replay: bool = True

    def __post_init__(self) -> None:
        for name, value in (("clip", self.clip), ("clip_high", self.high), ("kl", self.kl)):
            if value < 0:
                raise ConfigError(f"{name} is {value:g}; it must be at least 0.")
        if self.ref_every < 0:
            raise ConfigError(f"ref_every is {self.ref_every} steps; it must be at least 0 (0: never).")

    @property
    def high(self) -> float:
        """How far a ratio may rise."""
        return self.clip if self.clip_high is None else self.clip_high


def advantages(rewards: Sequence[float], scale: bool = True) -> list[float]:
    """(r - mean) / std over one group (std of the group itself, divisor n); all 0 where all rewards are equal.

    That 0/0 is 0 is our definition; it is decided by the rewards themselves, since a mean of equal ones may be off by a
    rounding that the division would blow up to 1.
    """
    if max(rewards) == min(rewards):
        return [0.0] * len(rewards)
    mean = math.fsum(rewards) / len(rewards)
    deviations = [reward - mean for reward in rewards]
    std = math.sqrt(math.fsum(d * d for d in deviations) / len(rewards)) if scale else 1.0
    return [deviation / std for deviation in deviations]


class _Valued(torch.autograd.Function):
    """The value of one computation with the derivative of another.

    `computed + (value - computed).detach()` means the same, and is off by a rounding.
    """

    @staticmethod
    def forward(ctx: Any, computed: Tensor, value: Tensor) -> Tensor:
        ctx.dtype = computed.dtype
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad.to(ctx.dtype), None


def valued(computed: Tensor, value: Tensor) -> Tensor:
    """A tensor that is `value` to the bit, and differentiates as `computed`."""
    return _Valued.apply(computed, value)


def k3(logprobs: Tensor, reference: Tensor) -> Tensor:
    """The k3 estimate of KL(policy || reference) per token: q - log q - 1, q = reference / policy; never below 0."""
    log_ratio = reference - logprobs
    return log_ratio.exp() - log_ratio - 1


@dataclass(frozen=True)
class Terms:
    """loss: to differentiate. ratios, clipped, kl: of each token, without gradient, for the ledger."""

    loss: Tensor
    ratios: Tensor
    clipped: Tensor
    kl: Tensor


def surrogate(
    logprobs: Tensor, old: Tensor, reference: Tensor | None, advantage: Tensor, weight: Tensor, config: ObjectiveConfig
) -> Terms:
    """-sum of weight * (min(ratio * A, clip(ratio) * A) - kl * k3), over tokens.

    Args: logprobs: of the sampled tokens under the policy, with gradient [tokens]. old: when they were sampled.
          reference: None if kl is 0. advantage, weight: of each token's answer (`token_weights`).
    """
    ratios = (logprobs - old).exp()
    bounded = ratios.clamp(1 - config.clip, 1 + config.high)
    gain = torch.minimum(ratios * advantage, bounded * advantage)
    kl = torch.zeros_like(gain) if reference is None else k3(logprobs, reference)
    loss = -(weight * (gain - config.kl * kl)).sum()
    with torch.no_grad():
        clipped = bounded * advantage < ratios * advantage
    return Terms(loss, ratios.detach(), clipped, kl.detach())


def token_weights(lengths: Sequence[int], counted: Sequence[bool], config: ObjectiveConfig) -> list[float]:
    """Weight of each token of each answer of a mini-batch; 0 where an answer is not counted.

    "sequence": 1 / (answers * own length); "token": 1 / tokens. Masked answers do not count in either total.
    """
    answers = sum(counted)
    tokens = sum(length for length, count in zip(lengths, counted, strict=True) if count)
    if config.normalise == "token":
        return [1.0 / tokens if count else 0.0 for count in counted]
    return [1.0 / (answers * length) if count else 0.0 for length, count in zip(lengths, counted, strict=True)]
