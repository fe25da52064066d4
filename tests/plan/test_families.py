"""Published sizes of dense and GQA models, from the keys of their config.json; what a file lacks is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fathom.config import PRESETS
from fathom.errors import ConfigError
from fathom.plan import families

#: Billions of parameters, total and activated, of the model cards; activated of dense models: all of them.
PUBLISHED = {
    "llama-2-7b": (6.74, 6.74), "llama-2-13b": (13.02, 13.02), "llama-2-70b": (68.98, 68.98),
    "llama-3.1-8b": (8.03, 8.03), "llama-3.1-70b": (70.55, 70.55), "llama-3.1-405b": (405.85, 405.85),
    "qwen2.5-72b": (72.71, 72.71), "qwen3-8b": (8.19, 8.19), "qwen3-32b": (32.76, 32.76), "qwen3-0.6b": (0.60, 0.60),
    "qwen3-30b-a3b": (30.53, 3.3), "qwen3-235b-a22b": (235.09, 22.0), "mixtral-8x7b": (46.7, 12.9),
    "mixtral-8x22b": (140.6, 39.1), "gpt-oss-120b": (116.83, 5.13), "gpt-oss-20b": (20.91, 3.61),
    "llama-4-scout": (109.0, 17.0), "llama-4-maverick": (400.0, 17.0), "minimax-m2.5": (230.0, 10.0),
    "qwen3.5-397b-a17b": (397.0, 17.0), "deepseek-67b": (67.4, 67.4),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name: str) -> None:
    shape = families.find(name)
    total, activated = PUBLISHED[name]
    assert shape.parameters / 1e9 == pytest.approx(total, rel=0.012)
    with_embedding = shape.activated + (0 if shape.tied else shape.embedding)
    assert min(abs(n / 1e9 / activated - 1) for n in (shape.activated, with_embedding)) < 0.09


def test_every_model_that_is_shipped_is_held_against_its_card() -> None:
    assert {*PUBLISHED} == {*families.known()} - {*PRESETS}


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("gpt-oss-120b", 116_829_156_672),
        ("gpt-oss-20b", 20_914_757_184),
        ("llama-3.1-8b", 8_030_261_248),
        ("llama-3.1-70b", 70_553_706_496),
        ("llama-3.1-405b", 405_853_388_800),
        ("llama-2-7b", 6_738_415_616),
        ("llama-2-13b", 13_015_864_320),
        ("llama-2-70b", 68_976_648_192),
        ("qwen3-0.6b", 596_049_920),
        ("qwen3-8b", 8_190_735_360),
        ("qwen3-32b", 32_762_123_264),
        ("qwen3-30b-a3b", 30_532_122_624),
        ("qwen3-235b-a22b", 235_093_634_560),
        ("qwen2.5-72b", 72_706_203_648),
        ("mixtral-8x7b", 46_702_792_704),
        ("mixtral-8x22b", 140_630_071_296),
    ],
)
def test_counts_are_those_of_the_files_to_the_last_parameter(name: str, count: int) -> None:
    """As huggingface.co counts the tensors of each checkpoint."""
    assert families.find(name).parameters == count


@pytest.mark.parametrize(
    ("name", "size"), [("llama-3.1-405b", 516_096), ("qwen2.5-72b", 327_680), ("deepseek-v3", 70_272)]
)
def test_published_cache_of_a_token(name: str, size: int) -> None:
    assert 2 * families.find(name).cache_values == size


def test_every_name_is_found_and_differs() -> None:
    shapes = [families.find(name) for name in families.known()]
    assert len({shape.name for shape in shapes}) == len(families.known())


def test_layers_that_differ() -> None:
    oss, maverick = families.find("gpt-oss-120b"), families.find("llama-4-maverick")
    assert {block.attention.window for block in oss.blocks} == {128, None}
    assert maverick.moe_layers == 24 and maverick.layers == 48
    hybrid = families.find("qwen3.5-397b-a17b")
    kinds = [block.attention.kind for block in hybrid.blocks for _ in range(block.count)]
    assert kinds.count("heads") == 15 and kinds.count("linear") == 45


def test_a_file_and_its_directory(tmp_path: Path) -> None:
    config = {
        "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 128, "vocab_size": 100, "max_position_embeddings": 512,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    shape = families.find(tmp_path)
    attention = 64 * 64 * 2 + 64 * 32 * 2
    assert shape.parameters == 2 * (attention + 3 * 64 * 128 + 2 * 64) + 2 * 100 * 64 + 64
    assert shape == families.find(tmp_path / "config.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [({"model_type": "lama"}, "did you mean 'llama'"), ({"hidden_size": None}, "hidden_size is missing"),
     ({"vocab_size": -1}, "vocab_size is -1"), ({"num_hidden_layers": "two"}, "num_hidden_layers is 'two'")],
)  # fmt: skip
def test_what_is_wrong_is_named(change: dict[str, object], message: str) -> None:
    table = {
        "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 128, "vocab_size": 100, "max_position_embeddings": 512,
    }  # fmt: skip
    with pytest.raises(ConfigError, match=message):
        families.from_dict(table | change, "x")


@pytest.mark.parametrize("name", ["deepseek-v33", "", "a" * 400, "no/such/directory"])
def test_an_unknown_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="deepseek-v3"):
        families.find(name if name else "deepseek-v33")


@pytest.mark.parametrize("table", [[], [1], "x", 3, None])
def test_a_file_that_holds_no_table_is_refused(table: object, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(table))
    with pytest.raises(ConfigError, match="no table"):
        families.find(tmp_path)
