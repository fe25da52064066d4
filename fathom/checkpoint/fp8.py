"""DeepSeek's FP8 weight format: E4M3 values and one float32 scale per block of 128 x 128 of them.

The released name is `weight_scale_inv`, yet dequantising multiplies by it. Edge blocks may be smaller than 128.
Source: DeepSeek-V3 weight release; the layout is listed in fathom.cost.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fathom.config import FP8_BLOCK
from fathom.errors import CheckpointError

E4M3 = torch.float8_e4m3fn
E4M3_MAX = 448.0  # the largest finite E4M3 value
SCALE_SUFFIX = "_scale_inv"
QUANTIZATION_CONFIG = {
    "activation_scheme": "dynamic",
    "fmt": "e4m3",
    "quant_method": "fp8",
    "weight_block_size": [FP8_BLOCK, FP8_BLOCK],
}


def scale_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of the scales of a weight of that shape; a part of a block counts as one."""
    rows, columns = shape
    return -(-rows // FP8_BLOCK), -(-columns // FP8_BLOCK)


def dequantize_fp8(weight: Tensor, scale_inv: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The weight as plain numbers: value x scale of its block, in float32, then rounded once to `dtype`.

    Raises: CheckpointError: the scales do not fit the weight, or one is not finite.
    """
    if weight.dim() != 2 or tuple(scale_inv.shape) != scale_shape(tuple(weight.shape)):
        raise CheckpointError(
            f"FP8 weight {list(weight.shape)} has scales {list(scale_inv.shape)}; "
            f"one per block of {FP8_BLOCK} x {FP8_BLOCK} is needed."
        )
    if not torch.isfinite(scale_inv).all():
        raise CheckpointError("an FP8 block scale is not a finite number; fetch the checkpoint again.")
    values = weight.to(torch.float32)
    scales = scale_inv.to(torch.float32).repeat_interleave(FP8_BLOCK, dim=1)[:, : weight.shape[1]]
    for rows, row_scales in zip(values.split(FP8_BLOCK), scales, strict=True):
        rows.mul_(row_scales)
    return values.to(dtype)


def quantize_fp8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(E4M3 values, float32 scales) of a matrix: each block is scaled so that its largest value becomes 448.

    Raises: CheckpointError: the weight is no matrix, or holds a value that is not finite.
    """
    if weight.dim() != 2:
        raise CheckpointError(f"a tensor of shape {list(weight.shape)} cannot be FP8; only matrices can.")
    rows, columns = weight.shape
    block_rows, block_columns = scale_shape((rows, columns))
    padded = torch.zeros(block_rows * FP8_BLOCK, block_columns * FP8_BLOCK, dtype=torch.float32, device=weight.device)
    padded[:rows, :columns] = weight
    blocks = padded.view(block_rows, FP8_BLOCK, block_columns, FP8_BLOCK)
    largest = blocks.abs().amax(dim=(1, 3))
    if not torch.isfinite(largest).all():
        raise CheckpointError("a weight holds a value that is not finite; it cannot be FP8.")
    # A block of zeros takes scale 1; a denormal scale would divide by (nearly) zero.
    scale = (largest / E4M3_MAX).clamp_min(torch.finfo(torch.float32).tiny).masked_fill(largest == 0, 1.0)
    blocks.div_(scale[:, None, :, None]).clamp_(-E4M3_MAX, E4M3_MAX)
    return padded[:rows, :columns].to(E4M3).contiguous(), scale
