"""The four measured shapes are what their names say."""

from __future__ import annotations

import pytest

from fathom.config import SHAPES
from fathom.cost import activated_parameters, mtp_parameters, parameters, tensors


@pytest.mark.parametrize(
    ("name", "total", "activated"), [("nano", 39e6, 17.5e6), ("small", 0.41e9, 150e6), ("m4b", 3.7e9, 640e6),
                                     ("lite", 15.4e9, 2.3e9)],
)  # fmt: skip
def test_parameters_are_as_published(name: str, total: float, activated: float) -> None:
    config = SHAPES[name]
    assert parameters(config) == pytest.approx(total, rel=0.02)
    assert activated_parameters(config, embedding=False) == pytest.approx(activated, rel=0.02)


def test_they_are_v3_with_one_leading_dense_layer() -> None:
    assert list(SHAPES) == ["nano", "small", "m4b", "lite"]
    for config in SHAPES.values():
        assert [config.is_moe(layer) for layer in range(3)] == [False, True, True]
        assert (config.model_type, config.scoring_func, config.topk_method) == ("deepseek_v3", "sigmoid", "noaux_tc")
        assert config.rope_scaling is None and config.norm_topk_prob and config.max_position_embeddings == 8192
        assert sum(name.endswith("e_score_correction_bias") for name, *_ in tensors(config)) > 0


def test_only_the_small_ones_predict_two_tokens() -> None:
    assert {name: mtp_parameters(config) > 0 for name, config in SHAPES.items()} == {
        "nano": True, "small": True, "m4b": False, "lite": False,
    }  # fmt: skip
