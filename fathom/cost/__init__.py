"""How much a model is: parameters, bytes and FLOPs, as plain arithmetic on a ModelConfig.

    model.py    the checkpoint, the work of one token        packed.py   the same model as kernels read it, 4 to 32 bits
    info.py     what `fathom info` prints                    memory.py   what running a packed model takes
    layout.py   what a deployment asks of one rank

Imports config and layout only; no torch. Read first: model.py, the table `weights(config)`.
"""

from fathom.cost.info import info
from fathom.cost.layout import all_to_all, expert_bytes, plan_pool, rank_cache_bytes_per_token, rank_weight_bytes
from fathom.cost.memory import memory, workspace_bytes
from fathom.cost.model import (
    BYTES,
    Weight,
    activated_parameters,
    attention_flops,
    cache_bytes_per_token,
    checkpoint_bytes,
    checkpoint_elements,
    checkpoint_tensors,
    decode_flops,
    expanded_cache_bytes_per_token,
    experts_met,
    mtp_activated_parameters,
    mtp_layers,
    mtp_parameters,
    parameters,
    parameters_by_part,
    prefill_flops,
    step_flops,
    tensors,
    training_flops,
    weights,
)
from fathom.cost.packed import (
    KIND_OF_BITS,
    Cut,
    Kind,
    Made,
    Matrix,
    PackedSize,
    kind_for,
    matrices,
    packed_size,
    packed_tensors,
    single_matrices,
    step_weight_bytes,
    stored,
    vectors,
)

__all__ = [
    "BYTES",
    "KIND_OF_BITS",
    "Cut",
    "Kind",
    "Made",
    "Matrix",
    "PackedSize",
    "Weight",
    "activated_parameters",
    "all_to_all",
    "attention_flops",
    "cache_bytes_per_token",
    "checkpoint_bytes",
    "checkpoint_elements",
    "checkpoint_tensors",
    "decode_flops",
    "expanded_cache_bytes_per_token",
    "expert_bytes",
    "experts_met",
    "info",
    "kind_for",
    "matrices",
    "memory",
    "mtp_activated_parameters",
    "mtp_layers",
    "mtp_parameters",
    "packed_size",
    "packed_tensors",
    "parameters",
    "parameters_by_part",
    "plan_pool",
    "prefill_flops",
    "rank_cache_bytes_per_token",
    "rank_weight_bytes",
    "step_flops",
    "step_weight_bytes",
    "single_matrices",
    "stored",
    "tensors",
    "training_flops",
    "vectors",
    "weights",
    "workspace_bytes",
]
