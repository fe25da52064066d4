"""What is timed is what a model would read and compute. No test here looks at how fast that is."""

import pytest
import torch

from fathom.ops import use
from fathom.ops.packing import pack, unpack
from fathom.ops.speed import LARGE_BYTES, Reads, _filled, _products, multiply_adds_per_s, native_name, step_s

KINDS = ("f32", "bf16", "f8", "i8", "i4")


def test_reads_add_up():
    reads = Reads(100.0, 10.0, parts=8, chosen=3)
    assert (reads.total_bytes, reads.step_bytes) == (180.0, 130.0)
    assert Reads(5.0).total_bytes == Reads(5.0).step_bytes == 5.0


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_timed(kind, native):
    reads = Reads(3e5, 1e5, parts=4, chosen=2)
    assert step_s(kind, reads, 1, seconds=0.0) > 0.0
    assert multiply_adds_per_s(kind, 1) > 0.0


@pytest.mark.parametrize("kind", ["f32", "bf16"])
def test_plain_torch_is_timed_too(kind):
    before = torch.get_num_threads()
    with use("reference"):
        assert native_name() == ""
        assert step_s(kind, Reads(3e5, 1e5, parts=4, chosen=2), 1, seconds=0.0) > 0.0
        assert multiply_adds_per_s(kind, 1) > 0.0
    assert torch.get_num_threads() == before


def test_a_pattern_larger_than_the_caches_is_scaled(native, monkeypatch):
    monkeypatch.setattr("fathom.ops.speed.LARGE_BYTES", 1 << 20)
    assert step_s("i8", Reads(1e12, 1e11, parts=4, chosen=2), 1, seconds=0.0) > 1.0  # as if a terabyte were read
    assert LARGE_BYTES == 256 << 20


@pytest.mark.parametrize("kind", KINDS)
def test_what_fills_memory_is_a_matrix(kind):
    matrix = _filled(kind, 70)
    assert matrix.rows == 70 * 16 and matrix.data.shape[0] == 70 and matrix.data.is_contiguous()
    assert torch.equal(unpack(matrix.blocks(0, 6)), unpack(matrix.blocks(64, 70)))


def test_a_prepared_product_is_the_product(native):
    matrix, x = pack(torch.randn(64, 96), "f32"), torch.randn(3, 96)
    with _products(1) as prepare:
        prepare(matrix, x)()
    assert native_name().startswith(native.name)
