"""A Transformer's weights in packed form, made in the plainest way: an oracle for fathom/checkpoint/packed.py too."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from fathom.checkpoint import quantize_fp8
from fathom.model import Transformer
from fathom.model.packed import PackedTransformer
from fathom.ops.packing import PackedMatrix, pack, pack_f8


def pack_model(model: Transformer, kind: str, group: int | None = None) -> dict[str, PackedMatrix | Tensor]:
    """fathom.ops.packed.Weights with every projection of `kind`."""
    config, packed = model.config, {}

    def matrix(weight: Tensor) -> PackedMatrix:
        return pack_f8(*quantize_fp8(weight)) if kind == "f8" else pack(weight, kind, group)

    def heads(weight: Tensor) -> PackedMatrix:  # [heads, rows, columns], each head's rows padded to 16
        return matrix(F.pad(weight, (0, 0, 0, -weight.shape[1] % 16)).flatten(0, 1))

    for name, value in model.state_dict().items():
        value = value.detach().float()
        if value.dim() == 1:
            packed[name] = value
        elif name == "model.embed_tokens.weight":
            packed[name] = value.contiguous()
        elif name.endswith("mlp.gate.weight"):
            packed[name] = pack(value, "f32")
        elif name.endswith("kv_b_proj.weight"):
            both = value.unflatten(0, (config.num_attention_heads, -1))
            keys, values = both.split([config.qk_nope_head_dim, config.v_head_dim], dim=1)
            packed[name.replace("kv_b_proj", "k_b_proj")] = heads(keys.transpose(1, 2))
            packed[name.replace("kv_b_proj", "v_b_proj")] = heads(values)
        elif name.endswith(("q_b_proj.weight", "self_attn.q_proj.weight")):
            packed[name] = heads(value.unflatten(0, (config.num_attention_heads, -1)))
        else:
            packed[name] = matrix(value)
    return packed


def open_model(model: Transformer, kind: str, threads: int = 1, group: int | None = None) -> PackedTransformer:
    opened = PackedTransformer.open(model.config, pack_model(model, kind, group), threads)
    assert opened is not None, "no native kernels"
    return opened
