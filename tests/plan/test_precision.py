"""Bytes per weight with their scales, against files that exist."""

from __future__ import annotations

import pytest

from fathom.config import preset
from fathom.cost import checkpoint_bytes
from fathom.errors import ConfigError
from fathom.plan.precision import PRECISIONS, precision
from fathom.plan.shape import from_config


def test_fp8_blocks_are_those_of_the_released_checkpoint() -> None:
    config = preset("deepseek-v3")
    shape = from_config(config)
    matrices = [(block.count, m) for block in shape.blocks for m in block.matrices]
    matrices += [(shape.mtp_depth, m) for m in (shape.mtp.matrices if shape.mtp else ())]
    each = precision("fp8").weight_bytes
    total = sum(count * m.elements * (each if m.quantised else 2.0) for count, m in matrices)
    total += 4 * shape.embedding * 2.0  # embedding and head, once more in the MTP module
    assert total == pytest.approx(checkpoint_bytes(config), rel=1e-3)


def test_q4_k_m_is_the_size_that_people_report() -> None:
    shape = from_config(preset("deepseek-v3"))
    assert shape.parameters * precision("q4_k_m").weight_bytes == pytest.approx(404e9, rel=0.03)  # 404 GB file


def test_fewer_bits_are_fewer_bytes() -> None:
    order = ["fp32", "bf16", "q8_0", "int8", "fp8", "q4_k_m", "int4", "mxfp4"]
    sizes = [PRECISIONS[name].weight_bytes for name in order]
    assert sizes == sorted(sizes, reverse=True)


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="nvfp4"):
        precision("nvfp")
