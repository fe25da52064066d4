"""Models known by a name and a size."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fathom.errors import ConfigError
from fathom.plan.training.sized import nanochat, of_size, plain, shape_of


@pytest.mark.parametrize(("parameters", "layers", "hidden"), [(175e9, 96, 12288), (6.7e9, 32, 4096), (13e9, 40, 5120)])
def test_sizes_have_the_layers_of_gpt_and_opt(parameters: float, layers: int, hidden: int) -> None:
    """GPT-3 175B, OPT 6.7B and 13B (arXiv:2205.01068, table 1)."""
    shape = of_size(parameters)
    assert shape.layers == pytest.approx(layers, abs=1) and shape.hidden == pytest.approx(hidden, rel=0.035)


@given(st.floats(1e8, 2e12))
def test_a_shape_has_about_the_parameters_that_were_asked_for(parameters: float) -> None:
    shape = of_size(parameters)
    assert shape.parameters - shape.embedding == pytest.approx(parameters, rel=0.13)


def test_nanochat_has_the_flops_that_its_run_prints() -> None:
    """d24: 4.331e19 FLOP in 16,704 steps of 524,288 tokens, all pairs of its windows counted."""
    shape = nanochat(24)
    attention = sum(3 * block.count * block.attention.flops(2048) for block in shape.blocks)
    assert 6 * shape.activated + attention == pytest.approx(4.331e19 / 16704 / 524288, rel=0.02)


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("DeepSeekV3", "deepseek-v3"), ("DeepSeek-V3 671B-A37B", "deepseek-v3"), ("LLAMA3 70B", "llama-3.1-70b"),
        ("LLAMA3.1 405B", "llama-3.1-405b"), ("Qwen3 30B a3B", "qwen3-30b-a3b"), ("GPT OSS 120B", "gpt-oss-120b"),
        ("Llama-2-7B", "llama-2-7b"), ("Kimi K2", "kimi-k2"), ("Llama-4-Scout 109B-A17B", "llama-4-scout"),
    ],
)  # fmt: skip
def test_models_are_found_however_they_are_spelled(said: str, name: str) -> None:
    assert shape_of(said).name == name


def test_a_model_without_name_or_size_is_refused() -> None:
    assert shape_of("BLOOM-176B").parameters == pytest.approx(176e9, rel=0.1)
    assert shape_of("StarCoder", 15.5e9).parameters == pytest.approx(15.5e9, rel=0.1)
    with pytest.raises(ConfigError, match="names no size"):
        shape_of("StarCoder")
    assert plain("LLAMA3.1 405B") == "llama31405b"
