"""Dense and GQA models, from their Hugging Face `config.json`: since people compare.

Layers of one model may differ: sliding windows (gpt-oss), linear attention (Qwen3.5), experts in every second layer
(Llama 4). What a file does not say is never guessed: the error names the key.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fathom.config import PRESETS, ModelConfig, nearest, preset, read_json, read_toml
from fathom.errors import ConfigError
from fathom.plan.shape import Attention, Block, Matrix, Moe, Shape, from_config, merged

DATA = Path(__file__).parent / "data"
DEEPSEEK = ("deepseek_v2", "deepseek_v3", "kimi_k2")
FAMILIES = (
    "llama", "qwen2", "qwen3", "qwen3_moe", "qwen3_5_moe", "mixtral", "gpt_oss", "minimax_m2", "llama4",
)  # fmt: skip
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
_WIDTH = ("moe_intermediate_size", "intermediate_size")


def known() -> tuple[str, ...]:
    """Names that `find` takes without a file."""
    return (*PRESETS, *read_toml(DATA / "models.toml"))


def find(name_or_path: str | Path) -> Shape:
    """The shape of a preset, of a directory with a config.json, or of a config.json.

    Raises: ConfigError: no such model, or its file lacks something.
    """
    name = str(name_or_path)
    if name in PRESETS:
        return from_config(preset(name), name)
    others = read_toml(DATA / "models.toml")
    if name in others:
        return from_dict(others[name], name)
    path = Path(name_or_path)
    if not is_there(path):
        raise ConfigError(
            f"{name} is neither a preset nor a file{nearest(name, known())}; give a config.json, its directory, or one "
            f"of {', '.join(known())}."
        )
    file = path / "config.json" if path.is_dir() else path
    return from_dict(read_json(file), file.parent.name or str(file))


def is_there(path: Path) -> bool:
    """Whether there is such a file or directory; no name that a file cannot have is one."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def from_dict(table: Any, name: str) -> Shape:
    """The shape that a `config.json` describes; of a model with pictures, its text part."""
    if not isinstance(table, Mapping):
        raise ConfigError(f"{name} holds no table of a model's settings; give a config.json of Hugging Face.")
    if isinstance(table.get("text_config"), Mapping):
        table = {**table["text_config"], **{k: v for k, v in table.items() if k == "quantization_config"}}
    kind = str(table.get("model_type", "")).removesuffix("_text")
    if kind in DEEPSEEK:
        return from_config(ModelConfig.from_dict(table, name), name)
    if kind not in FAMILIES:
        raise ConfigError(
            f"{name}: model_type is {kind!r}{nearest(kind, FAMILIES)}; the planner knows {', '.join(DEEPSEEK)} and "
            f"{', '.join(FAMILIES)}."
        )
    reader = _Reader(table, name)
    layers = [_layer(reader, kind, layer) for layer in range(reader.count("num_hidden_layers"))]
    hidden = reader.count("hidden_size")
    return Shape(
        name=name, hidden=hidden, vocab=reader.count("vocab_size"), blocks=merged(layers),
        tied=bool(table.get("tie_word_embeddings", False)), final_norm=hidden, precision=_stored(table),
        context=reader.count("max_position_embeddings"), family=kind,
    )  # fmt: skip


class _Reader:
    """Reads whole numbers from a table, and says which is missing."""

    def __init__(self, table: Mapping[str, Any], name: str) -> None:
        self.table, self.name = table, name

    def count(self, *keys: str, default: int | None = None, least: int = 1) -> int:
        """The first of `keys` that is there."""
        for key in keys:
            value = self.table.get(key)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigError(f"{self.name}: {key} is {value!r}; it must be a whole number of {least} or more.")
            return value
        if default is None:
            raise ConfigError(f"{self.name}: {' or '.join(keys)} is missing; add it to the config.")
        return default


def _stored(table: Mapping[str, Any]) -> str:
    """The precision of the checkpoint."""
    quantization = table.get("quantization_config")
    method = str(quantization.get("quant_method", "")) if isinstance(quantization, Mapping) else ""
    return {"": "bf16", "mxfp4": "mxfp4", "fp8": "fp8", "modelopt": "nvfp4"}.get(method, "int4")


def _layer(reader: _Reader, kind: str, layer: int) -> Block:
    attention, matrices, norms = (_linear if _is_linear(reader, layer) else _heads)(reader, kind, layer)
    hidden = reader.count("hidden_size")
    moe = _moe(reader, kind, layer)
    if moe is None:
        width = reader.count("intermediate_size_mlp", "intermediate_size")
        matrices += _swiglu(hidden, width, "dense_mlp")
    else:
        matrices += [Matrix("gate", moe.experts, hidden, "router", quantised=False)]
        matrices += _swiglu(hidden, moe.width, "experts", moe.experts, moe.chosen)
        if moe.shared_width:
            matrices += _swiglu(hidden, moe.shared_width, "shared_experts")
    if moe and kind in ("gpt_oss", "minimax_m2"):
        norms += moe.experts  # the router's bias
    return Block(1, attention, tuple(matrices), norms + 2 * hidden, moe)


def _heads(reader: _Reader, kind: str, layer: int) -> tuple[Attention, list[Matrix], int]:
    hidden, heads = reader.count("hidden_size"), reader.count("num_attention_heads")
    kv_heads = reader.count("num_key_value_heads", default=heads)
    size = reader.count("head_dim", default=hidden // heads)
    window = reader.count("sliding_window", default=0, least=0) if _is_windowed(reader, kind, layer) else 0
    attention = Attention("heads", heads, kv_heads, size, size, window=window or None)
    gated = 2 if kind == "qwen3_5_moe" else 1  # the query comes with a gate of its size
    matrices = [
        Matrix("q_proj", gated * heads * size, hidden, "attention"),
        Matrix("k_proj", kv_heads * size, hidden, "attention"),
        Matrix("v_proj", kv_heads * size, hidden, "attention"),
        Matrix("o_proj", hidden, heads * size, "attention"),
    ]
    vectors = {
        "qwen2": (heads + 2 * kv_heads) * size,
        "gpt_oss": (heads + 2 * kv_heads) * size + hidden + heads,  # biases, and a sink for each head
        "minimax_m2": (heads + kv_heads) * size,  # norms of all queries and all keys
    }
    return attention, matrices, vectors.get(kind, 2 * size if kind.startswith("qwen3") else 0)


def _linear(reader: _Reader, kind: str, layer: int) -> tuple[Attention, list[Matrix], int]:
    """Gated DeltaNet, as Qwen3-Next and Qwen3.5 have it in three layers of four."""
    hidden = reader.count("hidden_size")
    keys, values = reader.count("linear_num_key_heads"), reader.count("linear_num_value_heads")
    k_dim, v_dim = reader.count("linear_key_head_dim"), reader.count("linear_value_head_dim")
    key, value = keys * k_dim, values * v_dim
    matrices = [
        Matrix("in_proj_qkv", 2 * key + value, hidden, "attention"),
        Matrix("in_proj_z", value, hidden, "attention"),
        Matrix("in_proj_ab", 2 * values, hidden, "attention", quantised=False),
        Matrix("out_proj", hidden, value, "attention"),
    ]
    convolution = (2 * key + value) * reader.count("linear_conv_kernel_dim", default=4)
    return Attention("linear", values, keys, k_dim, v_dim), matrices, convolution + 2 * values + v_dim


def _moe(reader: _Reader, kind: str, layer: int) -> Moe | None:
    if not any(reader.table.get(key) for key in _EXPERTS):
        return None
    step = reader.count("interleave_moe_layer_step", "decoder_sparse_step", default=1)
    if (layer + 1) % step or layer < reader.count("first_k_dense_replace", default=0, least=0):
        return None
    width = reader.count(*_WIDTH)
    shared = reader.count("shared_expert_intermediate_size", default=width if kind == "llama4" else 0, least=0)
    bias = 2 * width + reader.count("hidden_size") if kind == "gpt_oss" else 0
    return Moe(reader.count(*_EXPERTS), reader.count("num_experts_per_tok"), width, shared_width=shared, bias=bias)


def _swiglu(hidden: int, width: int, part: Any, copies: int = 1, met: int = 1) -> list[Matrix]:
    return [
        Matrix("gate_proj", width, hidden, part, copies, met),
        Matrix("up_proj", width, hidden, part, copies, met),
        Matrix("down_proj", hidden, width, part, copies, met),
    ]


def _is_windowed(reader: _Reader, kind: str, layer: int) -> bool:
    types = reader.table.get("layer_types")
    if isinstance(types, (list, tuple)) and layer < len(types):
        return str(types[layer]) == "sliding_attention"
    if kind == "gpt_oss":
        return layer % 2 == 0
    return kind == "mixtral" or bool(reader.table.get("use_sliding_window", False))


def _is_linear(reader: _Reader, layer: int) -> bool:
    types = reader.table.get("layer_types")
    if isinstance(types, (list, tuple)) and layer < len(types):
        return str(types[layer]) == "linear_attention"
    every = reader.count("full_attention_interval", default=1)
    return (layer + 1) % every != 0
