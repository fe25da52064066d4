"""Weights in the order in which kernels read them: the definition of every packed format, in plain torch.

A matrix [rows, columns] is cut into blocks of 16 rows, and a block is laid column by column, so that one load from
memory holds a few columns of 16 rows: each lane of a register sums its own row, and no sum ever crosses lanes.

    kind   data [blocks, ...]             scale [blocks, groups, ...]   a weight is
    f32    float32  [columns, 16]         -                             the value
    bf16   bfloat16 [columns/2, 16, 2]    -                             the value
    f8     uint8    [columns/4, 16, 4]    float32  [1]                  E4M3 value x scale of its 128 x 128 block
    i8     int8     [columns/4, 16, 4]    float16  [16]                 value x scale of its row and group
    i4     uint8    [columns/8, 16, 4]    float16  [16]                 (nibble - 8) x scale of its row and group

In i4 byte j of a row's four holds column j in its low and column 4 + j in its high nibble. Rows are padded with zeros
to 16, columns to a whole group (bf16: to 2). Values of i8 stay within +-127.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from fathom.config import FP8_BLOCK
from fathom.errors import ConfigError

Kind = Literal["f32", "bf16", "f8", "i8", "i4"]
KINDS: tuple[Kind, ...] = ("f32", "bf16", "f8", "i8", "i4")  # their order numbers them in cpu/kernels.h
BLOCK_ROWS = 16
GROUPS = (32, 64, 128)  # columns that may share a scale
DEFAULT_GROUP = {"i8": 64, "i4": 32}
LEVELS = {"i8": (-127, 127), "i4": (-8, 7)}


@dataclass(frozen=True)
class PackedMatrix:
    """One packed weight. group: columns that share a scale; 1 where there is none."""

    kind: Kind
    rows: int
    columns: int
    group: int
    data: Tensor
    scale: Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Bytes that a product with this matrix reads [B]."""
        return self.data.nbytes + (0 if self.scale is None else self.scale.nbytes)

    def blocks(self, begin: int, end: int) -> PackedMatrix:
        """Rows 16 * begin to 16 * end, as a view."""
        scale = None if self.scale is None else self.scale[begin:end]
        rows = max(0, min(self.rows, end * BLOCK_ROWS) - begin * BLOCK_ROWS)  # the last block may not be full
        return PackedMatrix(self.kind, rows, self.columns, self.group, self.data[begin:end], scale)


def group_for(columns: int, wanted: int) -> int:
    """The group that a matrix of `columns` gets: `wanted`, or the smallest that holds a shorter row whole."""
    if wanted not in GROUPS:
        raise ConfigError(f"group is {wanted} columns; it must be one of {', '.join(map(str, GROUPS))}.")
    return min(wanted, next((g for g in GROUPS if g >= columns), wanted))


def pack(weight: Tensor, kind: Kind, group: int | None = None) -> PackedMatrix:
    """`weight` [rows, columns] packed; i8 and i4 by rounding to nearest, f8 only through `pack_f8`."""
    rows, columns = weight.shape
    if kind == "f32":
        blocks = _blocks(weight.float(), 1)
        return PackedMatrix(kind, rows, columns, 1, blocks.transpose(1, 2).contiguous())
    if kind == "bf16":
        return PackedMatrix(kind, rows, columns, 1, _interleave(_blocks(weight.to(torch.bfloat16), 2), 2))
    if kind == "f8":
        raise ConfigError("an f8 matrix is made from E4M3 values and their scales; use pack_f8.")
    size = group_for(columns, group or DEFAULT_GROUP[kind])
    return pack_levels(*round_to_nearest(weight, kind, size), kind=kind, columns=columns)


def round_to_nearest(weight: Tensor, kind: Kind, group: int) -> tuple[Tensor, Tensor]:
    """(levels int8 [rows, padded columns], scales float16 [rows, groups]): each group scaled by its largest value.

    i4 gives the largest value, whichever its sign, the level -8, which has no positive twin.
    """
    rows, columns = weight.shape
    padded = F.pad(weight.float(), (0, -columns % group)).unflatten(1, (-1, group))
    least, most = LEVELS[kind]
    peak = padded.gather(-1, padded.abs().argmax(-1, keepdim=True))
    scale = (peak / least if kind == "i4" else peak.abs() / most).half()
    inverse = torch.where(scale == 0, 0.0, 1.0 / scale.float())
    levels = (padded * inverse).round_().clamp_(least, most).to(torch.int8)
    return levels.flatten(1), scale[..., 0]


def pack_levels(levels: Tensor, scale: Tensor, *, kind: Kind, columns: int) -> PackedMatrix:
    """A packed matrix from levels [rows, groups * group] and their scales [rows, groups]."""
    rows, padded = levels.shape
    groups = scale.shape[1]
    placed = F.pad(scale.half(), (0, 0, 0, -rows % BLOCK_ROWS)).unflatten(0, (-1, BLOCK_ROWS))
    scales = placed.transpose(1, 2).contiguous()
    if kind == "i8":
        data = _interleave(_blocks(levels, 4), 4)
    else:
        stored = _interleave(_blocks((levels + 8).to(torch.uint8), 8, fill=8), 8)
        data = stored[..., :4] | (stored[..., 4:] << 4)
    return PackedMatrix(kind, rows, columns, padded // groups, data.contiguous(), scales)


def pack_f8(weight: Tensor, scale: Tensor) -> PackedMatrix:
    """E4M3 `weight` [rows, columns] with the float32 scales of its 128 x 128 blocks."""
    rows, columns = weight.shape
    data = _interleave(_blocks(F.pad(weight.view(torch.uint8), (0, -columns % FP8_BLOCK)), 4), 4)
    per_block = scale.float().repeat_interleave(FP8_BLOCK // BLOCK_ROWS, 0)[: len(data), :, None]
    return PackedMatrix("f8", rows, columns, FP8_BLOCK, data, per_block.contiguous())


def unpack(matrix: PackedMatrix) -> Tensor:
    """The weight that a packed matrix stands for, float32 [rows, columns]."""
    kind, data = matrix.kind, _levels(matrix)
    if kind == "f32":
        return data.transpose(1, 2).flatten(0, 1)[: matrix.rows]
    if kind == "f8":
        data = data.view(torch.float8_e4m3fn)
    values = data.float().transpose(1, 2).flatten(2)  # [blocks, 16, padded columns]
    if matrix.scale is not None:
        wide = matrix.scale.float().transpose(1, 2).repeat_interleave(matrix.group, 2)
        values = values * wide
    return values.flatten(0, 1)[: matrix.rows, : matrix.columns]


def unpack_levels(matrix: PackedMatrix) -> tuple[Tensor, Tensor]:
    """What `pack_levels` was given: (levels int8 [rows, padded columns], scales float16 [rows, groups])."""
    assert matrix.scale is not None and matrix.kind in LEVELS, f"{matrix.kind} has no levels"
    levels = _levels(matrix).transpose(1, 2).flatten(2)
    return levels.flatten(0, 1)[: matrix.rows], matrix.scale.transpose(1, 2).flatten(0, 1)[: matrix.rows]


def _levels(matrix: PackedMatrix) -> Tensor:
    """The data, one value a byte for i4 too, in the order in which it lies."""
    if matrix.kind != "i4":
        return matrix.data
    return torch.cat((matrix.data & 15, matrix.data >> 4), dim=-1).to(torch.int8) - 8


def _blocks(values: Tensor, multiple: int, fill: int = 0) -> Tensor:
    """[rows, columns] -> [blocks, 16, columns padded to `multiple`]."""
    rows, columns = values.shape
    if values.dtype == torch.float8_e4m3fn:
        values = values.view(torch.uint8)
    padded = F.pad(values, (0, -columns % multiple, 0, -rows % BLOCK_ROWS), value=fill)
    return padded.unflatten(0, (-1, BLOCK_ROWS))


def _interleave(blocks: Tensor, run: int) -> Tensor:
    """[blocks, 16, columns] -> [blocks, columns / run, 16, run]."""
    return blocks.unflatten(2, (-1, run)).transpose(1, 2).contiguous()
