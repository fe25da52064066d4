"""Random weights depend on the seed and the name of a tensor, and on nothing else."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fathom.checkpoint import (
    Drawn,
    Reader,
    convert_packed,
    load_weights,
    random_sources,
    write_packed,
    write_weights,
)
from fathom.checkpoint.pack import pack_checkpoint
from fathom.checkpoint.random import BIAS_STD, draw
from fathom.config import SHAPES
from fathom.model import Transformer

TINY = replace(
    SHAPES["nano"], vocab_size=300, hidden_size=48, intermediate_size=64, moe_intermediate_size=16, num_hidden_layers=2,
    n_routed_experts=8, q_lora_rank=24, kv_lora_rank=32, num_attention_heads=2, num_key_value_heads=2,
)  # fmt: skip


def written(directory: Path, **options: int) -> dict[str, torch.Tensor]:
    write_weights(directory, random_sources(TINY, options.pop("seed", 0)), TINY.to_dict(), **options)
    with Reader(directory) as reader:
        return {name: reader.read(name) for name in reader.tensors}


def test_shards_and_precision_change_no_value(tmp_path: Path) -> None:
    whole, shards = written(tmp_path / "whole"), written(tmp_path / "shards", max_shard_bytes=20_000)
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 5
    assert whole.keys() == shards.keys()
    wide = {source.name: source.load() for source in random_sources(replace(TINY, torch_dtype="float32"))}
    for name, tensor in whole.items():
        assert torch.equal(tensor, shards[name])
        assert torch.equal(tensor, wide[name].to(tensor.dtype))


def test_seeds_and_names_give_other_values(tmp_path: Path) -> None:
    one, two = written(tmp_path / "one"), written(tmp_path / "two", seed=1)
    name, other = "model.layers.1.mlp.experts.0.up_proj.weight", "model.layers.1.mlp.experts.1.up_proj.weight"
    assert not torch.equal(one[name], two[name]) and not torch.equal(one[name], one[other])


def test_bits_are_the_same_on_every_machine() -> None:
    values = draw("model.norm.bias", (5, 7), torch.float32, seed=3)
    digest = hashlib.sha256(values.numpy().tobytes()).hexdigest()
    assert digest[:16] == "cb7e906aa31e1b54"


@pytest.mark.parametrize("shape", [(64, 1000), (400, 100)])
def test_matrices_have_the_spread_of_one_over_root_fan_in(shape: tuple[int, int]) -> None:
    values = draw("a.weight", shape, torch.float32, seed=0)
    assert values.std().item() * shape[1] ** 0.5 == pytest.approx(1, rel=0.01)
    assert abs(values.mean().item()) * shape[1] ** 0.5 < 0.02


def test_norms_are_one_and_biases_small(tmp_path: Path) -> None:
    made = written(tmp_path / "made")
    assert all(bool((tensor == 1).all()) for name, tensor in made.items() if "norm" in name)
    bias = made["model.layers.1.mlp.gate.e_score_correction_bias"]
    assert bias.dtype == torch.float32 and 0 < bias.abs().max() < 2 * BIAS_STD


def test_the_model_loads_them_with_its_mtp_layer(tmp_path: Path) -> None:
    made = written(tmp_path / "made")
    assert torch.equal(made["model.layers.2.shared_head.head.weight"], made["lm_head.weight"])
    model = Transformer(TINY, dtype=torch.bfloat16)
    load_weights(model, tmp_path / "made")
    assert torch.equal(model.model.embed_tokens.weight, made["model.layers.2.embed_tokens.weight"])


@pytest.mark.parametrize("kind", ["bf16", "i8", "i4"])
@pytest.mark.parametrize(
    "changes", [{}, {"tie_word_embeddings": True}, {"torch_dtype": "float32", "q_lora_rank": None}]
)
def test_packed_as_they_are_drawn_the_files_are_the_same(
    tmp_path: Path, changes: dict[str, Any], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fathom.checkpoint.pack.PIECE", 2000)  # several pieces a matrix
    config, small = replace(TINY, **changes), 60_000
    write_weights(tmp_path / "plain", random_sources(config, 4), config.to_dict())
    convert_packed(tmp_path / "plain", tmp_path / "two", kind=kind, max_shard_bytes=small)
    done = write_packed(Drawn(config, 4), tmp_path / "one", config.to_dict(), kind=kind, max_shard_bytes=small)
    files = sorted(path.name for path in (tmp_path / "two").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "one").iterdir()) and done.files > 2
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in files)


def test_one_tensor_is_kept_and_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A matrix is read some rows at a time, and kv_b_proj becomes two."""
    drawn: list[str] = []

    def counted(name: str, *rest: Any) -> torch.Tensor:
        drawn.append(name)
        return draw(name, *rest)

    monkeypatch.setattr("fathom.checkpoint.random.draw", counted)
    monkeypatch.setattr("fathom.checkpoint.pack.PIECE", 1)
    for source in pack_checkpoint(Drawn(TINY), "i8"):
        source.load()
    assert len(drawn) == len(set(drawn))
