"""A packed checkpoint is mapped as it is, one that is not is packed on loading: the same weights, checked in full."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from fathom.checkpoint import Reader, load_packed, pack_state, refill, save_weights, unpacked
from fathom.checkpoint.convert import convert
from fathom.checkpoint.pack import convert_packed, own_part
from fathom.checkpoint.packed import Kept, Weights
from fathom.checkpoint.reader import TensorInfo
from fathom.config import ModelConfig
from fathom.errors import CheckpointError
from fathom.layout import Layout, Shard
from fathom.layout.rows import here, owned
from fathom.model import Transformer, init_weights
from fathom.ops.packing import PackedMatrix, pack
from tests.checkpoint.tiny import TINY, made_up, write_model
from tests.model.packing import pack_model

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


# --- a rank's part ---------------------------------------------------------------------------------------------------

DIVIDED = replace(TINY, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=4, hidden_size=72)
BLOCKS = replace(  # whole FP8 blocks for each of four ranks
    DIVIDED, qk_nope_head_dim=128, v_head_dim=128, qk_rope_head_dim=128, intermediate_size=512,
    moe_intermediate_size=512,
)  # fmt: skip
LAYOUTS = [Layout(tp=2), Layout(tp=4, ep=2), Layout(dp=2, ep=2), Layout(pp=2, tp=2, ep=2), Layout(pp=3)]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Bytes read of each tensor, by name of its file and offset in it."""
    counted: dict[str, int] = {}
    real = Reader._read_bytes

    def count(self: Reader, info: TensorInfo, offset: int, size: int) -> torch.Tensor:
        name = next(name for name, other in self.tensors.items() if other == info)
        counted[name] = counted.get(name, 0) + size
        return real(self, info, offset, size)

    monkeypatch.setattr(Reader, "_read_bytes", count)
    return counted


def part_of(whole: Weights, shard: Shard) -> Weights:
    """What a rank owns, cut from all that was loaded."""
    found: Weights = {}
    for name, weight in whole.items():
        if here(name, shard, {}):
            own = owned(name, shard)
            found[name] = weight if own is None or isinstance(weight, torch.Tensor) else own_part(weight, own)
    return found


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("stored", ["plain", "fp8", "packed", "packed copy"])
def test_a_rank_loads_the_rows_it_owns_and_reads_no_others(
    tmp_path: Path, stored: str, layout: Layout, reads: dict[str, int]
) -> None:
    directory = write_model(tmp_path / "m", BLOCKS if stored == "fp8" else DIVIDED)
    if stored == "fp8":
        convert(directory, tmp_path / "other", fp8=True)
    elif stored.startswith("packed"):
        convert_packed(directory, tmp_path / "other", kind="i8")
    directory = directory if stored == "plain" else tmp_path / "other"
    config, copy = ModelConfig.read(directory), stored == "packed copy"
    kind = "i8" if stored == "plain" else "auto"
    whole = load_packed(directory, config, kind=kind)
    for rank in range(layout.world_size):
        shard = Shard(config, layout, rank)
        reads.clear()
        wanted = partial(here, shard=shard, placements={})
        found = load_packed(directory, config, kind=kind, shard=shard, wanted=wanted, copy=copy)
        assert same(found, part_of(whole, shard)), rank
        layers = {*shard.layers, *shard.mtp_layers}
        named = {name: int(name.split(".")[2]) for name in reads if name.startswith("model.layers.")}
        foreign = {name for name, layer in named.items() if layer not in layers}
        assert not foreign, foreign
        experts = {int(name.split(".experts.")[1].split(".")[0]) for name in reads if ".experts." in name}
        assert experts <= set(shard.experts)


def test_all_ranks_together_read_a_divided_matrix_once(tmp_path: Path, reads: dict[str, int]) -> None:
    directory, layout = write_model(tmp_path / "m", DIVIDED), Layout(tp=4, ep=4)
    for rank in range(4):
        shard = Shard(DIVIDED, layout, rank)
        wanted = partial(here, shard=shard, placements={})
        load_packed(directory, DIVIDED, kind="i8", shard=shard, wanted=wanted)
    with Reader(directory) as reader:
        sizes = {name: info.bytes for name, info in reader.tensors.items()}
    prefix = "model.layers.1."
    for name in ("self_attn.q_b_proj", "self_attn.o_proj", "mlp.experts.2.up_proj", "mlp.experts.3.down_proj"):
        assert reads[f"{prefix}{name}.weight"] == sizes[f"{prefix}{name}.weight"]
    assert reads["model.layers.0.mlp.gate_proj.weight"] == sizes["model.layers.0.mlp.gate_proj.weight"]
    assert reads[prefix + "self_attn.kv_b_proj.weight"] == 2 * sizes[prefix + "self_attn.kv_b_proj.weight"]
    shared = prefix + "mlp.shared_experts.up_proj.weight"
    assert reads[shared] == 4 * sizes[shared], "every rank has all of it"
    assert reads["model.layers.3.embed_tokens.weight"] == sizes["model.layers.3.embed_tokens.weight"], "a check, once"


@pytest.mark.parametrize("config", [TINY, DIRECT, TIED], ids=["v3", "v2", "tied"])
def test_a_state_dict_is_packed_as_in_the_plainest_way_and_back(config: ModelConfig) -> None:
    model = init_weights(Transformer(config), std=0.1, seed=3)
    found, expected = pack_state(model.state_dict(), config), pack_model(model, "f32")
    if config.tie_word_embeddings:
        expected["lm_head.weight"] = pack(model.state_dict()["model.embed_tokens.weight"], "f32")
    assert same(found, expected)
    back = unpacked(found, config)
    assert all(torch.equal(back[name], tensor) for name, tensor in model.state_dict().items() if name in back)


def test_a_refill_changes_the_values_in_their_place() -> None:
    one, other = (init_weights(Transformer(TINY), std=0.1, seed=seed).state_dict() for seed in (3, 4))
    found = pack_state(one, TINY)
    places = {name: w.data_ptr() if isinstance(w, torch.Tensor) else w.data.data_ptr() for name, w in found.items()}
    refill(found, other, TINY)
    assert same(found, pack_state(other, TINY)) and not same(found, pack_state(one, TINY))
    for name, weight in found.items():
        assert places[name] == (weight if isinstance(weight, torch.Tensor) else weight.data).data_ptr()
