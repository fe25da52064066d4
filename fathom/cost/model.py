"""The checkpoint of a model, tensor by tensor, and the work of one token.

Everything is counted from one table, `weights(config)`: each kind of tensor with its name, shape and number of copies.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from fathom.config import ModelConfig

Part = Literal["embedding", "head", "attention", "dense_mlp", "shared_experts", "experts", "router", "norm", "mtp_join"]
BYTES = {"U8": 1, "I8": 1, "F8_E4M3": 1, "BF16": 2, "F16": 2, "F32": 4}
TORCH_TO_SAFETENSORS = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}


@dataclass(frozen=True)
class Weight:
    """One kind of tensor of one layer; "{expert}" in the name stands for 0 .. copies - 1.

    `linear` marks what an FP8 checkpoint stores as blocks with scales; `fp32` what is never stored in less.
    """

    name: str
    shape: tuple[int, ...]
    part: Part
    layer: int | None = None
    copies: int = 1
    linear: bool = False
    fp32: bool = False

    @property
    def elements(self) -> int:
        """Elements of all copies."""
        return math.prod(self.shape) * self.copies


@lru_cache(maxsize=64)
def weights(config: ModelConfig) -> tuple[Weight, ...]:
    """Every kind of tensor in a checkpoint of `config`, in reading order, MTP modules last."""
    vocabulary = (config.vocab_size, config.hidden_size)
    found = [Weight("model.embed_tokens.weight", vocabulary, "embedding")]
    for layer in range(config.num_hidden_layers):
        found += _layer(config, layer)
    found.append(Weight("model.norm.weight", (config.hidden_size,), "norm"))
    if not config.tie_word_embeddings:
        found.append(Weight("lm_head.weight", vocabulary, "head"))
    for layer in mtp_layers(config):
        found += _mtp(config, layer)
    return tuple(found)


def mtp_layers(config: ModelConfig) -> range:
    """The layer numbers of the MTP modules: those after the last layer of the main model."""
    return range(config.num_hidden_layers, config.num_hidden_layers + config.num_nextn_predict_layers)


def _layer(config: ModelConfig, layer: int) -> list[Weight]:
    prefix, hidden = f"model.layers.{layer}", (config.hidden_size,)
    return [
        Weight(f"{prefix}.input_layernorm.weight", hidden, "norm", layer),
        *_attention(config, f"{prefix}.self_attn", layer),
        Weight(f"{prefix}.post_attention_layernorm.weight", hidden, "norm", layer),
        *(_moe if config.is_moe(layer) else _dense)(config, f"{prefix}.mlp", layer),
    ]


def _attention(config: ModelConfig, prefix: str, layer: int) -> list[Weight]:
    hidden, heads, latent = config.hidden_size, config.num_attention_heads, config.kv_lora_rank

    def matrix(name: str, rows: int, columns: int) -> Weight:
        return Weight(f"{prefix}.{name}.weight", (rows, columns), "attention", layer, linear=True)

    def norm(name: str, size: int) -> Weight:
        return Weight(f"{prefix}.{name}.weight", (size,), "attention", layer)

    if config.q_lora_rank is None:
        query = [matrix("q_proj", heads * config.qk_head_dim, hidden)]
    else:
        query = [
            matrix("q_a_proj", config.q_lora_rank, hidden),
            norm("q_a_layernorm", config.q_lora_rank),
            matrix("q_b_proj", heads * config.qk_head_dim, config.q_lora_rank),
        ]
    return [
        *query,
        matrix("kv_a_proj_with_mqa", latent + config.qk_rope_head_dim, hidden),
        norm("kv_a_layernorm", latent),
        matrix("kv_b_proj", heads * (config.qk_nope_head_dim + config.v_head_dim), latent),
        matrix("o_proj", hidden, heads * config.v_head_dim),
    ]


def _swiglu(config: ModelConfig, prefix: str, width: int, part: Part, layer: int, copies: int = 1) -> list[Weight]:
    hidden = config.hidden_size
    return [
        Weight(f"{prefix}.gate_proj.weight", (width, hidden), part, layer, copies, linear=True),
        Weight(f"{prefix}.up_proj.weight", (width, hidden), part, layer, copies, linear=True),
        Weight(f"{prefix}.down_proj.weight", (hidden, width), part, layer, copies, linear=True),
    ]


def _dense(config: ModelConfig, prefix: str, layer: int) -> list[Weight]:
    return _swiglu(config, prefix, config.intermediate_size, "dense_mlp", layer)


def _moe(config: ModelConfig, prefix: str, layer: int) -> list[Weight]:
    experts, width = config.n_routed_experts, config.moe_intermediate_size
    found = [Weight(f"{prefix}.gate.weight", (experts, config.hidden_size), "router", layer)]
    if config.topk_method == "noaux_tc":
        found.append(Weight(f"{prefix}.gate.e_score_correction_bias", (experts,), "router", layer, fp32=True))
    found += _swiglu(config, f"{prefix}.experts.{{expert}}", width, "experts", layer, experts)
    if config.n_shared_experts:
        shared = width * config.n_shared_experts
        found += _swiglu(config, f"{prefix}.shared_experts", shared, "shared_experts", layer)
    return found


def _mtp(config: ModelConfig, layer: int) -> list[Weight]:
    """An MTP module: a decoder layer, what joins it to the main model, and (stored again) embedding and head."""
    prefix, hidden = f"model.layers.{layer}", config.hidden_size
    vocabulary = (config.vocab_size, hidden)
    return [
        *_layer(config, layer),
        Weight(f"{prefix}.embed_tokens.weight", vocabulary, "embedding", layer),
        Weight(f"{prefix}.enorm.weight", (hidden,), "mtp_join", layer),
        Weight(f"{prefix}.hnorm.weight", (hidden,), "mtp_join", layer),
        Weight(f"{prefix}.eh_proj.weight", (hidden, 2 * hidden), "mtp_join", layer),
        Weight(f"{prefix}.shared_head.norm.weight", (hidden,), "mtp_join", layer),
        Weight(f"{prefix}.shared_head.head.weight", vocabulary, "head", layer),
    ]


# ---- parameters ---------------------------------------------------------------------------------------------------


def parameters(config: ModelConfig) -> int:
    """Parameters of the main model: embedding, layers, head; without MTP modules."""
    return sum(weight.elements for weight in _main(config))


def parameters_by_part(config: ModelConfig) -> dict[str, int]:
    """Parameters of the main model by what they are for; the values add up to `parameters`."""
    found: dict[str, int] = {}
    for weight in _main(config):
        found[weight.part] = found.get(weight.part, 0) + weight.elements
    return found


def activated_parameters(config: ModelConfig, *, embedding: bool = True) -> int:
    """Parameters of the main model that one token meets: chosen and shared experts, attention, head.

    Args:    embedding: count the input embedding, of which a token reads one row. A tied one is the head, and stays.
    """
    found = sum(_activated(config, weight) for weight in _main(config))
    if embedding or config.tie_word_embeddings:
        return found
    return found - config.vocab_size * config.hidden_size


def mtp_parameters(config: ModelConfig) -> int:
    """Parameters that the MTP modules add; embedding and head are those of the main model."""
    return sum(weight.elements for weight in _mtp_own(config))


def mtp_activated_parameters(config: ModelConfig) -> int:
    """Parameters that one token meets in the MTP modules, without embedding, with the shared head."""
    head = config.vocab_size * config.hidden_size * config.num_nextn_predict_layers
    return sum(_activated(config, weight) for weight in _mtp_own(config)) + head


def _main(config: ModelConfig) -> Iterator[Weight]:
    return (weight for weight in weights(config) if weight.layer is None or weight.layer < config.num_hidden_layers)


def _mtp_own(config: ModelConfig) -> Iterator[Weight]:
    modules = mtp_layers(config)
    return (w for w in weights(config) if w.layer in modules and w.part not in ("embedding", "head"))


def _activated(config: ModelConfig, weight: Weight) -> int:
    if weight.part != "experts":
        return weight.elements
    return weight.elements // config.n_routed_experts * config.num_experts_per_tok


# ---- checkpoint ---------------------------------------------------------------------------------------------------


def tensors(config: ModelConfig) -> Iterator[tuple[str, tuple[int, ...], str]]:
    """(name, shape, safetensors dtype) of every tensor in a checkpoint of `config`, FP8 scales included.

    Source: the released DeepSeek-V3 files; an FP8 weight is followed by its FP32 `weight_scale_inv`, one per block.
    """
    for weight in weights(config):
        stored = stored_as(config, weight)
        for expert in range(weight.copies):
            for suffix, shape, dtype in stored:
                yield weight.name.replace("{expert}", str(expert)) + suffix, shape, dtype


def checkpoint_bytes(config: ModelConfig) -> int:
    """Bytes of all tensors in a checkpoint [B], without file headers."""
    return sum(elements * BYTES[dtype] for dtype, elements in checkpoint_elements(config).items())


def checkpoint_elements(config: ModelConfig) -> dict[str, int]:
    """Elements of all tensors in a checkpoint, by safetensors dtype."""
    found: dict[str, int] = {}
    for weight in weights(config):
        for _, shape, dtype in stored_as(config, weight):
            found[dtype] = found.get(dtype, 0) + math.prod(shape) * weight.copies
    return found


def checkpoint_tensors(config: ModelConfig) -> int:
    """Number of tensors in a checkpoint."""
    return sum(len(stored_as(config, weight)) * weight.copies for weight in weights(config))


def stored_as(config: ModelConfig, weight: Weight) -> list[tuple[str, tuple[int, ...], str]]:
    """(name suffix, shape, dtype) of what one copy of `weight` leaves in the file."""
    block = config.weight_block_size
    if weight.linear and block:
        scales = tuple(-(-size // per_block) for size, per_block in zip(weight.shape, block, strict=True))
        return [("", weight.shape, "F8_E4M3"), ("_scale_inv", scales, "F32")]
    return [("", weight.shape, "F32" if weight.fp32 else TORCH_TO_SAFETENSORS[config.torch_dtype])]


# ---- work and memory per token ------------------------------------------------------------------------------------


def attention_flops(config: ModelConfig, context: float, *, absorbed: bool) -> float:
    """FLOPs that one token spends on scores and on weighted sums over `context` tokens, in one layer [FLOP].

    Expanded heads are qk_head_dim and v_head_dim wide; absorbed ones work on the latent, wider but never expanded.
    """
    expanded_width = config.qk_head_dim + config.v_head_dim
    absorbed_width = (config.kv_lora_rank + config.qk_rope_head_dim) + config.kv_lora_rank
    return 2 * config.num_attention_heads * (absorbed_width if absorbed else expanded_width) * context


def decode_flops(config: ModelConfig, context: int) -> float:
    """FLOPs to generate one token that attends to `context` tokens, itself included, in the absorbed form [FLOP]."""
    attention = config.num_hidden_layers * attention_flops(config, context, absorbed=True)
    return 2 * activated_parameters(config, embedding=False) + attention


def experts_met(config: ModelConfig, tokens: int) -> float:
    """Experts of a layer that `tokens` tokens choose at least once, if they choose evenly and independently."""
    missed = 1.0 - config.num_experts_per_tok / config.n_routed_experts
    return config.n_routed_experts * (1.0 - missed**tokens)


def step_flops(config: ModelConfig, sequences: int, tokens: int, context: int) -> tuple[float, float]:
    """(FLOPs of products with weights, FLOPs of attention) of one step [FLOP]: `tokens` new ones in each sequence.

    The head works on the last of them only. Attention is counted in the cheaper of its two forms.
    """
    head = config.vocab_size * config.hidden_size
    each = 2 * (activated_parameters(config, embedding=False) - head)
    keys = context + (tokens + 1) / 2
    attention = min(attention_flops(config, keys, absorbed=absorbed) for absorbed in (True, False))
    rows = sequences * tokens
    return rows * each + sequences * 2.0 * head, rows * config.num_hidden_layers * attention


def prefill_flops(config: ModelConfig, tokens: int, cached: int = 0) -> float:
    """FLOPs per token to read `tokens` tokens after `cached` ones, causal, in the expanded form [FLOP/token].

    Keys and values of the cached tokens are expanded again, once for the whole of `tokens`.
    """
    context = cached + (tokens + 1) / 2
    kv_b_proj = config.kv_lora_rank * config.num_attention_heads * (config.qk_nope_head_dim + config.v_head_dim)
    per_layer = attention_flops(config, context, absorbed=False) + 2 * kv_b_proj * cached / tokens
    return 2 * activated_parameters(config, embedding=False) + config.num_hidden_layers * per_layer


def training_flops(config: ModelConfig, tokens: int, *, mtp: bool = False, mtp_depth: int = 1) -> float:
    """FLOPs per token to train on sequences of `tokens`, forward and backward (three forwards) [FLOP/token].

    Args:    mtp: count the MTP modules too; the figures that DeepSeek publishes leave them out. mtp_depth: guesses in a
             row that they are trained to make, beyond one for each the last one's again.
    Source:  arXiv:2505.09343, table 4: 250 GFLOP/token for V3, 155 for V2, at 4096 tokens.
    """
    forward = prefill_flops(config, tokens)
    if mtp and (modules := config.num_nextn_predict_layers):
        attention = attention_flops(config, (tokens + 1) / 2, absorbed=False)
        each = 2 * mtp_activated_parameters(config) / modules + attention
        forward += max(modules, mtp_depth) * each
    return 3 * forward


def cache_bytes_per_token(config: ModelConfig, bytes_per_value: int = 2, *, mtp: bool = False) -> int:
    """Bytes of latent cache that one token leaves behind, over all layers of the main model [B].

    Args:   mtp: count the MTP modules too, as an engine that guesses ahead with them must.
    Source: DeepSeek-V2, arXiv:2405.04434, section 2.1.4: one latent and one rotary key, shared by all heads.
    """
    layers = config.num_hidden_layers + (config.num_nextn_predict_layers if mtp else 0)
    return layers * (config.kv_lora_rank + config.qk_rope_head_dim) * bytes_per_value


def expanded_cache_bytes_per_token(config: ModelConfig, bytes_per_value: int = 2) -> int:
    """Bytes one token would leave behind if every head kept its own key and value [B]."""
    per_head = config.qk_head_dim + config.v_head_dim
    return config.num_hidden_layers * config.num_attention_heads * per_head * bytes_per_value
