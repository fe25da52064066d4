"""The four shapes that everything is measured on: DeepSeek-V3's architecture from 40 million to 16 billion parameters.

They have no trained weights: `fathom init small DIR --random` draws some.
"""

from __future__ import annotations

from typing import Any

from fathom.config.model import ModelConfig

_COMMON: dict[str, Any] = {
    "first_k_dense_replace": 1, "max_position_embeddings": 8192, "rope_theta": 10000.0, "norm_topk_prob": True,
    "scoring_func": "sigmoid", "topk_method": "noaux_tc", "bos_token_id": 0, "eos_token_id": 1,
}  # fmt: skip
_COLUMNS = (
    "hidden_size", "num_hidden_layers", "num_attention_heads",
    "n_routed_experts", "num_experts_per_tok", "n_shared_experts", "moe_intermediate_size", "intermediate_size",
    "q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim",
    "n_group", "topk_group", "vocab_size", "num_nextn_predict_layers",
)  # fmt: skip
_ROWS = {
    #        hidden layers heads  routed top shared  moe  dense  q_lora kv  nope rope   v  groups   vocab  MTP
    "nano":  (384,   8,  8,       16, 4, 1,    192,   1536,   192, 128,  64, 32,  64,   4, 2,   8192, 1),
    "small": (1024, 12, 16,       32, 6, 2,    256,   2816,   512, 256,  64, 32,  64,   4, 2,  32768, 1),
    "m4b":   (2048,  7, 16,       64, 6, 2,   1408,  11264,  1024, 512, 128, 64, 128,   8, 4,  32768, 0),
    "lite":  (2048, 27, 16,       64, 6, 2,   1408,  11264,  None, 512, 128, 64, 128,   1, 1,  32768, 0),
}  # fmt: skip


def _shape(row: tuple[int | None, ...]) -> ModelConfig:
    sizes: dict[str, Any] = dict(zip(_COLUMNS, row, strict=True))
    return ModelConfig(**_COMMON, **sizes, num_key_value_heads=sizes["num_attention_heads"])


#: name -> architecture; "nano" here is a shape of its own, larger than the trained model in the package.
SHAPES: dict[str, ModelConfig] = {name: _shape(row) for name, row in _ROWS.items()}
