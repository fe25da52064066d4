"""Loading, checking, refusing: a wrong library never serves, a wrong index never reads or writes."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from fathom.ops.cpu import build, structs
from fathom.ops.cpu.native import Library, check, load, must, rounded
from fathom.ops.packing import PackedMatrix, pack
from tests.ops.cases import randn


def test_every_variant_passes_the_check_at_load(variant: Library) -> None:
    check(variant)


@pytest.mark.parametrize("kind", ["f32", "bf16", "f8", "i8", "i4"])
def test_a_kernel_that_answers_wrongly_is_found_at_load(
    kind: str, native: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = native.product

    def wrong(matrix: PackedMatrix, x: torch.Tensor, threads: int = 1) -> torch.Tensor:
        return right(matrix, x, threads) * (1.01 if matrix.kind == kind else 1.0)

    monkeypatch.setattr(native, "product", wrong)
    with pytest.raises(build.Unavailable, match=f"^{kind} products differ"):
        check(native)


def test_loading_a_compiled_library_is_quick(library: Path) -> None:
    load()
    began = time.process_time()
    load()
    assert time.process_time() - began < 0.5  # measured 0.03 s; the limit is for a user's first token


def test_another_abi_is_refused(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(structs, "ABI_VERSION", 0)
    with pytest.raises(build.Unavailable, match="speaks ABI"):
        Library(library)


def test_an_unknown_variant_is_refused(library: Path) -> None:
    with pytest.raises(build.Unavailable, match="no sve2 kernels"):
        Library(library, "sve2")


def test_codes_of_the_kernels_become_errors() -> None:
    must(0)
    with pytest.raises(MemoryError, match="working space"):
        must(1)
    with pytest.raises(IndexError, match="position or page"):
        must(2)


def test_activations_are_rounded_per_group() -> None:
    x = torch.tensor([[1.0, 0.5, -0.25, 0.004] + [0.0] * 28 + [100.0, 0.3]])
    seen = rounded(x, pack(randn(1, 4, 34), "i8", 32))
    assert torch.allclose(seen[0, :4], torch.tensor([127, 64, -32, 1]) / 127)  # 63.5 and -31.75 to the even and near
    assert seen[0, 32] == 100.0 and seen[0, 33] == 0.0
    assert rounded(x, pack(randn(1, 4, 34), "f32")) is x


def test_a_team_starts_and_ends(native: Library) -> None:
    for threads in (1, 2, 4):
        native.close_team(native.open_team(threads))
