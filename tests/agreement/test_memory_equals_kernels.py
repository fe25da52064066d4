"""The working space that cost predicts is the one that the kernels lay out."""

from __future__ import annotations

import pytest
import torch

from fathom import cost
from fathom.checkpoint.reader import DTYPES
from fathom.config import SHAPES, ModelConfig, preset
from fathom.model import PackedTransformer
from fathom.ops.packing import PackedMatrix
from tests.tolerances import WORKSPACE


def hollow(config: ModelConfig) -> dict[str, PackedMatrix | torch.Tensor]:
    """A packed model of the right shapes without values: memory that nobody touches is not there."""
    made: dict[str, PackedMatrix | torch.Tensor] = {w.name: torch.empty(w.shape) for w in cost.vectors(config)}
    for name, matrix, _ in cost.single_matrices(config):
        kind = cost.kind_for(config, matrix, "bf16")
        data = torch.empty(cost.stored(kind, matrix.rows, matrix.columns)[0][1], dtype=DTYPES[kind.upper()])
        made[name] = PackedMatrix(kind, matrix.rows, matrix.columns, 1, data)
    return made


@pytest.mark.parametrize("config", [preset("nano"), SHAPES["small"], SHAPES["m4b"]], ids=["shipped", "small", "m4b"])
def test_the_working_space_of_a_step(config: ModelConfig) -> None:
    model = PackedTransformer.open(config, hollow(config), threads=2)
    if model is None:
        pytest.skip("no kernels here")
    for tokens in (128, 512):
        counted = cost.workspace_bytes(config, tokens, 2, mtp=model.mtp_modules > 0)
        assert counted == pytest.approx(model.kernels.space_bytes(tokens), rel=WORKSPACE)
