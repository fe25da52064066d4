"""Every op against itself in another width, and every packed product, in every variant, against its definition."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
import torch

from fathom.checkpoint import quantize_fp8
from fathom.ops import reference
from fathom.ops.cpu import build
from fathom.ops.cpu.native import Library, rounded
from fathom.ops.dispatch import OPS
from fathom.ops.packing import GROUPS, PackedMatrix, pack, pack_f8, unpack
from tests.ops.cases import Case, cases, randn, run
from tests.tolerances import NATIVE_BF16, NATIVE_FP32

SHAPES = [(16, 64), (48, 96), (5, 7), (33, 112), (130, 300), (64, 1024)]
KINDS = ["f32", "bf16", "f8", "i8", "i4"]


@pytest.mark.parametrize("op", OPS)
def test_every_op_in_bfloat16_is_near_the_op_in_float32(op: str) -> None:
    ours = run(getattr(reference, op), cases(torch.bfloat16)[op])
    theirs = run(getattr(reference, op), widened(cases(torch.bfloat16)[op]))
    for mine, exact in zip(ours, theirs, strict=True):
        if mine.dtype == torch.int64:
            assert torch.equal(mine, exact)
            continue
        size = exact.float().abs().max().clamp(min=1.0)
        assert (mine.float() - exact.float()).abs().max() / size <= NATIVE_BF16


def widened(case: Case) -> Case:
    arguments, named = case
    wide = [a.float() if isinstance(a, torch.Tensor) and a.is_floating_point() else a for a in arguments]
    return tuple(wide), named


def packed(kind: str, shape: tuple[int, int], group: int | None = None) -> PackedMatrix:
    weight = randn(shape[0] + shape[1], *shape)
    return pack_f8(*quantize_fp8(weight)) if kind == "f8" else pack(weight, kind, group)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_product_is_what_the_packed_weights_say(kind: str, shape: tuple[int, int], variant: Library) -> None:
    for group in GROUPS if kind in ("i8", "i4") else (None,):
        matrix = packed(kind, shape, group)
        x = randn(3, 11, shape[1])
        exact = rounded(x, matrix).double() @ unpack(matrix).double().T
        ours = variant.product(matrix, x)
        assert (ours - exact).abs().max() <= NATIVE_FP32 * exact.abs().max()


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_has_the_same_bits_alone_and_in_company(kind: str, variant: Library) -> None:
    matrix, x = packed(kind, (130, 300)), randn(1, 19, 300)
    alone = torch.cat([variant.product(matrix, row[None]) for row in x])
    for rows in range(1, 20):  # every way to fill a tile
        assert torch.equal(variant.product(matrix, x[19 - rows :]), alone[19 - rows :])
    for threads in (2, 3):
        assert torch.equal(variant.product(matrix, x, threads), alone)


@pytest.mark.parametrize("kind", KINDS)
def test_variants_that_fuse_agree_to_the_bit(kind: str, library: Path) -> None:
    """All but plain C, which may not fuse a product with its sum; tests/model compares whole models."""
    matrix, x = packed(kind, (130, 300)), randn(1, 19, 300)
    found = []
    for name in build.variants():
        with suppress(build.Unavailable):  # this processor lacks it
            found += [Library(library, name).product(matrix, x)] if name != "generic" else []
    assert all(torch.equal(other, found[0]) for other in found[1:])


@pytest.mark.parametrize("kind", ["i8", "i4"])
def test_the_largest_levels_do_not_overflow(kind: str, variant: Library) -> None:
    """Every weight and every activation at its peak: the sums that the narrow registers must hold."""
    for sign in (1.0, -1.0):
        matrix = pack(torch.full((16, 1024), sign), kind, 128)
        ours = variant.product(matrix, torch.full((2, 1024), 1.0))
        exact = (rounded(torch.full((2, 1024), 1.0), matrix).double() @ unpack(matrix).double().T).float()
        assert torch.allclose(ours, exact, rtol=1e-6)


def test_zero_rows_stay_zero(variant: Library) -> None:
    for kind in KINDS:
        assert not variant.product(packed(kind, (33, 112)), torch.zeros(3, 112)).any()
