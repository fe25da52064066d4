"""Small checkpoints with everything that packing meets: heads that need padding, experts, an MTP layer, odd columns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from fathom.checkpoint import save_weights
from fathom.config import ModelConfig, preset
from fathom.cost import tensors

TINY = replace(
    preset("deepseek-v3"), vocab_size=40, hidden_size=48, intermediate_size=72, moe_intermediate_size=24,
    num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2, n_routed_experts=4, n_group=2, topk_group=1,
    num_experts_per_tok=2, first_k_dense_replace=1, q_lora_rank=24, kv_lora_rank=136, qk_rope_head_dim=4,
    qk_nope_head_dim=4, v_head_dim=4, max_position_embeddings=64, rope_scaling=None, quantization_config=None,
)  # fmt: skip
#: Heads as wide as FP8 blocks: every block of the stacked matrices lies in one head, as in the released models.
WIDE = replace(TINY, qk_nope_head_dim=128, v_head_dim=128, qk_rope_head_dim=64, q_lora_rank=160)


def made_up(config: ModelConfig, dtype: torch.dtype = torch.bfloat16) -> dict[str, torch.Tensor]:
    """Random weights by checkpoint name; an MTP layer repeats the embedding and the head."""
    generator = torch.Generator().manual_seed(6)
    made = {
        name: torch.randn(shape, generator=generator).mul(0.2).to(torch.float32 if kind == "F32" else dtype)
        for name, shape, kind in tensors(config)
    }
    head = "model.embed_tokens.weight" if config.tie_word_embeddings else "lm_head.weight"
    for name in made:
        if name.endswith("shared_head.head.weight"):
            made[name] = made[head]
        elif name.endswith("embed_tokens.weight"):
            made[name] = made["model.embed_tokens.weight"]
    return made


def write_model(directory: Path, config: ModelConfig = TINY, dtype: torch.dtype = torch.bfloat16) -> Path:
    """A whole checkpoint of `made_up` weights; returns its directory."""
    save_weights(directory, made_up(config, dtype), config.to_dict(), extra_files={"tokenizer.json": b"{}"})
    return directory
