"""One inner epoch: mini-batches of whole groups, each a step of the optimiser.

Before the first one the policy is what sampled, so its ratios are 1 to the bit. Before each later one the kernels take
the weights as they have become, and score its answers anew.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from fathom.errors import ConfigError, TrainingError
from fathom.model import Transformer
from fathom.posttrain.groups import Group
from fathom.posttrain.objective import ObjectiveConfig, surrogate, token_weights, valued
from fathom.posttrain.rollout import Trial
from fathom.posttrain.scoring import Scored, batches, computed, lay, mtp_loss, replayed


@dataclass(frozen=True)
class OptimiserConfig:
    """AdamW without decay.

    Fields: lr: R1's is 3e-6; a model of some million weights wants 1e-5 to 1e-4. mtp_lr: of the MTP module, which
            learns to predict what is sampled now; 0 leaves it. warmup_steps: rising to lr. last_step: where the rate
            would be 0, falling evenly after the warm-up; 0: it stays. clip_norm: of the policy's gradient, and of the
            module's. mini_batches: steps of the optimiser for each rollout. micro_tokens: of one forward.
            compute_dtype: of the activations that the derivative comes from; values are the kernels' anyway.
    """

    lr: float = 3e-6
    mtp_lr: float = 3e-5
    warmup_steps: int = 0
    last_step: int = 0
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    clip_norm: float = 1.0
    mini_batches: int = 2
    micro_tokens: int = 4096
    compute_dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        leasts = {"lr": 0, "mtp_lr": 0, "warmup_steps": 0, "last_step": 0, "mini_batches": 1, "micro_tokens": 1}
        for name, least in leasts.items():
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least {least}.")

    def at(self, rate: float, step: int) -> float:
        """A learning rate at a step."""
        rising = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        if not self.last_step:
            return rate * rising
        falling = (self.last_step - step) / (self.last_step - min(self.warmup_steps, self.last_step - 1))
        return rate * min(rising, max(0.0, falling))


@dataclass(frozen=True)
class Lesson:
    """An answer, its advantage, what its tokens were given when it was sampled, and by the reference (None: no KL)."""

    trial: Trial
    advantage: float
    old: Scored
    reference: Scored | None
    counted: bool

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        return self.trial.prompt_ids

    @property
    def token_ids(self) -> tuple[int, ...]:
        return self.trial.token_ids


def lessons(
    groups: Sequence[Group], old: Sequence[Scored], reference: Sequence[Scored] | None, config: ObjectiveConfig
) -> list[list[Lesson]]:
    """Those of each group; old and reference: of every answer of the groups, in order."""
    found: list[list[Lesson]] = []
    at = 0
    for group in groups:
        some = []
        for trial, advantage in zip(group.trials, group.advantages, strict=True):
            counted = config.overlong == "keep" or trial.finish_reason != "length"
            some.append(Lesson(trial, advantage, old[at], None if reference is None else reference[at], counted))
            at += 1
        found.append(some)
    return found


def teaching(batch: Sequence[Lesson], objective: ObjectiveConfig) -> list[int]:
    """Places of those that have a gradient: without KL, an answer no better than its group has none."""
    return [i for i, lesson in enumerate(batch) if lesson.counted and (lesson.advantage or objective.kl)]


@dataclass
class Measured:
    """Of one step, over all tokens of its lessons: extremes of the ratios, sums of the others."""

    tokens: int = 0
    ratio_low: float = math.inf
    ratio_high: float = -math.inf
    clipped: int = 0
    kl: float = 0.0
    torch_gap: float = 0.0  # largest |torch - kernels|
    torch_gap_sum: float = 0.0
    grad_norms: list[float] = field(default_factory=list)
    mtp: float = 0.0
    mtp_tokens: int = 0


class Learner:
    """The Transformer that is trained, and its optimiser."""

    def __init__(self, model: Transformer, config: OptimiserConfig) -> None:
        self.model, self.config = model, config
        ahead = tuple(f"model.layers.{model.config.num_hidden_layers + i}." for i in range(model.mtp_modules))
        named = list(model.named_parameters())
        self.trunk = [p for name, p in named if not (ahead and name.startswith(ahead))]
        self.ahead = [p for name, p in named if ahead and name.startswith(ahead)]
        groups = [{"params": self.trunk, "lr": config.lr}]
        self.trains_mtp = bool(self.ahead)
        if self.trains_mtp:
            groups.append({"params": self.ahead, "lr": config.mtp_lr})
        betas = (config.beta1, config.beta2)
        self.optimiser = torch.optim.AdamW(groups, betas=betas, eps=config.eps, weight_decay=0.0, fused=True)

    def trained(self) -> list[torch.nn.Parameter]:
        """What the optimiser moves, in its order."""
        return [*self.trunk, *self.ahead]

    def mini_batch(
        self, batch: Sequence[Lesson], now: Sequence[Scored], temperature: float, objective: ObjectiveConfig, step: int,
        measured: Measured,
    ) -> None:  # fmt: skip
        """One step of the optimiser. now: what the tokens are given by the weights of this moment.

        Raises: TrainingError: the loss or the gradient is not finite; the weights are as before.
        """
        counted = [lesson.counted for lesson in batch]
        if not any(counted):
            return
        weights = token_weights([len(lesson.token_ids) for lesson in batch], counted, objective)
        kept = teaching(batch, objective)  # the others count in the averages above all the same
        self.optimiser.zero_grad(set_to_none=True)
        predicted = sum(len(batch[i].token_ids) for i in kept)
        for places in batches([batch[i] for i in kept], self.config.micro_tokens):
            members = [kept[place] for place in places]
            given = [now[i] for i in members], [weights[i] for i in members]
            self._backward([batch[i] for i in members], *given, temperature, objective, predicted, measured)
        if not kept:
            return
        norm = float(torch.nn.utils.clip_grad_norm_(self.trunk, self.config.clip_norm))
        if self.trains_mtp:
            torch.nn.utils.clip_grad_norm_(self.ahead, self.config.clip_norm)
        if not math.isfinite(norm):
            raise TrainingError(
                f"step {step}: the gradient's norm is {norm}; it must be finite. Lower optim.lr and run again: the "
                "last saved state is from before."
            )
        measured.grad_norms.append(norm)
        rates = self.config.at(self.config.lr, step), self.config.at(self.config.mtp_lr, step)
        for group, rate in zip(self.optimiser.param_groups, rates, strict=False):
            group["lr"] = rate
        self.optimiser.step()

    def _backward(
        self, members: Sequence[Lesson], now: Sequence[Scored], weights: Sequence[float], temperature: float,
        objective: ObjectiveConfig, predicted: int, measured: Measured,
    ) -> None:  # fmt: skip
        """Add the gradient of some answers; predicted: tokens that the MTP module predicts in the whole mini-batch."""
        device = self.model.device
        laid = lay(members, device)
        routing = replayed(now, device) if objective.replay else None
        found, hidden = computed(self.model, laid, temperature, routing)
        values = torch.cat([scored.policy for scored in now]).to(device)
        gap = (found.detach().double() - values).abs()
        old = torch.cat([lesson.old.policy for lesson in members]).to(device)
        reference = _references(members, device) if objective.kl else None
        advantage, weight = (
            torch.tensor(per_answer, dtype=torch.float64).repeat_interleave(torch.tensor(laid.counts)).to(device)
            for per_answer in ([lesson.advantage for lesson in members], list(weights))
        )
        terms = surrogate(valued(found, values), old, reference, advantage, weight, objective)
        loss = terms.loss
        if self.trains_mtp and predicted:
            ahead, count = mtp_loss(self.model, hidden, laid)
            loss = loss + ahead / predicted
            measured.mtp += ahead.item()
            measured.mtp_tokens += count
        loss.backward()
        measured.tokens += len(values)
        measured.ratio_low = min(measured.ratio_low, float(terms.ratios.min()))
        measured.ratio_high = max(measured.ratio_high, float(terms.ratios.max()))
        measured.clipped += int(terms.clipped.sum())
        measured.kl += float(terms.kl.sum())
        measured.torch_gap = max(measured.torch_gap, float(gap.max()))
        measured.torch_gap_sum += float(gap.sum())


def _references(members: Sequence[Lesson], device: torch.device) -> Tensor:
    found = []
    for lesson in members:
        assert lesson.reference is not None, "with a KL term every answer is scored by the reference"
        found.append(lesson.reference.policy)
    return torch.cat(found).to(device)


def engine_gap(trials: Sequence[Trial], scored: Sequence[Scored]) -> float:
    """Largest difference between what the engine reported of a token and what reading the whole text gives [nats]."""
    gaps = [
        float((torch.tensor(trial.logprobs, dtype=torch.float64) - one.plain.cpu()).abs().max())
        for trial, one in zip(trials, scored, strict=True)
    ]
    return max(gaps)


def mini_batches(found: list[list[Lesson]], count: int) -> list[list[Lesson]]:
    """Whole groups dealt out in turn; no more mini-batches than groups."""
    parts = [[lesson for group in found[i::count] for lesson in group] for i in range(count)]
    return [part for part in parts if part]
