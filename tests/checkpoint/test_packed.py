"""A packed checkpoint is mapped as it is, one that is not is packed on loading: the same weights, checked in full."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fathom.checkpoint import Reader, load_packed, save_weights, unpacked
from fathom.checkpoint.convert import convert
from fathom.checkpoint.pack import convert_packed
from fathom.checkpoint.packed import Kept
from fathom.config import ModelConfig
from fathom.errors import CheckpointError
from fathom.ops.packing import PackedMatrix, pack
from tests.checkpoint.tiny import TINY, made_up, write_model

TIED = replace(TINY, tie_word_embeddings=True)
DIRECT = replace(TINY, q_lora_rank=None, num_nextn_predict_layers=0, scoring_func="softmax", topk_method="greedy",
                 n_group=1, model_type="deepseek_v2")  # fmt: skip


def same(one: Mapping[str, PackedMatrix | torch.Tensor], two: Mapping[str, PackedMatrix | torch.Tensor]) -> bool:
    def parts(weight: PackedMatrix | torch.Tensor) -> list[torch.Tensor]:
        if isinstance(weight, torch.Tensor):
            return [weight]
        return [weight.data] if weight.scale is None else [weight.data, weight.scale]

    def facts(weight: PackedMatrix | torch.Tensor) -> tuple[object, ...]:
        if isinstance(weight, torch.Tensor):
            return (weight.dtype,)
        return weight.kind, weight.rows, weight.columns, weight.group

    return one.keys() == two.keys() and all(
        facts(one[name]) == facts(two[name]) and all(map(torch.equal, parts(one[name]), parts(two[name])))
        for name in one
    )


@pytest.mark.parametrize("kind", ["f32", "bf16", "i8", "i4"])
@pytest.mark.parametrize("config", [TINY, TIED, DIRECT], ids=["mtp", "tied", "direct queries"])
def test_from_disk_or_packed_on_loading_it_is_the_same(tmp_path: Path, config: ModelConfig, kind: str) -> None:
    directory = write_model(tmp_path / "m", config)
    convert_packed(directory, tmp_path / "p", kind=kind, max_shard_bytes=30_000)
    mapped = load_packed(tmp_path / "p", ModelConfig.read(tmp_path / "p"))
    assert same(mapped, load_packed(directory, config, kind=kind))
    assert same(mapped, load_packed(tmp_path / "p", ModelConfig.read(tmp_path / "p"), copy=True))
    for weight in mapped.values():
        for tensor in (weight,) if isinstance(weight, torch.Tensor) else (weight.data, weight.scale):
            assert tensor is None or tensor.data_ptr() % 64 == 0


@pytest.mark.parametrize("config", [TINY, TIED, DIRECT], ids=["mtp", "tied", "direct queries"])
def test_unpacked_float32_is_the_checkpoint(tmp_path: Path, config: ModelConfig) -> None:
    made = made_up(config)
    found = unpacked(load_packed(write_model(tmp_path / "m", config), config), config)
    for name, weight in found.items():
        stored = made["model.embed_tokens.weight" if config.tie_word_embeddings and "lm_head" in name else name]
        assert torch.equal(weight, stored.float()), name
    repeated = {"model.layers.2.embed_tokens.weight", "model.layers.2.shared_head.head.weight"}
    assert made.keys() - found.keys() == made.keys() & repeated


def test_fp8_loads_as_its_blocks(tmp_path: Path) -> None:
    convert(write_model(tmp_path / "m"), tmp_path / "fp8", fp8=True)
    convert(tmp_path / "fp8", tmp_path / "back", dtype=torch.float32)
    config = ModelConfig.read(tmp_path / "fp8")
    weights = load_packed(tmp_path / "fp8", config)
    assert weights["model.layers.0.self_attn.o_proj.weight"].kind == "f8"
    found = unpacked(weights, config)
    with Reader(tmp_path / "back") as reader:
        assert all(torch.equal(found[name], reader.read(name).float()) for name in found)
    eight, expected = load_packed(tmp_path / "fp8", config, kind="i8"), load_packed(tmp_path / "back", TINY, kind="i8")
    for each in (eight, expected):
        del each["model.embed_tokens.weight"]  # bf16 in one file, float32 in the other
    assert same(eight, expected)


def test_mtp_modules_can_be_left_out(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "m")
    convert_packed(directory, tmp_path / "p", kind="i8")
    config = ModelConfig.read(tmp_path / "p")
    without = load_packed(tmp_path / "p", config, mtp=False)
    assert same(without, load_packed(directory, TINY, kind="i8", mtp=False))
    assert not any("layers.2." in name for name in without) and any("layers.1." in name for name in without)
    assert not any("layers.2." in name for name in unpacked(without, config))
    assert same(without, load_packed(tmp_path / "p", replace(config, num_nextn_predict_layers=0)))


def test_another_kind_than_the_packed_one_cannot_be_had(tmp_path: Path) -> None:
    convert_packed(write_model(tmp_path / "m"), tmp_path / "p", kind="i8")
    config = ModelConfig.read(tmp_path / "p")
    assert load_packed(tmp_path / "p", config, kind="i8")
    with pytest.raises(CheckpointError, match="packed as i8; i4 is asked for"):
        load_packed(tmp_path / "p", config, kind="i4")


NAME = "model.layers.1.self_attn.o_proj.weight"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({NAME: None}, "1 tensors are missing"),
        ({NAME + "_scale": None}, "no scale"),
        ({NAME: torch.ones(3, 9, 16, 4, dtype=torch.int8)}, "no kind of matrix of 48 x 8"),
        ({NAME: torch.ones(3, 8, 16, 4, dtype=torch.int16)}, "no kind of matrix of 48 x 8"),
        ({NAME + "_scale": torch.ones(3, 1, 16)}, "no kind of matrix of 48 x 8"),
        ({NAME + "_scale": torch.ones(3, 2, 16, dtype=torch.float16)}, "no kind of matrix of 48 x 8"),
        ({"model.norm.weight": torch.ones(47)}, "'model.norm.weight' is torch.float32"),
        ({"model.norm.weight": torch.ones(48, dtype=torch.bfloat16)}, "'model.norm.weight' is torch.bfloat16"),
        ({"model.embed_tokens.weight": torch.ones(40, 48, dtype=torch.int8)}, "'model.embed_tokens.weight' is"),
        ({"model.norm.weight_scale": torch.ones(1), "more": torch.ones(1)}, "2 tensors are not expected"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_before_a_file_is_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, torch.Tensor | None], match: str
) -> None:
    convert_packed(write_model(tmp_path / "m"), tmp_path / "p", kind="i8")
    with Reader(tmp_path / "p") as reader:
        held = {name: reader.read(name) for name in reader.tensors} | change
    config = json.loads((tmp_path / "p" / "config.json").read_text())
    save_weights(tmp_path / "p", {name: value for name, value in held.items() if value is not None}, config)
    monkeypatch.setattr("fathom.checkpoint.packed._map", lambda *_: pytest.fail("a file was mapped"))
    with pytest.raises(CheckpointError, match=match):
        load_packed(tmp_path / "p", ModelConfig.read(tmp_path / "p"))


def test_kinds_may_be_mixed(tmp_path: Path) -> None:
    """They describe themselves: a file of another maker may choose other bits for a matrix."""
    convert_packed(write_model(tmp_path / "m"), tmp_path / "p", kind="i8")
    mine = pack(made_up(TINY)[NAME].float(), "i4", 128)
    with Reader(tmp_path / "p") as reader:
        held = {name: reader.read(name) for name in reader.tensors} | {NAME: mine.data, NAME + "_scale": mine.scale}
    save_weights(tmp_path / "p", held, json.loads((tmp_path / "p" / "config.json").read_text()))
    found = load_packed(tmp_path / "p", ModelConfig.read(tmp_path / "p"))[NAME]
    assert isinstance(found, PackedMatrix) and (found.kind, found.group) == ("i4", mine.group)
    assert torch.equal(found.data, mine.data)


@pytest.mark.parametrize("other", ["mlp.experts.2.up_proj", "mlp.shared_experts.gate_proj"])
def test_matrices_that_read_the_same_activations_must_be_alike(tmp_path: Path, other: str) -> None:
    """The kernels round what gate, up and all experts read once."""
    convert_packed(write_model(tmp_path / "m"), tmp_path / "p", kind="i8")
    name = f"model.layers.1.{other}.weight"
    mine = pack(made_up(TINY)[name].float(), "i8", 32)
    with Reader(tmp_path / "p") as reader:
        held = {key: reader.read(key) for key in reader.tensors} | {name: mine.data, name + "_scale": mine.scale}
    save_weights(tmp_path / "p", held, json.loads((tmp_path / "p" / "config.json").read_text()))
    with pytest.raises(CheckpointError, match="groups of (32|64).* must be stored alike"):
        load_packed(tmp_path / "p", ModelConfig.read(tmp_path / "p"))


@pytest.mark.parametrize("copy", [False, True])
def test_a_file_cut_between_check_and_map_is_refused(
    copy: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert_packed(write_model(tmp_path / "m"), tmp_path / "p", kind="i8")
    config, file = ModelConfig.read(tmp_path / "p"), tmp_path / "p" / "model.safetensors"
    real = Reader.__init__

    def cut(self: Reader, source: str | Path) -> None:
        real(self, source)
        os.truncate(file, file.stat().st_size - 64)

    monkeypatch.setattr(Reader, "__init__", cut)
    with pytest.raises(CheckpointError, match="it changed since it was opened"):
        load_packed(tmp_path / "p", config, copy=copy)


def test_progress_counts_matrices(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    load_packed(write_model(tmp_path / "m"), TINY, kind="i8", progress=lambda *call: calls.append(call))
    assert calls[-1][0] == calls[-1][1] == len(calls)


def test_what_is_kept_is_a_copy_on_its_own_cache_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fathom.checkpoint.packed.SLAB_BYTES", 4096)
    given = [
        torch.randn(3, 5).to(dtype)
        for dtype in (torch.float32, torch.bfloat16, torch.int8, torch.uint8, torch.float16)
        for _ in range(40)
    ] + [torch.randn(70, 70), torch.empty(0, 4)]  # larger than a slab, and nothing
    kept = Kept()
    copies = [kept.copy(tensor) for tensor in given]
    del kept
    assert all(map(torch.equal, copies, given)) and all(copy.data_ptr() % 64 == 0 for copy in copies if copy.numel())
    for copy in copies[:200]:
        copy.zero_()
    assert torch.equal(copies[200], given[200]), "they overlap"


def test_packing_on_loading_keeps_nothing_but_the_weights(tmp_path: Path) -> None:
    """Each weight lies in a slab, none among temporary memory."""
    found = load_packed(write_model(tmp_path / "m"), TINY, kind="i8")
    weights = [weight.data if isinstance(weight, PackedMatrix) else weight for weight in found.values()]
    assert len({weight.untyped_storage().data_ptr() for weight in weights}) == 1
