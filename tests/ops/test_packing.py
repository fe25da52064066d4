"""The packed formats say what they stand for: unpacking gives the weights back, exactly or within half a level."""

import pytest
import torch

from fathom.checkpoint import dequantize_fp8, quantize_fp8
from fathom.errors import ConfigError
from fathom.ops.packing import DEFAULT_GROUP, group_for, pack, pack_f8, round_to_nearest, unpack, unpack_levels

SHAPES = [(16, 64), (48, 96), (5, 7), (33, 112), (1, 1), (128, 300)]


def weight_of(rows: int, columns: int) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows * columns))


@pytest.mark.parametrize("shape", SHAPES)
def test_plain_kinds_give_the_values_back(shape: tuple[int, int]) -> None:
    weight = weight_of(*shape)
    assert torch.equal(unpack(pack(weight, "f32")), weight)
    assert torch.equal(unpack(pack(weight, "bf16")), weight.bfloat16().float())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["i8", "i4"])
def test_levels_are_within_half_a_step(kind: str, shape: tuple[int, int]) -> None:
    weight = weight_of(*shape)
    packed = pack(weight, kind)
    levels, scale = round_to_nearest(weight, kind, packed.group)
    expected = (levels.float() * scale.float().repeat_interleave(packed.group, 1))[:, : shape[1]]
    assert torch.equal(unpack(packed), expected)
    step = scale.float().abs().repeat_interleave(packed.group, 1)[:, : shape[1]]
    limit = 0.51 if kind == "i8" else 1.01  # a 4-bit group's second sign stops at 7: the far end may miss by a step
    assert ((expected - weight).abs() <= limit * step).all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["i8", "i4"])
def test_levels_come_back_as_they_were_rounded(kind: str, shape: tuple[int, int]) -> None:
    weight = weight_of(*shape)
    packed = pack(weight, kind)
    assert all(map(torch.equal, unpack_levels(packed), round_to_nearest(weight, kind, packed.group)))


@pytest.mark.parametrize("shape", [(128, 128), (200, 300), (16, 40)])
def test_f8_gives_the_block_scaled_values_back(shape: tuple[int, int]) -> None:
    values, scale = quantize_fp8(weight_of(*shape))
    assert torch.equal(unpack(pack_f8(values, scale)), dequantize_fp8(values, scale))


def test_a_view_of_blocks_is_those_rows() -> None:
    weight = weight_of(40, 64)
    for kind in ("f32", "bf16", "i8", "i4"):
        packed = pack(weight, kind)
        part = packed.blocks(1, 3)
        assert part.rows == 24
        assert torch.equal(unpack(part), unpack(packed)[16:])


def test_a_row_of_zeros_stays_zero() -> None:
    for kind in ("i8", "i4"):
        assert not unpack(pack(torch.zeros(3, 70), kind)).any()


def test_bytes_per_weight() -> None:
    weight = torch.ones(64, 256)
    assert pack(weight, "i8").nbytes == 64 * 256 + 64 * 256 // DEFAULT_GROUP["i8"] * 2
    assert pack(weight, "i4").nbytes == 64 * 256 // 2 + 64 * 256 // DEFAULT_GROUP["i4"] * 2


def test_a_group_is_no_longer_than_a_short_row() -> None:
    assert [group_for(columns, 128) for columns in (7, 32, 33, 64, 65, 500)] == [32, 32, 64, 64, 128, 128]
    assert group_for(500, 32) == 32
    with pytest.raises(ConfigError, match="32, 64, 128"):
        group_for(64, 48)


def test_f8_needs_its_scales() -> None:
    with pytest.raises(ConfigError, match="pack_f8"):
        pack(torch.ones(2, 2), "f8")
