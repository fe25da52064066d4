"""ModelConfig: one model of the DeepSeek-V2/V3 family, checked when it is made."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from fathom.config import huggingface
from fathom.config.recipe import build, read_json
from fathom.errors import ConfigError

MAX_LAYERS = 10_000  # a damaged file must not keep us counting
PACKED_METHOD = "fathom"  # quant_method of a packed checkpoint
FP8_BLOCK = 128  # rows and columns of a weight that share one scale; DeepSeek-V3, section 3.3.2


@dataclass(frozen=True)
class RopeScaling:
    """YaRN (arXiv:2309.00071): rotary frequencies stretched by `factor`, fast ones left alone."""

    factor: float
    original_max_position_embeddings: int
    type: Literal["yarn"] = "yarn"
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float = 1.0
    mscale_all_dim: float = 0.0

    def __post_init__(self) -> None:
        _at_least(self, 1, ("factor", "original_max_position_embeddings"))
        _above_zero(self, ("beta_fast", "beta_slow"))
        _at_least(self, 0, ("mscale", "mscale_all_dim"))
        if self.beta_slow > self.beta_fast:
            raise ConfigError(f"beta_slow is {self.beta_slow}, above beta_fast {self.beta_fast}; swap them.")
        if not self.mscale_all_dim and self.mscale != 1.0:  # the public codes disagree on what this would mean
            raise ConfigError(f"mscale is {self.mscale} but mscale_all_dim is 0; set both, or mscale to 1.")


@dataclass(frozen=True)
class Packed:
    """A checkpoint that lies on disk as the kernels read it (docs/formats.md): bits of most weights, columns a group.

    group: None where each kind has its own default.
    """

    bits: int
    group: int | None = None


@dataclass(frozen=True)
class ModelConfig:
    """One model of the DeepSeek-V2/V3 family. `ModelConfig.read(dir)`, `preset(name)` or `from_dict` make one."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    moe_intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    n_shared_experts: int
    n_routed_experts: int
    num_experts_per_tok: int
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    max_position_embeddings: int
    q_lora_rank: int | None = None
    model_type: Literal["deepseek_v3", "deepseek_v2", "kimi_k2"] = "deepseek_v3"
    num_nextn_predict_layers: int = 0
    first_k_dense_replace: int = 0
    moe_layer_freq: int = 1
    n_group: int = 1
    topk_group: int = 1
    scoring_func: Literal["sigmoid", "softmax"] = "sigmoid"
    topk_method: Literal["noaux_tc", "group_limited_greedy", "greedy"] = "noaux_tc"
    norm_topk_prob: bool = True
    routed_scaling_factor: float = 1.0
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    tie_word_embeddings: bool = False
    bos_token_id: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None
    torch_dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    initializer_range: float = 0.02
    aux_loss_alpha: float = 0.0
    seq_aux: bool = True
    quantization_config: dict[str, Any] | None = field(default=None, hash=False)

    def __post_init__(self) -> None:
        _at_least(self, 1, _POSITIVE)
        _at_least(self, 0, _NOT_NEGATIVE)
        _above_zero(self, ("rms_norm_eps", "routed_scaling_factor"))
        _check_attention(self)
        _check_routing(self)
        _check_tokens(self)
        _check_quantization(self.quantization_config)

    @classmethod
    def from_dict(cls, table: Mapping[str, Any], source: str = "config.json", *, strict: bool = False) -> ModelConfig:
        """The model that a Hugging Face `config.json` describes, in the old or the new spelling.

        Args:    strict: refuse keys that this code does not know, instead of naming them in one warning.
        Raises:  ConfigError: a key is missing, or a value is not one we can honour; the message names it.
        """
        known = [f.name for f in dataclasses.fields(cls)]
        return build(cls, huggingface.canonical(table, known, source, strict=strict), source)

    @classmethod
    def read(cls, path: str | Path, *, strict: bool = False) -> ModelConfig:
        """The model in `path`, a config.json or a directory that holds one."""
        file = Path(path)
        file = file / "config.json" if file.is_dir() else file
        return cls.from_dict(read_json(file), str(file), strict=strict)

    def to_dict(self) -> dict[str, Any]:
        """The `config.json` of this model, in the spelling of the released checkpoints; transformers loads it."""
        table = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        table["rope_scaling"] = dataclasses.asdict(self.rope_scaling) if self.rope_scaling else None
        if isinstance(self.eos_token_id, tuple):
            table["eos_token_id"] = list(self.eos_token_id)
        if self.quantization_config is None:
            del table["quantization_config"]
        else:
            table["quantization_config"] = dict(self.quantization_config)
        architecture = "DeepseekV2ForCausalLM" if self.model_type == "deepseek_v2" else "DeepseekV3ForCausalLM"
        fixed = {"architectures": [architecture], "hidden_act": "silu", "attention_bias": False}
        return fixed | dict(sorted(table.items()))

    @property
    def qk_head_dim(self) -> int:
        """Values in one head's query or key: plain part and rotary part."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    @property
    def softmax_scale(self) -> float:
        """What attention scores are multiplied by, YaRN's length correction (squared) included."""
        scale = self.qk_head_dim**-0.5
        if self.rope_scaling is None or not self.rope_scaling.mscale_all_dim:
            return scale
        return scale * yarn_mscale(self.rope_scaling.factor, self.rope_scaling.mscale_all_dim) ** 2

    @property
    def rotary_scale(self) -> float:
        """What cosines and sines are multiplied by; 1 in every released model."""
        if self.rope_scaling is None:
            return 1.0
        scaling = self.rope_scaling
        return yarn_mscale(scaling.factor, scaling.mscale) / yarn_mscale(scaling.factor, scaling.mscale_all_dim)

    @property
    def yarn_range(self) -> tuple[int, int] | None:
        """(low, high): rotary pairs up to low keep their frequency, from high on it is divided by `factor`; or None."""
        scaling = self.rope_scaling
        if scaling is None:
            return None

        def pair_that_turns(times: float) -> float:
            wavelength = scaling.original_max_position_embeddings / (times * 2 * math.pi)
            return self.qk_rope_head_dim * math.log(wavelength) / (2 * math.log(self.rope_theta))

        low, high = math.floor(pair_that_turns(scaling.beta_fast)), math.ceil(pair_that_turns(scaling.beta_slow))
        return max(low, 0), min(high, self.qk_rope_head_dim - 1)

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """Every token that ends a text."""
        if self.eos_token_id is None:
            return ()
        return self.eos_token_id if isinstance(self.eos_token_id, tuple) else (self.eos_token_id,)

    @property
    def weight_block_size(self) -> tuple[int, int] | None:
        """(rows, columns) that share one scale in an FP8 checkpoint; None for any other."""
        if self.quantization_config is None or self.packed is not None:
            return None
        rows, columns = self.quantization_config["weight_block_size"]
        return rows, columns

    @property
    def packed(self) -> Packed | None:
        """How a packed checkpoint is stored; None for any other."""
        table = self.quantization_config
        if table is None or table["quant_method"] != PACKED_METHOD:
            return None
        return Packed(table["bits"], table.get("group"))

    def is_moe(self, layer: int) -> bool:
        """Whether `layer` has experts; MTP modules are the layers after the last one."""
        return layer >= self.first_k_dense_replace and layer % self.moe_layer_freq == 0


def yarn_mscale(factor: float, mscale: float) -> float:
    """YaRN's correction for longer contexts: 0.1 mscale ln(factor) + 1. Source: arXiv:2405.04434, 3.1.4."""
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


_POSITIVE = (
    "vocab_size", "hidden_size", "intermediate_size", "moe_intermediate_size", "num_hidden_layers",
    "num_attention_heads", "n_routed_experts", "num_experts_per_tok", "kv_lora_rank", "qk_nope_head_dim",
    "qk_rope_head_dim", "v_head_dim", "q_lora_rank", "max_position_embeddings", "moe_layer_freq", "n_group",
    "topk_group",
)  # fmt: skip
_NOT_NEGATIVE = (
    "num_nextn_predict_layers", "n_shared_experts", "first_k_dense_replace", "initializer_range", "aux_loss_alpha",
)  # fmt: skip


def _at_least(owner: Any, minimum: int, names: Iterable[str]) -> None:
    for name in names:
        value = getattr(owner, name)
        if value is not None and value < minimum:
            raise ConfigError(f"{name} is {value}; it must be at least {minimum}.")


def _above_zero(owner: Any, names: Iterable[str]) -> None:
    for name in names:
        if not getattr(owner, name) > 0:
            raise ConfigError(f"{name} is {getattr(owner, name)}; it must be above 0.")


def _check_attention(config: ModelConfig) -> None:
    layers = config.num_hidden_layers + config.num_nextn_predict_layers
    if layers > MAX_LAYERS:
        raise ConfigError(f"num_hidden_layers is {layers} with MTP modules; it must be at most {MAX_LAYERS}.")
    if config.rope_theta <= 1:
        raise ConfigError(f"rope_theta is {config.rope_theta}; it must be above 1, and is usually 10000.")
    if config.num_key_value_heads != config.num_attention_heads:
        raise ConfigError(
            f"num_key_value_heads is {config.num_key_value_heads}; MLA shares one latent, so it must equal "
            f"num_attention_heads ({config.num_attention_heads})."
        )
    if config.qk_rope_head_dim % 2:
        raise ConfigError(f"qk_rope_head_dim is {config.qk_rope_head_dim}; it must be even, as rotation turns pairs.")


def _check_routing(config: ModelConfig) -> None:
    methods = ("noaux_tc",) if config.scoring_func == "sigmoid" else ("group_limited_greedy", "greedy")
    if config.topk_method not in methods:
        raise ConfigError(
            f"topk_method is {config.topk_method!r}; with scoring_func {config.scoring_func!r} it must be "
            f"{' or '.join(methods)}."
        )
    experts, groups = config.n_routed_experts, config.n_group
    if experts % groups:
        raise ConfigError(f"n_group is {groups}, which does not divide n_routed_experts {experts}; choose a divisor.")
    if config.topk_group > groups:
        raise ConfigError(f"topk_group is {config.topk_group}; it must be at most n_group ({groups}).")
    if config.topk_method == "noaux_tc" and groups > 1 and experts // groups < 2:
        raise ConfigError(f"n_group is {groups}: a group of one expert has no top-2 sum; use at most {experts // 2}.")
    reachable = experts if config.topk_method == "greedy" else config.topk_group * (experts // groups)
    if config.num_experts_per_tok > reachable:
        raise ConfigError(
            f"num_experts_per_tok is {config.num_experts_per_tok}, but topk_group {config.topk_group} of n_group "
            f"{groups} leaves only {reachable} experts; lower it or raise topk_group."
        )


def _check_tokens(config: ModelConfig) -> None:
    for name, ids in (("bos_token_id", (config.bos_token_id,)), ("eos_token_id", config.eos_token_ids)):
        for token in ids:
            if token is not None and not 0 <= token < config.vocab_size:
                raise ConfigError(f"{name} is {token}; it must be from 0 to vocab_size - 1 ({config.vocab_size - 1}).")


def _check_quantization(table: dict[str, Any] | None) -> None:
    if table is None:
        return
    if table.get("quant_method") == PACKED_METHOD:
        for key, known in (("bits", (32, 16, 8, 4)), ("group", (None, 32, 64, 128))):
            if table.get(key) not in known:
                text = ", ".join(str(value) for value in known if value is not None)
                raise ConfigError(f"quantization_config.{key} is {table.get(key)!r}; it must be one of {text}.")
        return
    for key, supported in (("quant_method", ("fp8",)), ("fmt", ("e4m3", None)), ("scale_fmt", ("ue8m0", None))):
        if table.get(key) not in supported:
            raise ConfigError(f"quantization_config.{key} is {table.get(key)!r}; only {supported[0]!r} is supported.")
    block = table.get("weight_block_size")
    if not (isinstance(block, list | tuple) and len(block) == 2 and all(type(n) is int and n > 0 for n in block)):
        raise ConfigError(f"quantization_config.weight_block_size is {block!r}; use two sizes, as [128, 128].")
