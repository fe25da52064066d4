"""The packed checkpoint that cost counts is the one that convert writes, and the shapes are those of ops/packing.py."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fathom import cost
from fathom.checkpoint import Reader, convert_packed
from fathom.checkpoint.convert import convert
from fathom.checkpoint.packed import load_packed
from fathom.checkpoint.reader import DTYPES
from fathom.config import FP8_BLOCK, ModelConfig, find_model
from fathom.cost import packed
from fathom.ops import packing
from tests.checkpoint.tiny import TINY, WIDE, write_model


def test_both_rooms_know_the_same_rules() -> None:
    assert packed.BLOCK_ROWS == packing.BLOCK_ROWS
    assert packed.GROUPS == packing.GROUPS
    assert packed.DEFAULT_GROUP == packing.DEFAULT_GROUP
    assert [packed.group_for(n, w) for n in range(1, 300) for w in packing.GROUPS] == [
        packing.group_for(n, w) for n in range(1, 300) for w in packing.GROUPS
    ]


@pytest.mark.parametrize("shape", [(16, 64), (5, 7), (33, 112), (1, 1), (128, 300)])
@pytest.mark.parametrize("kind", ["f32", "bf16", "f8", "i8", "i4"])
def test_shapes_and_types_of_a_matrix(kind: str, shape: tuple[int, int]) -> None:
    weight = torch.randn(shape)
    if kind == "f8":
        made = packing.pack_f8(
            weight.to(torch.float8_e4m3fn), torch.ones(-(-shape[0] // 128), -(-shape[1] // FP8_BLOCK))
        )
    else:
        made = packing.pack(weight, kind)
    parts = [made.data] if made.scale is None else [made.data, made.scale]
    counted = [(each, DTYPES[dtype]) for _, each, dtype in cost.stored(kind, *shape)]
    assert counted == [(tuple(part.shape), part.dtype) for part in parts]


@pytest.mark.parametrize(("bits", "group"), [(32, None), (16, None), (8, None), (4, None), (8, 128), (4, 64)])
@pytest.mark.parametrize("model", ["nano", "tiny"])
def test_convert_writes_what_is_counted(tmp_path: Path, model: str, bits: int, group: int | None) -> None:
    source = find_model("nano") if model == "nano" else write_model(tmp_path / "m", TINY)
    kind = cost.KIND_OF_BITS[bits]
    done = convert_packed(source, tmp_path / "p", kind=kind, group=group)
    config = ModelConfig.read(tmp_path / "p")
    with Reader(tmp_path / "p") as reader:
        written = {name: (info.shape, info.dtype) for name, info in reader.tensors.items()}
    counted = list(cost.packed_tensors(config, kind, group))
    assert written == {name: (shape, DTYPES[dtype]) for name, shape, dtype in counted}
    assert cost.info(config)["checkpoint_bytes"] == cost.packed_size(config, kind, group).bytes == done.bytes


def test_fp8_blocks_take_the_bytes_that_are_counted(tmp_path: Path) -> None:
    convert(write_model(tmp_path / "m", WIDE), tmp_path / "fp8", fp8=True)
    weights = load_packed(tmp_path / "fp8", ModelConfig.read(tmp_path / "fp8"))
    assert sum(weight.nbytes for weight in weights.values()) == cost.packed_size(WIDE, "f8").bytes
