"""DeepSeekMoE: routed experts chosen per token, shared experts always on (DeepSeek-V3, section 2.1.2, eq. 12-16)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fathom import ops
from fathom.config import ModelConfig
from fathom.layout import Shard
from fathom.model.cache import Routing
from fathom.model.comm import Comm
from fathom.model.layers import MLP, Storage, blocks


class Gate(nn.Module):
    """The router. Scores in float32: in bf16 near-ties flip, and so do experts."""

    e_score_correction_bias: Tensor | None

    def __init__(self, config: ModelConfig, storage: Storage) -> None:
        super().__init__()
        self.config = config
        self.weight = storage.plain.empty(config.n_routed_experts, config.hidden_size)
        bias = None
        if config.topk_method == "noaux_tc":
            bias = torch.zeros(config.n_routed_experts, dtype=torch.float32, device=storage.device)
        # A buffer: no gradient touches it, the trainer nudges it once per optimiser step.
        self.register_buffer("e_score_correction_bias", bias)

    def forward(self, x: Tensor, ids: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """x [tokens, hidden] -> ids [tokens, chosen], weights [tokens, chosen], affinity [tokens, experts].

        Args: ids: experts chosen before, to be weighed only.
        """
        config = self.config
        logits = ops.linear(x.float(), self.weight)
        affinity = logits.sigmoid() if config.scoring_func == "sigmoid" else logits.softmax(-1)
        grouped = config.topk_method != "greedy"
        ids, weights = ops.route(
            affinity,
            self.e_score_correction_bias,
            top_k=config.num_experts_per_tok,
            n_group=config.n_group if grouped else 1,
            topk_group=config.topk_group if grouped else 1,
            group_score="top2" if config.topk_method == "noaux_tc" else "max",
            normalise=config.norm_topk_prob and config.num_experts_per_tok > 1,
            scaling=config.routed_scaling_factor,
            ids=ids,
        )
        return ids, weights, affinity


class Experts(nn.Module):
    """The routed experts that this rank holds, stacked so that one call serves them all.

    `state_dict()` shows each expert under its checkpoint name (`0.gate_proj.weight`, ...), as a view of the stack.
    """

    gate_up_scale: Tensor | None
    down_scale: Tensor | None

    def __init__(self, config: ModelConfig, held: range, storage: Storage) -> None:
        super().__init__()
        self.held = held
        hidden, inner, count = config.hidden_size, config.moe_intermediate_size, len(held)
        self.gate_up = storage.empty(count, 2, inner, hidden)
        self.down = storage.empty(count, hidden, inner)
        self.register_parameter("gate_up_scale", storage.scale(count, 2, blocks(inner), blocks(hidden)))
        self.register_parameter("down_scale", storage.scale(count, blocks(hidden), blocks(inner)))

    def forward(self, x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        local = ids - self.held.start
        return ops.experts(x, local, weights, self.gate_up, self.down, self.gate_up_scale, self.down_scale)

    def _views(self) -> dict[str, Tensor]:
        """Checkpoint name below this module -> the part of the stack that is that tensor."""
        views: dict[str, Tensor] = {}
        stacks = [("weight", self.gate_up, self.down), ("weight_scale_inv", self.gate_up_scale, self.down_scale)]
        for kind, gate_up, down in stacks:
            if gate_up is None or down is None:
                continue
            for place, expert in enumerate(self.held):
                views[f"{expert}.gate_proj.{kind}"] = gate_up[place, 0]
                views[f"{expert}.up_proj.{kind}"] = gate_up[place, 1]
                views[f"{expert}.down_proj.{kind}"] = down[place]
        return views

    def _save_to_state_dict(self, destination: dict[str, Tensor], prefix: str, keep_vars: bool) -> None:
        for name, view in self._views().items():
            destination[prefix + name] = view if keep_vars else view.detach()

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, local_metadata: dict[str, Any], strict: bool,
        missing_keys: list[str], unexpected_keys: list[str], error_msgs: list[str],
    ) -> None:  # fmt: skip
        views = self._views()
        for name, view in views.items():
            given = state_dict.get(prefix + name)
            if given is None:
                missing_keys.append(prefix + name)
            elif given.shape != view.shape:
                error_msgs.append(f"{prefix}{name} is {tuple(given.shape)}; it must be {tuple(view.shape)}.")
            else:
                with torch.no_grad():
                    view.copy_(given)
        known = {prefix + name for name in views}
        unexpected_keys.extend(key for key in state_dict if strict and key.startswith(prefix) and key not in known)


class MoE(nn.Module):
    """`sum of weight_i * expert_i(x) + shared(x)`. The shared experts take no part in normalising or scaling."""

    def __init__(self, config: ModelConfig, shard: Shard, comm: Comm, storage: Storage) -> None:
        super().__init__()
        self.comm = comm
        self.gate = Gate(config, storage)
        self.experts = Experts(config, shard.experts, storage)
        self.shared_experts = None
        if config.n_shared_experts:
            width = len(shard.shared_intermediate)
            self.shared_experts = MLP(config.hidden_size, width, comm, storage)

    def forward(self, x: Tensor, layer: int, routing: Routing | None = None) -> Tensor:
        ids, weights, affinity = self.gate(x, None if routing is None else routing.replay.get(layer))
        if routing is not None:
            routing.add(layer, ids, affinity)
        y = self.comm.sum(self.experts(x, ids, weights), "ep")
        return y if self.shared_experts is None else y + self.shared_experts(x)
