"""A checkpoint as one GGUF file, so that llama.cpp and its family run models made with fathom.

What they call `deepseek2` is the same model in other words: kv_b_proj comes as the two halves that absorbed attention
uses, a layer's experts as one stack, rotary pairs interleaved as in the checkpoint. MTP layers are left out.
Packed weights keep their levels: those of 8 and 4 bits are what llama.cpp calls q8_0 and q4_0, in another order.
Source: llama.cpp, conversion/deepseek.py and src/models/deepseek2.cpp.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fathom.checkpoint.convert import Converted
from fathom.checkpoint.fp8 import E4M3, SCALE_SUFFIX, dequantize_fp8
from fathom.checkpoint.packed import Weights, load_packed
from fathom.checkpoint.reader import Reader, hidden, quoted
from fathom.config import ModelConfig
from fathom.cost import KIND_OF_BITS, Matrix, Weight, matrices, weights
from fathom.errors import CheckpointError, ConfigError
from fathom.ops.packing import PackedMatrix, unpack, unpack_levels

log = logging.getLogger(__name__)

ARCHITECTURE = "deepseek2"
KINDS = {"f32": (1, 4), "bf16": (1, 2), "q8_0": (32, 34), "q4_0": (32, 18)}  # values of a row that share a block, bytes
FILE_TYPE = {"f32": 0, "q4_0": 2, "q8_0": 7, "bf16": 32}  # general.file_type, of the bulk of the tensors
GATING = {"softmax": 1, "sigmoid": 2}  # expert_gating_func
KIND_OF_PACKED = {"f32": "f32", "bf16": "bf16", "i8": "q8_0", "i4": "q4_0"}
BLOCK = 32  # values of a row that share a scale in q8_0 and q4_0
WITHOUT_QUERY_LATENT = (26, 27)  # llama.cpp knows V2-Lite by its number of layers
Value = str | int | float | bool | list[str] | list[int]
Bytes = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True)
class Entry:
    """One tensor of the file; the bytes of its parts are fetched one by one and laid one after another."""

    name: str
    shape: tuple[int, ...]
    kind: str
    parts: tuple[Callable[[], Bytes], ...]

    @property
    def bytes(self) -> int:
        values, size = KINDS[self.kind]
        return math.prod(self.shape) // values * size


def export_gguf(
    source: str | Path,
    target: str | Path,
    *,
    kind: str | None = None,
    vocabulary: Mapping[str, Value],
    progress: Callable[[int, int], None] | None = None,
) -> Converted:
    """Write the checkpoint `source` to the file `target`; a layer's stack of experts is the most that is in memory.

    Args:   kind: of the matrices (`file_kind`); vectors and routers stay float32, a head never takes less than q8_0.
            vocabulary: the `tokenizer.` keys (`fathom.tokenizer.gguf_vocabulary`).
    Raises: CheckpointError: `source` is damaged, or `target` is taken or cannot be written.
            ConfigError: llama.cpp has no such model, or the gguf library is not installed.
    """
    target, config = Path(target), ModelConfig.read(source)
    if target.exists() and not _is_gguf(target):
        raise CheckpointError(f"{target} is there already and no GGUF file; name a new one.")
    kind = file_kind(config, kind)
    keys = metadata(config, kind, Path(source).resolve().name) | dict(vocabulary)
    unfinished = hidden(target, "partial")
    written = [w for w in weights(config) if w.layer is None or w.layer < config.num_hidden_layers]
    with Reader(source) as reader:
        if config.packed is None:
            entries = [entry for weight in written for entry in _entries(reader, config, weight, kind)]
        else:
            held = load_packed(source, config, mtp=False)
            entries = [entry for weight in written for entry in _packed_entries(held, config, weight)]
        try:
            _write(unfinished, keys, entries, progress)
            os.replace(unfinished, target)
        except OSError as error:
            raise CheckpointError(f"{target} could not be saved ({error.strerror}); check the disk.") from error
        finally:
            unfinished.unlink(missing_ok=True)
    return Converted(tensors=len(entries), bytes=sum(entry.bytes for entry in entries), files=1)


def file_kind(config: ModelConfig, wanted: str | None) -> str:
    """The type of most matrices: `wanted`, one of KINDS, else bf16; packed weights have one already.

    Raises: ConfigError: another than that is wanted.
    """
    if config.packed is None:
        return wanted or "bf16"
    own = KIND_OF_PACKED[KIND_OF_BITS[config.packed.bits]]
    if wanted not in (None, own):
        raise ConfigError(
            f"the weights are packed at {config.packed.bits} bits, in GGUF {own}; {wanted} would round them again. "
            "Leave --gguf-type out, or convert the checkpoint that they were made from."
        )
    return own


def _library() -> Any:
    try:
        import gguf
    except ImportError:
        raise ConfigError("gguf is not installed; GGUF files need it: pip install 'fathom-llm[peers]'.") from None
    return gguf


def metadata(config: ModelConfig, kind: str, name: str) -> dict[str, Value]:
    """The keys that describe the model; `deepseek2` reads MLA as one key-value head as wide as latent and rotary part.

    Raises: ConfigError: llama.cpp would read another model from these keys.
    """
    _check_known(config)
    grouped = config.topk_method == "noaux_tc"
    keys: dict[str, Value] = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "vocab_size": config.vocab_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": 1,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "attention.kv_lora_rank": config.kv_lora_rank,
        "attention.key_length": config.kv_lora_rank + config.qk_rope_head_dim,
        "attention.value_length": config.kv_lora_rank,
        "attention.key_length_mla": config.qk_head_dim,
        "attention.value_length_mla": config.v_head_dim,
        "rope.dimension_count": config.qk_rope_head_dim,
        "rope.freq_base": config.rope_theta,
        "leading_dense_block_count": config.first_k_dense_replace,
        "expert_count": config.n_routed_experts,
        "expert_used_count": config.num_experts_per_tok,
        "expert_shared_count": config.n_shared_experts,
        "expert_feed_forward_length": config.moe_intermediate_size,
        "expert_group_count": config.n_group if grouped else 1,
        "expert_group_used_count": config.topk_group if grouped else 1,
        "expert_weights_scale": config.routed_scaling_factor,
        "expert_weights_norm": config.norm_topk_prob and config.num_experts_per_tok > 1,
        "expert_gating_func": GATING[config.scoring_func],
    }
    if config.q_lora_rank is not None:
        keys["attention.q_lora_rank"] = config.q_lora_rank
    if scaling := config.rope_scaling:
        keys |= {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": scaling.factor,
            "rope.scaling.original_context_length": scaling.original_max_position_embeddings,
            "rope.scaling.yarn_beta_fast": scaling.beta_fast,
            "rope.scaling.yarn_beta_slow": scaling.beta_slow,
            "rope.scaling.yarn_log_multiplier": 0.1 * scaling.mscale_all_dim,
        }
    general: dict[str, Value] = {
        "general.type": "model", "general.name": name, "general.file_type": FILE_TYPE[kind],
        "general.quantization_version": 2,
    }  # fmt: skip
    return general | {f"{ARCHITECTURE}.{key}": value for key, value in keys.items()}


def _check_known(config: ModelConfig) -> None:
    """Refuse what llama.cpp would load as something else, or not at all."""
    scaling = config.rope_scaling
    faults = {
        "moe_layer_freq must be 1": config.moe_layer_freq != 1,
        "n_shared_experts must be at least 1": config.n_shared_experts == 0,
        "group_limited_greedy routing needs n_group 1": config.topk_method == "group_limited_greedy"
        and config.n_group > 1,
        f"a model without q_lora_rank has {' or '.join(map(str, WITHOUT_QUERY_LATENT))} layers, and no other":
            (config.q_lora_rank is None) != (config.num_hidden_layers in WITHOUT_QUERY_LATENT),
        "mscale and mscale_all_dim must be equal": scaling is not None
        and scaling.mscale_all_dim not in (0.0, scaling.mscale),
    }  # fmt: skip
    if wrong := [what for what, is_wrong in faults.items() if is_wrong]:
        raise ConfigError(f"llama.cpp cannot run this model: {'; '.join(wrong)}.")


_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_LAYER_NAMES = {
    "input_layernorm.weight": "attn_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.q_a_proj.weight": "attn_q_a.weight",
    "self_attn.q_a_layernorm.weight": "attn_q_a_norm.weight",
    "self_attn.q_b_proj.weight": "attn_q_b.weight",
    "self_attn.kv_a_proj_with_mqa.weight": "attn_kv_a_mqa.weight",
    "self_attn.kv_a_layernorm.weight": "attn_kv_a_norm.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "self_attn.k_b_proj.weight": "attn_k_b.weight",
    "self_attn.v_b_proj.weight": "attn_v_b.weight",
    "mlp.gate.weight": "ffn_gate_inp.weight",
    "mlp.gate.e_score_correction_bias": "exp_probs_b.bias",
} | {
    f"mlp.{ours}{part}_proj.weight": f"ffn_{part}{theirs}.weight"
    for ours, theirs in (("", ""), ("experts.{expert}.", "_exps"), ("shared_experts.", "_shexp"))
    for part in ("gate", "up", "down")
}


def _entries(reader: Reader, config: ModelConfig, weight: Weight, kind: str) -> list[Entry]:
    """What becomes of one kind of tensor of one layer: itself under another name, or a stack, or two halves."""
    names = [weight.name.replace("{expert}", str(expert)) for expert in range(weight.copies)]
    for name in names:
        if (stored := reader.info(name).shape) != weight.shape:
            raise CheckpointError(
                f"{reader.source}: {quoted(name)} is {list(stored)}; config.json says {list(weight.shape)}."
            )
    if weight.name.endswith("kv_b_proj.weight"):
        heads, latent = config.num_attention_heads, config.kv_lora_rank
        halves = (
            ("k_b", (heads, latent, config.qk_nope_head_dim), partial(_keys, reader, config, names[0])),
            ("v_b", (heads, config.v_head_dim, latent), partial(_values, reader, config, names[0])),
        )
        return [
            _rounded(_named(weight.name.replace("kv_b", half), weight.layer), shape, kind, [read])
            for half, shape, read in halves
        ]
    shape = (weight.copies, *weight.shape) if "{expert}" in weight.name else weight.shape
    if len(shape) == 1 or weight.part == "router":
        kind = "f32"
    elif kind == "q4_0" and (weight.part == "head" or (weight.part == "embedding" and config.tie_word_embeddings)):
        kind = "q8_0"
    return [_rounded(_named(weight.name, weight.layer), shape, kind, [partial(_read, reader, name) for name in names])]


def _named(name: str, layer: int | None) -> str:
    """What llama.cpp calls a tensor."""
    if layer is None:
        return _NAMES[name]
    return f"blk.{layer}." + _LAYER_NAMES[name.removeprefix(f"model.layers.{layer}.")]


def _rounded(name: str, shape: tuple[int, ...], kind: str, parts: Sequence[Callable[[], Tensor]]) -> Entry:
    kind = _fitting(shape, kind)
    return Entry(name, shape, kind, tuple(partial(_encoded, part, kind) for part in parts))


def _fitting(shape: tuple[int, ...], kind: str) -> str:
    """`kind`, or bf16 where its blocks do not fill the rows."""
    if shape[-1] % KINDS[kind][0] == 0:
        return kind
    log.warning("rows of %d values are no whole blocks of %s: they stay bf16", shape[-1], kind)
    return "bf16"


def _packed_entries(held: Weights, config: ModelConfig, weight: Weight) -> list[Entry]:
    """What becomes of packed weights: the same numbers."""
    entries = []
    for matrix in _matrices_of(config).get(weight.name, []):
        names = [matrix.name.replace("{expert}", str(expert)) for expert in range(weight.copies)]
        parts = [part for name in names if isinstance(part := held[name], PackedMatrix)]
        kind = KIND_OF_PACKED.get(parts[0].kind, "f32")
        if matrix.columns % KINDS[kind][0]:
            log.warning("rows of %d values are no whole blocks of %s: they become f32", matrix.columns, kind)
            kind = "f32"
        shape: tuple[int, ...] = (_rows(matrix), matrix.columns)
        if matrix.short in ("k_b_proj", "v_b_proj"):
            shape = (config.num_attention_heads, shape[0] // config.num_attention_heads, matrix.columns)
        elif "{expert}" in weight.name:
            shape = (weight.copies, *shape)
        entries.append(
            Entry(
                _named(matrix.name, weight.layer), shape, kind,
                tuple(partial(_relaid, part, matrix, kind) for part in parts),
            )
        )  # fmt: skip
    vector = held.get(weight.name)
    if isinstance(vector, Tensor):
        kind = "bf16" if vector.dtype == torch.bfloat16 else "f32"
        entries.append(Entry(_named(weight.name, weight.layer), weight.shape, kind, (partial(_plain, vector, kind),)))
    return entries


@lru_cache(maxsize=1)
def _matrices_of(config: ModelConfig) -> dict[str, list[Matrix]]:
    """Packed matrices by the name of what they are made of."""
    found: dict[str, list[Matrix]] = {}
    for matrix in matrices(config):
        found.setdefault(matrix.source.name, []).append(matrix)
    return found


def _rows(matrix: Matrix) -> int:
    """Rows without the padding of each head."""
    cut = matrix.cut
    if cut is None:
        return matrix.rows
    return cut.heads * (matrix.source.shape[1] if cut.transposed else cut.end - cut.begin)


def _relaid(packed: PackedMatrix, matrix: Matrix, kind: str) -> Bytes:
    """A packed matrix in llama.cpp's order, without padding. A group of 64 or 128 becomes blocks of equal scale."""
    if kind in ("f32", "bf16"):
        rows = unpack(packed)
    else:
        levels, scale = unpack_levels(packed)
        values = levels[:, : packed.columns].unflatten(1, (-1, BLOCK))
        scales = scale.repeat_interleave(packed.group // BLOCK, 1)[:, : values.shape[1], None]
        if kind == "q4_0":
            nibbles = (values + 8).view(torch.uint8)
            values = nibbles[..., : BLOCK // 2] | nibbles[..., BLOCK // 2 :] << 4
        rows = torch.cat((scales.contiguous().view(torch.uint8), values.view(torch.uint8)), dim=-1)
    if matrix.cut is not None:
        rows = rows.unflatten(0, (matrix.cut.heads, -1))[:, : _rows(matrix) // matrix.cut.heads]
    return _plain(rows, kind) if kind in ("f32", "bf16") else rows.flatten().numpy()


def _read(reader: Reader, name: str) -> Tensor:
    value = reader.read(name)
    return dequantize_fp8(value, reader.read(name + SCALE_SUFFIX)) if value.dtype == E4M3 else value


def _keys(reader: Reader, config: ModelConfig, name: str) -> Tensor:
    """Per head, transposed: a plain query times its rows moves into latent space."""
    per_head = _read(reader, name).unflatten(0, (config.num_attention_heads, -1))
    return per_head[:, : config.qk_nope_head_dim].transpose(1, 2)


def _values(reader: Reader, config: ModelConfig, name: str) -> Tensor:
    return _read(reader, name).unflatten(0, (config.num_attention_heads, -1))[:, config.qk_nope_head_dim :]


def _write(
    path: Path, keys: Mapping[str, Value], entries: Sequence[Entry], progress: Callable[[int, int], None] | None
) -> None:
    gguf = _library()
    writer = gguf.GGUFWriter(path, ARCHITECTURE)
    add = {
        bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string,
        list: writer.add_array,
    }  # fmt: skip
    for key, value in keys.items():
        add[type(value)](key, value)
    for entry in entries:
        kind = gguf.GGMLQuantizationType[entry.kind.upper()]
        writer.add_tensor_info(entry.name, entry.shape, np.dtype(np.float32), entry.bytes, raw_dtype=kind)
    done, total = 0, sum(entry.bytes for entry in entries)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for entry in entries:
            writer.write_tensor_data(np.concatenate([part() for part in entry.parts]))
            done += entry.bytes
            if progress is not None:
                progress(done, total)
    finally:
        writer.close()


def _encoded(read: Callable[[], Tensor], kind: str) -> Bytes:
    """The bytes of a tensor in the file."""
    tensor = read()
    if kind in ("f32", "bf16"):
        return _plain(tensor, kind)
    gguf = _library()
    blocks: Bytes = gguf.quants.quantize(tensor.float().contiguous().numpy(), gguf.GGMLQuantizationType[kind.upper()])
    return blocks.reshape(-1)


def _plain(tensor: Tensor, kind: str) -> Bytes:
    values = tensor.to(torch.float32 if kind == "f32" else torch.bfloat16)
    found: Bytes = values.contiguous().flatten().view(torch.uint8).numpy()
    return found


def _is_gguf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"GGUF"
