"""Packing takes each matrix of a checkpoint to the kernels' order: by hand and by `pack_checkpoint` it is the same."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fathom.checkpoint import Reader, save_weights
from fathom.checkpoint.convert import convert
from fathom.checkpoint.pack import Plain, convert_packed, cut_heads
from fathom.config import ModelConfig
from fathom.cost import Cut, single_matrices
from fathom.errors import CheckpointError
from fathom.ops.packing import pack, unpack
from tests.checkpoint.tiny import TINY, WIDE, made_up, write_model

ODD = replace(TINY, num_attention_heads=14, num_key_value_heads=14, qk_nope_head_dim=6, v_head_dim=6)


def opened(directory: Path, **options: bool) -> Plain:
    return Plain(Reader(directory), ModelConfig.read(directory), **options)


def test_heads_are_cut_padded_and_stacked() -> None:
    weight = torch.arange(2 * 5 * 3.0).view(10, 3)  # two heads of five rows
    part = cut_heads(weight, Cut(2, 1, 4)).view(2, 16, 3)
    assert torch.equal(part[:, :3], weight.view(2, 5, 3)[:, 1:4]) and not part[:, 3:].any()
    turned = cut_heads(weight, Cut(2, 1, 4, transposed=True)).view(2, 16, 3)
    assert torch.equal(turned[:, :3], weight.view(2, 5, 3)[:, 1:4].mT) and not turned[:, 3:].any()
    assert cut_heads(weight, None) is weight


@pytest.mark.parametrize("piece", [1, 40 * 20, 1 << 20])
@pytest.mark.parametrize("kind", ["f32", "bf16", "i8", "i4"])
def test_every_matrix_is_what_packing_by_hand_gives(
    tmp_path: Path, kind: str, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fathom.checkpoint.pack.PIECE", piece)
    plain, made = opened(write_model(tmp_path / "m")), made_up(TINY)
    for name, matrix, expert in single_matrices(plain.config):
        own = plain.kind(matrix, expert, kind)
        source = made[matrix.source.name.replace("{expert}", str(expert))].float()
        found, expected = plain.packed(matrix, expert, own), pack(cut_heads(source, matrix.cut), own)
        assert (found.kind, found.rows, found.columns) == (own, matrix.rows, matrix.columns), name
        assert torch.equal(found.data, expected.data)
        assert (found.scale is None) == (expected.scale is None)
        assert found.scale is None or torch.equal(found.scale, expected.scale)


def test_auto_keeps_what_is_stored(tmp_path: Path) -> None:
    made = made_up(TINY) | {"model.layers.0.self_attn.o_proj.weight": torch.ones(48, 8)}
    save_weights(tmp_path / "m", made, TINY.to_dict())
    plain = opened(tmp_path / "m")
    kinds = {name: plain.kind(matrix, expert, "auto") for name, matrix, expert in single_matrices(plain.config)}
    assert {name for name, kind in kinds.items() if kind == "f32" and "mlp.gate." not in name} == {
        "model.layers.0.self_attn.o_proj.weight"
    }
    assert set(kinds.values()) == {"f32", "bf16"}


@pytest.mark.parametrize(
    ("config", "unfit"), [(TINY, set()), (WIDE, set()), (ODD, {"q_b_proj", "v_b_proj"})], ids=["tiny", "wide", "odd"]
)
def test_fp8_blocks_stay_what_they_are(tmp_path: Path, config: ModelConfig, unfit: set[str]) -> None:
    """Where a block would span two heads, the matrix is kept in float32: nothing is rounded either way."""
    convert(write_model(tmp_path / "m", config), tmp_path / "fp8", fp8=True)
    plain = opened(tmp_path / "fp8")
    kinds = set()
    for _, matrix, expert in single_matrices(plain.config):
        kind = plain.kind(matrix, expert, "auto")
        kinds.add((matrix.short, kind))
        source = plain.read(matrix.source.name.replace("{expert}", str(expert)))
        assert torch.equal(unpack(plain.packed(matrix, expert, kind)), cut_heads(source, matrix.cut)), matrix.name
    per_head = {(name, "f32" if name in unfit else "f8") for name in ("q_b_proj", "k_b_proj", "v_b_proj")}
    assert per_head | {("o_proj", "f8"), ("gate", "f32")} <= kinds
    assert ("lm_head", "bf16") in kinds and ("eh_proj", "bf16") in kinds


def test_mtp_modules_that_are_missing_or_not_wanted_are_left_out(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "m", replace(TINY, num_nextn_predict_layers=0))
    table = TINY.to_dict()
    assert table["num_nextn_predict_layers"] == 1
    (directory / "config.json").write_text(json.dumps(table))
    assert opened(directory).config.num_nextn_predict_layers == 0
    convert_packed(directory, tmp_path / "packed", kind="i8")
    assert ModelConfig.read(tmp_path / "packed").num_nextn_predict_layers == 0
    whole = write_model(tmp_path / "whole")
    assert opened(whole).config.num_nextn_predict_layers == 1
    assert opened(whole, mtp=False).config.num_nextn_predict_layers == 0


def test_a_packed_checkpoint_says_how_and_carries_the_tokenizer(tmp_path: Path) -> None:
    done = convert_packed(write_model(tmp_path / "m"), tmp_path / "p", kind="i4", group=64, max_shard_bytes=20_000)
    assert (tmp_path / "p" / "tokenizer.json").is_file() and done.files > 1
    config = json.loads((tmp_path / "p" / "config.json").read_text())
    assert config["quantization_config"] == {"quant_method": "fathom", "bits": 4, "group": 64}
    with Reader(tmp_path / "p") as reader:
        assert (done.tensors, done.bytes) == (len(reader.tensors), reader.total_bytes)


def test_matrices_made_with_more_care_are_taken_as_they_are(tmp_path: Path) -> None:
    name = "model.layers.1.mlp.experts.2.up_proj.weight"
    mine = pack(torch.full((24, 48), 0.5), "i4", 32)
    convert_packed(write_model(tmp_path / "m"), tmp_path / "p", kind="i4", made={name: mine})
    with Reader(tmp_path / "p") as reader:
        assert torch.equal(reader.read(name), mine.data) and torch.equal(reader.read(name + "_scale"), mine.scale)


def test_what_cannot_be_packed_is_refused(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "m")
    with pytest.raises(CheckpointError, match="both source and target"):
        convert_packed(directory, directory, kind="i8")
    convert_packed(directory, tmp_path / "p", kind="i8")
    with pytest.raises(CheckpointError, match="is packed already"):
        convert_packed(tmp_path / "p", tmp_path / "again", kind="i4")
    made = made_up(TINY)
    for name, value, match in (
        ("model.layers.1.mlp.experts.0.up_proj.weight", torch.full((24, 48), torch.inf), "not finite"),
        ("model.layers.1.mlp.experts.0.up_proj.weight", torch.ones(24, 47), "has shape"),
        ("model.layers.9.mlp.up_proj.weight", torch.ones(1, 1), "not expected"),
        ("model.layers.2.embed_tokens.weight", torch.ones(40, 48), "differs from"),
    ):
        save_weights(tmp_path / "bad", made | {name: value}, TINY.to_dict())
        with pytest.raises(CheckpointError, match=match):
            convert_packed(tmp_path / "bad", tmp_path / "x", kind="i8")
    assert not (tmp_path / "x").exists()
