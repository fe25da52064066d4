"""The planner's view of a DeepSeek model counts what cost/model.py counts; attention and experts by hand."""

from __future__ import annotations

import pytest

from fathom.config import PRESETS, SHAPES, preset
from fathom.cost import (
    activated_parameters,
    attention_flops,
    cache_bytes_per_token,
    experts_met,
    mtp_parameters,
    parameters,
)
from fathom.plan.shape import Attention, Moe, from_config, merged

CONFIGS = {name: preset(name) for name in PRESETS} | {f"shape {name}": shape for name, shape in SHAPES.items()}


@pytest.mark.parametrize("name", CONFIGS)
def test_counts_equal_those_of_the_cost_room(name: str) -> None:
    config = CONFIGS[name]
    shape = from_config(config)
    assert shape.parameters == parameters(config)
    assert shape.activated == activated_parameters(config, embedding=False)
    assert shape.mtp_parameters == mtp_parameters(config)
    assert 2 * shape.cache_values == cache_bytes_per_token(config)
    assert shape.layers == config.num_hidden_layers
    assert shape.moe_layers == sum(map(config.is_moe, range(config.num_hidden_layers)))


@pytest.mark.parametrize("absorbed", [True, False])
def test_attention_costs_what_the_cost_room_says(absorbed: bool) -> None:
    config = preset("deepseek-v3")
    attention = from_config(config).blocks[0].attention
    assert attention.flops(4989, absorbed=absorbed) == attention_flops(config, 4989, absorbed=absorbed)


def test_the_published_work_of_mla() -> None:
    attention = from_config(preset("deepseek-v3")).blocks[0].attention
    assert attention.flops(1) == 81_920 and attention.flops(1, absorbed=True) == 278_528


def test_layers_that_are_alike_are_one_block() -> None:
    shape = from_config(preset("deepseek-v3"))
    assert [block.count for block in shape.blocks] == [3, 58]
    first = shape.blocks[0]
    assert merged([first, first]) == merged([merged([first, first])[0]])


def test_heads_windows_and_states() -> None:
    heads = Attention("heads", heads=64, kv_heads=8, qk_dim=128, v_dim=128)
    assert heads.cache_values == 2048 and heads.state_values == 0
    assert heads.flops(1000) == 2 * 64 * 256 * 1000
    window = Attention("heads", heads=64, kv_heads=8, qk_dim=64, v_dim=64, window=128)
    assert window.seen(1000) == 128 and window.seen(100) == 100 and window.flops(10_000) == window.flops(128)
    linear = Attention("linear", heads=64, kv_heads=16, qk_dim=128, v_dim=128)
    assert linear.cache_values == 0 and linear.state_values == 64 * 128 * 128
    assert linear.flops(10) == linear.flops(10_000)


def test_experts_met_as_in_the_cost_room() -> None:
    moe, config = Moe(256, 8, 2048), preset("deepseek-v3")
    for tokens, published in ((1, 8), (4, 30.5), (16, 102), (32, 163), (64, 222), (128, 252)):
        assert moe.met_by(tokens) == pytest.approx(experts_met(config, tokens))
        assert moe.met_by(tokens) == pytest.approx(published, rel=0.01)
