"""Where everything is: which rank owns which layers, heads, experts and rows of the vocabulary. Pure arithmetic.

A Layout says how many ways the work is divided; a Shard is what one rank of it owns. sharding.py applies a Shard to a
tensor of the checkpoint. Imports config and errors only; no torch, no process. Read this file first.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from fathom.config import ModelConfig
from fathom.errors import ConfigError


@dataclass(frozen=True)
class Layout:
    """Degrees of parallelism: pp * dp * tp ranks; ep of the dp * tp ranks of a stage share out its experts.

    Ranks are numbered with tp fastest, then dp, then pp. Routed experts are never cut: each lives whole on one rank
    of its ep group, and the dp * tp / ep groups of a stage hold copies.
    """

    pp: int = 1
    dp: int = 1
    tp: int = 1
    ep: int = 1

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if type(value) is not int or value < 1:
                raise ConfigError(f"{field.name} is {value!r}; it must be a whole number of at least 1.")
        if self.dp * self.tp % self.ep:
            raise ConfigError(
                f"ep is {self.ep}, which does not divide dp * tp = {self.dp * self.tp}; "
                f"use ep {_either(_divisors(self.dp * self.tp))}."
            )

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return self.pp * self.dp * self.tp

    def check(self, config: ModelConfig, redundant: int = 0) -> None:
        """Raise ConfigError, with the values that would do, if `config` cannot be divided like this.

        Args: redundant: copies of experts per layer; experts and copies together divide among the ep ranks.
        """
        if self.pp > config.num_hidden_layers:
            raise ConfigError(f"pp is {self.pp}; it must be at most num_hidden_layers ({config.num_hidden_layers}).")
        what = "n_routed_experts + redundant" if redundant else "n_routed_experts"
        _check_divides("ep", self.ep, {what: config.n_routed_experts + redundant})
        cut = {"num_attention_heads": config.num_attention_heads, "intermediate_size": config.intermediate_size}
        if config.n_shared_experts:
            cut["moe_intermediate_size * n_shared_experts"] = config.moe_intermediate_size * config.n_shared_experts
        _check_divides("tp", self.tp, cut)
        if self.tp > 1:
            self._check_blocks(config)

    def _check_blocks(self, config: ModelConfig) -> None:
        """An FP8 weight is cut between blocks only: a scale belongs to one rank."""
        if config.weight_block_size is None:
            return
        rows, columns = config.weight_block_size
        heads = config.num_attention_heads // self.tp
        shared = config.moe_intermediate_size * config.n_shared_experts
        for what, size, block in (
            ("q_b_proj", heads * config.qk_head_dim, rows),
            ("kv_b_proj", heads * (config.qk_nope_head_dim + config.v_head_dim), rows),
            ("o_proj", heads * config.v_head_dim, columns),
            ("mlp.gate_proj", config.intermediate_size // self.tp, rows),
            ("mlp.down_proj", config.intermediate_size // self.tp, columns),
            ("shared_experts.gate_proj", shared // self.tp, rows),
            ("shared_experts.down_proj", shared // self.tp, columns),
        ):
            if size % block:
                raise ConfigError(
                    f"tp is {self.tp}, which gives a rank {size} of {what}, not a multiple of the FP8 block {block}; "
                    f"lower tp, or dequantise (quantization_config = None)."
                )


@dataclass(frozen=True)
class Shard:
    """What rank `rank` of `layout` owns of a model. `Shard.whole(config)` owns everything.

    Fields: redundant: copies of experts per layer; with them, placements say which experts a rank has, not `experts`.
    """

    config: ModelConfig
    layout: Layout = Layout()
    rank: int = 0
    redundant: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.layout.world_size:
            raise ConfigError(f"rank is {self.rank}; it must be from 0 to {self.layout.world_size - 1}.")
        self.layout.check(self.config, self.redundant)

    @classmethod
    def whole(cls, config: ModelConfig) -> Shard:
        """The shard of a single rank: all of the model."""
        return cls(config)

    @property
    def tp_size(self) -> int:
        """Ranks among which heads, intermediate values and vocabulary are divided."""
        return self.layout.tp

    @property
    def tp_rank(self) -> int:
        """This rank's place among them."""
        return self.rank % self.layout.tp

    @property
    def ep_size(self) -> int:
        """Ranks among which the routed experts are divided."""
        return self.layout.ep

    @property
    def ep_rank(self) -> int:
        """This rank's place among them."""
        return self.rank % (self.layout.dp * self.layout.tp) % self.layout.ep

    @property
    def dp_rank(self) -> int:
        """Which replica of the pipeline stage this rank belongs to."""
        return self.rank // self.layout.tp % self.layout.dp

    @property
    def pp_rank(self) -> int:
        """The pipeline stage of this rank."""
        return self.rank // (self.layout.dp * self.layout.tp)

    @property
    def is_whole(self) -> bool:
        """Whether this rank owns all of the model."""
        return self.layout.pp == self.layout.tp == self.layout.ep == 1

    @property
    def layers(self) -> range:
        """Layers of the main model; early stages take one more where they do not divide evenly."""
        return share(self.config.num_hidden_layers, self.layout.pp, self.pp_rank)

    @property
    def mtp_layers(self) -> range:
        """MTP modules, numbered on from the last layer; they live on the last stage."""
        first = self.config.num_hidden_layers
        return range(first, first + self.config.num_nextn_predict_layers) if self.has_head else range(first, first)

    @property
    def has_embedding(self) -> bool:
        """Whether `model.embed_tokens` is here: on the first stage, and on the last if it doubles as the head."""
        return self.pp_rank == 0 or (self.has_head and self.config.tie_word_embeddings)

    @property
    def has_head(self) -> bool:
        """Whether `model.norm` and `lm_head` are here: on the last stage."""
        return self.pp_rank == self.layout.pp - 1

    @property
    def heads(self) -> range:
        """Attention heads."""
        return share(self.config.num_attention_heads, self.tp_size, self.tp_rank)

    @property
    def experts(self) -> range:
        """Routed experts."""
        return share(self.config.n_routed_experts, self.ep_size, self.ep_rank)

    @property
    def vocabulary(self) -> range:
        """Rows of the embedding and of the head; need not divide evenly."""
        return share(self.config.vocab_size, self.tp_size, self.tp_rank)

    @property
    def intermediate(self) -> range:
        """Intermediate values of a dense MLP."""
        return share(self.config.intermediate_size, self.tp_size, self.tp_rank)

    @property
    def shared_intermediate(self) -> range:
        """Intermediate values of the shared experts, taken as one MLP."""
        return share(self.config.moe_intermediate_size * self.config.n_shared_experts, self.tp_size, self.tp_rank)


def share(total: int, parts: int, index: int) -> range:
    """The `index`-th of `parts` runs of consecutive numbers that make up range(total); sizes differ by at most one."""
    size, extra = divmod(total, parts)
    start = index * size + min(index, extra)
    return range(start, start + size + (index < extra))


def _check_divides(axis: str, degree: int, sizes: dict[str, int]) -> None:
    for name, size in sizes.items():
        if size % degree:
            choices = [n for n in _divisors(size) if all(other % n == 0 for other in sizes.values())]
            raise ConfigError(
                f"{name} is {size}, which {axis}={degree} does not divide; use {axis} {_either(choices)}."
            )


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def _either(numbers: list[int]) -> str:
    """ "1", "1 or 2", "1, 2 or 4"."""
    *most, last = map(str, numbers)
    return f"{', '.join(most)} or {last}" if most else last
