"""A GGUF file holds the checkpoint's values under llama.cpp's names; llama.cpp continues texts as fathom does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from fathom.batching.request import SamplingParams
from fathom.checkpoint import Drawn, Reader, load_packed, random_sources, write_packed, write_weights
from fathom.checkpoint.convert import convert
from fathom.checkpoint.gguf import KINDS, export_gguf, metadata
from fathom.config import SHAPES, ModelConfig, RopeScaling, find_model, preset
from fathom.engine import LLM, EngineConfig
from fathom.errors import CheckpointError, ConfigError
from fathom.ops.packing import PackedMatrix, unpack
from fathom.tokenizer import Tokenizer, gguf_vocabulary, placeholder

TINY = replace(
    SHAPES["nano"], vocab_size=300, hidden_size=64, intermediate_size=96, moe_intermediate_size=32, num_hidden_layers=2,
    n_routed_experts=8, q_lora_rank=32, kv_lora_rank=64, num_attention_heads=2, num_key_value_heads=2,
)  # fmt: skip
ROUNDING = {"f32": 0.0, "bf16": 0.0, "q8_0": 0.02, "q4_0": 0.3}  # of the largest value; the source is bf16


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("gguf") / "tiny"
    return made(directory, TINY)


def made(directory: Path, config: ModelConfig) -> Path:
    files: dict[str, Any] = dict(placeholder(config.vocab_size).files())
    write_weights(directory, random_sources(config), config.to_dict(), extra_files=files)
    return directory


def exported(source: Path, target: Path, kind: str | None = None) -> gguf.GGUFReader:
    vocabulary = gguf_vocabulary(Tokenizer.load(source), ModelConfig.read(source).vocab_size)
    done = export_gguf(source, target, kind=kind, vocabulary=vocabulary)
    reader = gguf.GGUFReader(target)
    assert done.tensors == len(reader.tensors)
    assert done.bytes == sum(tensor.n_bytes for tensor in reader.tensors)
    return reader


def values(reader: gguf.GGUFReader) -> dict[str, np.ndarray[Any, Any]]:
    return {t.name: gguf.dequantize(t.data, t.tensor_type).reshape(t.shape[::-1]) for t in reader.tensors}


@pytest.mark.parametrize("kind", KINDS)
def test_tensors_are_the_checkpoints_in_each_type(source: Path, tmp_path: Path, kind: str) -> None:
    reader = exported(source, tmp_path / "tiny.gguf", kind)
    held = values(reader)
    with Reader(source) as stored:
        ours = {name: stored.read(name).float().numpy() for name in stored.tensors}
    experts = [ours[f"model.layers.1.mlp.experts.{expert}.down_proj.weight"] for expert in range(8)]
    heads = ours["model.layers.0.self_attn.kv_b_proj.weight"].reshape(2, -1, 64)
    expected = {
        "token_embd.weight": ours["model.embed_tokens.weight"],
        "output.weight": ours["lm_head.weight"],
        "blk.0.ffn_up.weight": ours["model.layers.0.mlp.up_proj.weight"],
        "blk.1.ffn_down_exps.weight": np.stack(experts),
        "blk.1.ffn_gate_shexp.weight": ours["model.layers.1.mlp.shared_experts.gate_proj.weight"],
        "blk.0.attn_k_b.weight": heads[:, :64].transpose(0, 2, 1),
        "blk.0.attn_v_b.weight": heads[:, 64:],
    }
    for name, wanted in expected.items():
        assert np.abs(held[name] - wanted).max() <= ROUNDING[kind] * np.abs(wanted).max(), name
    for name in ("ffn_gate_inp.weight", "exp_probs_b.bias", "attn_q_a_norm.weight"):
        assert held[f"blk.1.{name}"].dtype == np.float32
    exact = {
        "blk.1.ffn_gate_inp.weight": "mlp.gate.weight",
        "blk.1.exp_probs_b.bias": "mlp.gate.e_score_correction_bias",
    }
    assert all((held[name] == ours[f"model.layers.1.{suffix}"]).all() for name, suffix in exact.items())
    types = {tensor.name: tensor.tensor_type.name.lower() for tensor in reader.tensors}
    assert types["blk.1.ffn_up_exps.weight"] == kind
    assert types["output.weight"] == ("q8_0" if kind == "q4_0" else kind)
    assert not any(name.startswith("blk.2.") for name in types), "the MTP layer is left out"


def test_keys_say_what_config_and_tokenizer_say(source: Path, tmp_path: Path) -> None:
    fields = exported(source, tmp_path / "tiny.gguf").fields
    read = {key: field.contents() for key, field in fields.items()}
    for key, value in metadata(TINY, "bf16", "tiny").items():
        assert read[key] == (pytest.approx(value) if isinstance(value, float) else value), key
    assert read["general.architecture"] == "deepseek2" and read["deepseek2.attention.key_length"] == 64 + 32
    assert read["deepseek2.expert_gating_func"] == gguf.ExpertGatingFuncType.SIGMOID
    assert read["general.file_type"] == gguf.LlamaFileType.MOSTLY_BF16
    assert len(read["tokenizer.ggml.tokens"]) == 300 and read["tokenizer.ggml.bos_token_id"] == 0


def test_the_names_are_the_librarys(source: Path, tmp_path: Path) -> None:
    known = set(gguf.get_tensor_name_map(gguf.MODEL_ARCH.DEEPSEEK2, 2).mapping.values())
    bases = {name for _, name in known}
    assert {t.name.rpartition(".")[0] for t in exported(source, tmp_path / "tiny.gguf").tensors} <= bases


def test_fp8_weights_are_dequantised(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "fp8", fp8=True)
    convert(tmp_path / "fp8", tmp_path / "back", dtype=torch.float32)
    one, two = (values(exported(tmp_path / name, tmp_path / f"{name}.gguf", "f32")) for name in ("fp8", "back"))
    assert one.keys() == two.keys() and all((one[name] == two[name]).all() for name in one)


def test_rows_that_fill_no_blocks_stay_bf16(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    odd = made(tmp_path / "odd", replace(TINY, moe_intermediate_size=24))
    types = {t.name: t.tensor_type.name for t in exported(odd, tmp_path / "odd.gguf", "q4_0").tensors}
    assert types["blk.1.ffn_down_exps.weight"] == "BF16" and types["blk.1.ffn_up_exps.weight"] == "Q4_0"
    assert "no whole blocks of q4_0" in caplog.text


PLAIN_ROWS = {"qk_nope_head_dim": 32, "v_head_dim": 24, "qk_rope_head_dim": 8}  # heads need padding, o_proj's rows 48
PACKED_TYPES = {"bf16": "BF16", "i8": "Q8_0", "i4": "Q4_0"}


def packed(directory: Path, config: ModelConfig, **options: Any) -> Path:
    files: dict[str, Any] = dict(placeholder(config.vocab_size).files())
    write_packed(Drawn(config), directory, config.to_dict(), extra_files=files, **options)
    return directory


def unpacked_by_their_names(source: Path) -> dict[str, np.ndarray[Any, Any]]:
    """What each tensor of the file should hold, from `unpack` alone."""
    config = ModelConfig.read(source)
    held = {
        name: unpack(weight) if isinstance(weight, PackedMatrix) else weight.float()
        for name, weight in load_packed(source, config, mtp=False).items()
    }

    def heads(name: str, rows: int) -> torch.Tensor:
        return held[name].unflatten(0, (config.num_attention_heads, -1))[:, :rows]

    first, second = "model.layers.0.self_attn.", "model.layers.1.mlp."
    expected = {
        "token_embd.weight": held["model.embed_tokens.weight"],
        "output_norm.weight": held["model.norm.weight"],
        "output.weight": held["lm_head.weight"],
        "blk.0.ffn_up.weight": held["model.layers.0.mlp.up_proj.weight"],
        "blk.0.attn_q_b.weight": heads(first + "q_b_proj.weight", config.qk_head_dim).flatten(0, 1),
        "blk.0.attn_k_b.weight": heads(first + "k_b_proj.weight", config.kv_lora_rank),
        "blk.0.attn_v_b.weight": heads(first + "v_b_proj.weight", config.v_head_dim),
        "blk.0.attn_kv_a_mqa.weight": held[first + "kv_a_proj_with_mqa.weight"],
        "blk.0.attn_output.weight": held[first + "o_proj.weight"],
        "blk.1.ffn_gate_inp.weight": held[second + "gate.weight"],
        "blk.1.exp_probs_b.bias": held[second + "gate.e_score_correction_bias"],
        "blk.1.ffn_down_shexp.weight": held[second + "shared_experts.down_proj.weight"],
    } | {
        f"blk.1.ffn_{part}_exps.weight": torch.stack(
            [held[f"{second}experts.{expert}.{part}_proj.weight"] for expert in range(8)]
        )
        for part in ("gate", "up", "down")
    }
    return {name: value.numpy() for name, value in expected.items()}


@pytest.mark.parametrize("kind", PACKED_TYPES)
@pytest.mark.parametrize("group", [None, 32, 128])
@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": True}, PLAIN_ROWS, {"torch_dtype": "float32"}])
def test_packed_weights_keep_every_number(
    tmp_path: Path, changes: dict[str, Any], group: int | None, kind: str
) -> None:
    source = packed(tmp_path / "p", replace(TINY, **changes), kind=kind, group=group if kind != "bf16" else None)
    reader = exported(source, tmp_path / "p.gguf")
    held = values(reader)
    for name, wanted in unpacked_by_their_names(source).items():
        assert held[name].shape == wanted.shape and (held[name] == wanted).all(), name
    types = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert types["blk.1.ffn_up_exps.weight"] == PACKED_TYPES[kind]
    assert types["output.weight"] == ("Q8_0" if kind == "i4" else PACKED_TYPES[kind])
    assert types["blk.1.ffn_gate_inp.weight"] == types["blk.0.attn_norm.weight"] == "F32"
    assert types["token_embd.weight"] == ("F32" if "torch_dtype" in changes else "BF16")
    if changes == PLAIN_ROWS and kind != "bf16":
        assert types["blk.0.attn_output.weight"] == "F32"
    assert reader.fields["general.file_type"].contents() == gguf.LlamaFileType[f"MOSTLY_{PACKED_TYPES[kind]}"]


def test_packed_or_plain_it_is_the_same_set_of_tensors(source: Path, tmp_path: Path) -> None:
    one, two = (
        [(tensor.name, tuple(tensor.shape)) for tensor in exported(directory, tmp_path / "x.gguf").tensors]
        for directory in (source, packed(tmp_path / "p", TINY, kind="i8"))
    )
    assert sorted(one) == sorted(two)


def test_packed_weights_are_not_rounded_again(tmp_path: Path) -> None:
    source = packed(tmp_path / "p", TINY, kind="i8")
    with pytest.raises(ConfigError, match="packed at 8 bits, in GGUF q8_0; q4_0 would round them again"):
        exported(source, tmp_path / "p.gguf", "q4_0")
    assert exported(source, tmp_path / "p.gguf", "q8_0").tensors


YARN = RopeScaling(factor=4.0, original_max_position_embeddings=2048, mscale=1.0, mscale_all_dim=0.5)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [({"q_lora_rank": None}, "q_lora_rank"), ({"n_shared_experts": 0}, "n_shared_experts"),
     ({"moe_layer_freq": 2}, "moe_layer_freq"), ({"rope_scaling": YARN}, "mscale")],
)  # fmt: skip
def test_what_llama_cpp_would_misread_is_refused(changes: dict[str, Any], fault: str) -> None:
    with pytest.raises(ConfigError, match=f"llama.cpp cannot run this model: .*{fault}"):
        metadata(replace(TINY, **changes), "bf16", "x")
    assert metadata(preset("deepseek-v2-lite"), "bf16", "x")["deepseek2.expert_gating_func"] == 1
    assert metadata(preset("deepseek-v3"), "bf16", "x")["deepseek2.rope.scaling.yarn_log_multiplier"] == 0.1


def test_a_taken_file_or_a_damaged_source_changes_nothing(source: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="no GGUF file"):
        export_gguf(source, tmp_path / "notes.txt", vocabulary={})
    assert (tmp_path / "notes.txt").read_text() == "mine"
    wrong = made(tmp_path / "wrong", TINY)
    (wrong / "config.json").write_text((wrong / "config.json").read_text().replace('_size": 96', '_size": 128'))
    with pytest.raises(CheckpointError, match=r"is \[96, 64\]; config.json says \[128, 64\]"):
        export_gguf(wrong, tmp_path / "x.gguf", vocabulary={})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", "wrong"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nano", "tiny", "yarn"])
def test_llama_cpp_continues_as_fathom_does(name: str, source: Path, tmp_path: Path) -> None:
    llama_cpp = pytest.importorskip("llama_cpp")
    model = find_model("nano") if name == "nano" else source
    if name == "yarn":
        model = made(tmp_path / "yarn", replace(TINY, rope_scaling=replace(YARN, mscale_all_dim=1.0)))
    exported(model, tmp_path / "model.gguf", "f32")
    llama = llama_cpp.Llama(
        str(tmp_path / "model.gguf"), n_ctx=256, logits_all=True, verbose=False, type_k=0, type_v=0, n_threads=1
    )
    prompts = [f"What is {a} + {a * 7}?" for a in range(20)]
    params = SamplingParams(max_tokens=16, temperature=0.0, ignore_eos=True)
    llm = LLM(model, EngineConfig(max_sequences=4, num_pages=64, bits=32))
    ids = [[0, *llm.tokenizer.encode(prompt)] for prompt in prompts]
    assert [llama.tokenize(prompt.encode(), add_bos=True) for prompt in prompts] == ids
    ours = [list(done.token_ids) for done in llm.generate(ids, params)]
    theirs = []
    for prompt in ids:
        llama.reset()
        taken = zip(range(16), llama.generate(prompt, temp=0.0, repeat_penalty=1.0), strict=False)
        theirs.append([token for _, token in taken])
    equal = sum(a == b for a, b in zip(ours, theirs, strict=True))
    assert equal >= 19, f"{equal} of 20 continuations are equal"
