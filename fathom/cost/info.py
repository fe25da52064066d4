"""What `fathom info` prints of any model: exact counts, and the work of one token."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from fathom.config import ModelConfig
from fathom.cost import model as count
from fathom.cost.packed import KIND_OF_BITS, packed_tensors


def info(config: ModelConfig) -> dict[str, Any]:
    """Exact counts of a model. checkpoint_*: of a packed checkpoint, what lies in it."""
    low, high = config.yarn_range or (None, None)
    elements = _stored_elements(config)
    moe_layers = sum(config.is_moe(layer) for layer in range(config.num_hidden_layers))
    return {
        "model_type": config.model_type,
        "layers": config.num_hidden_layers,
        "moe_layers": moe_layers,
        "parameters_total": count.parameters(config),
        "parameters_activated": count.activated_parameters(config),
        "parameters_activated_no_embedding": count.activated_parameters(config, embedding=False),
        "parameters_by_part": count.parameters_by_part(config),
        "mtp_parameters": count.mtp_parameters(config),
        "checkpoint_elements": sum(elements.values()),
        "checkpoint_elements_by_dtype": elements,
        "checkpoint_tensors": _stored_tensors(config),
        "checkpoint_bytes": sum(elements[dtype] * count.BYTES[dtype] for dtype in elements),
        "cache_bytes_per_token": count.cache_bytes_per_token(config),
        "expanded_cache_bytes_per_token": count.expanded_cache_bytes_per_token(config),
        "yarn_low": low,
        "yarn_high": high,
        "softmax_scale": config.softmax_scale,
        "max_position_embeddings": config.max_position_embeddings,
        "prefill_flops_per_token_4k": count.prefill_flops(config, 4096),
        "decode_flops_per_token_4k": count.decode_flops(config, 4096),
        "training_flops_per_token_4k": count.training_flops(config, 4096),
    }


def _stored_elements(config: ModelConfig) -> dict[str, int]:
    if config.packed is None:
        return count.checkpoint_elements(config)
    found: Counter[str] = Counter()
    for _, shape, dtype in packed_tensors(config, KIND_OF_BITS[config.packed.bits], config.packed.group):
        found[dtype] += math.prod(shape)
    return dict(found)


def _stored_tensors(config: ModelConfig) -> int:
    if config.packed is None:
        return count.checkpoint_tensors(config)
    return sum(1 for _ in packed_tensors(config, KIND_OF_BITS[config.packed.bits], config.packed.group))
