"""A model as the planner sees it: blocks of layers that are alike, each a table of matrices and one attention.

A DeepSeek model comes from its ModelConfig by the table of cost/model.py, so both count the same; dense and GQA models
come from their `config.json` (families.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from fathom.config import ModelConfig
from fathom.cost import mtp_layers, weights
from fathom.cost.model import Weight

Part = Literal["attention", "dense_mlp", "shared_experts", "experts", "router", "mtp_join"]


@dataclass(frozen=True)
class Matrix:
    """Weights that a token is multiplied with: `copies` of rows x columns, of which it meets `met`."""

    name: str
    rows: int
    columns: int
    part: Part
    copies: int = 1
    met: int = 1
    quantised: bool = True  # stored at the precision of the checkpoint; otherwise in BF16

    @property
    def elements(self) -> int:
        """Parameters of all copies."""
        return self.rows * self.columns * self.copies

    @property
    def activated(self) -> int:
        """Parameters that one token meets."""
        return self.rows * self.columns * self.met


@dataclass(frozen=True)
class Attention:
    """How the tokens of a sequence see each other.

    kind: latent: MLA, one latent and one rotary key for all heads. heads: keys and values of `kv_heads` heads (MHA,
          GQA, MQA). linear: a state of fixed size (Gated DeltaNet and its kin), no cache that grows.
    qk_dim, v_dim: values of a head. window: tokens that are seen at most; None: all.
    """

    kind: Literal["latent", "heads", "linear"]
    heads: int
    kv_heads: int
    qk_dim: int
    v_dim: int
    latent: int = 0
    rope: int = 0
    window: int | None = None

    @property
    def cache_values(self) -> int:
        """Values that a token leaves in the cache of one layer."""
        if self.kind == "latent":
            return self.latent + self.rope
        return 0 if self.kind == "linear" else self.kv_heads * (self.qk_dim + self.v_dim)

    @property
    def state_values(self) -> int:
        """Values of the state of one sequence, where that is of fixed size."""
        return self.heads * self.qk_dim * self.v_dim if self.kind == "linear" else 0

    def seen(self, context: float) -> float:
        """Tokens of a context that a query is compared with."""
        return context if self.window is None else min(context, self.window)

    def flops(self, context: float, *, absorbed: bool = False) -> float:
        """FLOPs of one query over a context, scores and weighted sums, in one layer [FLOP].

        Args: absorbed: MLA on its latents, as one decodes; otherwise on expanded keys and values.
        """
        if self.kind == "linear":
            return 8.0 * self.state_values  # decay, read, write and query of a state, whatever the context
        width = 2 * self.latent + self.rope if absorbed and self.kind == "latent" else self.qk_dim + self.v_dim
        return 2.0 * self.heads * width * self.seen(context)


@dataclass(frozen=True)
class Moe:
    """Routed experts of a layer: how many, how many a token takes, how wide, and over how many groups of them.

    bias: parameters of one expert that are no matrix.
    """

    experts: int
    chosen: int
    width: int
    groups: int = 1
    chosen_groups: int = 1
    shared_width: int = 0
    bias: int = 0

    def met_by(self, tokens: float) -> float:
        """Experts that so many tokens take at least once, if they choose evenly and independently."""
        return self.experts * (1.0 - (1.0 - self.chosen / self.experts) ** tokens)


@dataclass(frozen=True)
class Block:
    """`count` layers that are alike. norms: parameters of one layer that are no matrix; wide: those of them in FP32."""

    count: int
    attention: Attention
    matrices: tuple[Matrix, ...]
    norms: int
    moe: Moe | None = None
    wide: int = 0

    def elements(self, *parts: str) -> int:
        """Parameters of one layer, of these parts; all of them, norms too, if none is named."""
        rest = 0 if parts else self.norms + (self.moe.experts * self.moe.bias if self.moe else 0)
        return sum(m.elements for m in self.matrices if not parts or m.part in parts) + rest

    @property
    def activated(self) -> int:
        """Parameters of one layer that a token meets."""
        biases = self.moe.chosen * self.moe.bias if self.moe else 0
        return sum(m.activated for m in self.matrices) + self.norms + biases


@dataclass(frozen=True)
class Shape:
    """A model: its blocks in order, vocabulary, and the multi-token prediction module if it has one.

    Fields: precision: of the checkpoint, see precision.py. context: tokens it is made for. family: model_type of other
            models, "deepseek" for those of a ModelConfig.
    """

    name: str
    hidden: int
    vocab: int
    blocks: tuple[Block, ...]
    mtp: Block | None = None
    mtp_depth: int = 0
    tied: bool = False
    final_norm: int = 0
    precision: str = "bf16"
    context: int = 0
    family: str = ""

    @property
    def layers(self) -> int:
        """Layers of the main model."""
        return sum(block.count for block in self.blocks)

    @property
    def moe_layers(self) -> int:
        """Layers with routed experts."""
        return sum(block.count for block in self.blocks if block.moe)

    @property
    def moe(self) -> Moe | None:
        """The routed experts, of the first layer that has some."""
        return next((block.moe for block in self.blocks if block.moe), None)

    @property
    def embedding(self) -> int:
        """Parameters of the input embedding."""
        return self.vocab * self.hidden

    @property
    def parameters(self) -> int:
        """Parameters of the main model."""
        inner = sum(block.count * block.elements() for block in self.blocks)
        return inner + self.embedding * (1 if self.tied else 2) + self.final_norm

    @property
    def activated(self) -> int:
        """Parameters that a token meets: without the input embedding, with the head."""
        return sum(block.count * block.activated for block in self.blocks) + self.embedding + self.final_norm

    @property
    def mtp_parameters(self) -> int:
        """Parameters that multi-token prediction adds; embedding and head are the model's."""
        return self.mtp_depth * self.mtp.elements() if self.mtp else 0

    @property
    def cache_values(self) -> int:
        """Values that a token leaves in the cache of all layers, windows left aside."""
        return sum(block.count * block.attention.cache_values for block in self.blocks)


@lru_cache(maxsize=32)
def from_config(config: ModelConfig, name: str = "") -> Shape:
    """The shape of a DeepSeek model."""
    layers = [_block(config, layer) for layer in range(config.num_hidden_layers)]
    modules = [_block(config, layer) for layer in mtp_layers(config)]
    precision = "bf16"
    if config.quantization_config:
        precision = "fp8" if config.weight_block_size else "int4"
    return Shape(
        name=name or config.model_type, hidden=config.hidden_size, vocab=config.vocab_size, blocks=merged(layers),
        mtp=modules[0] if modules else None, mtp_depth=len(modules), tied=config.tie_word_embeddings,
        final_norm=config.hidden_size, precision=precision, context=config.max_position_embeddings, family="deepseek",
    )  # fmt: skip


def merged(layers: Iterable[Block]) -> tuple[Block, ...]:
    """Layers in order, neighbours that are alike as one block; equal blocks are one object."""
    blocks: list[Block] = []
    for layer in layers:
        if blocks and _alike(blocks[-1], layer):
            blocks[-1] = _counted(layer, blocks[-1].count + layer.count)
        else:
            blocks.append(layer)
    known: dict[Block, Block] = {}
    return tuple(known.setdefault(block, block) for block in blocks)


def _alike(one: Block, other: Block) -> bool:
    return _counted(one, 1) == _counted(other, 1)


def _counted(block: Block, count: int) -> Block:
    return replace(block, count=count)


def _block(config: ModelConfig, layer: int) -> Block:
    attention = Attention(
        kind="latent", heads=config.num_attention_heads, kv_heads=1, qk_dim=config.qk_head_dim,
        v_dim=config.v_head_dim, latent=config.kv_lora_rank, rope=config.qk_rope_head_dim,
    )  # fmt: skip
    moe = None
    if config.is_moe(layer):
        moe = Moe(
            config.n_routed_experts, config.num_experts_per_tok, config.moe_intermediate_size, config.n_group,
            config.topk_group, config.moe_intermediate_size * config.n_shared_experts,
        )  # fmt: skip
    own = [w for w in weights(config) if w.layer == layer and w.part not in ("embedding", "head")]
    matrices = tuple(_matrix(config, weight) for weight in own if len(weight.shape) == 2)
    norms = [weight for weight in own if len(weight.shape) != 2]
    wide = sum(weight.elements for weight in norms if weight.fp32)
    return Block(1, attention, matrices, sum(weight.elements for weight in norms), moe, wide)


def _matrix(config: ModelConfig, weight: Weight) -> Matrix:
    rows, columns = weight.shape
    met = config.num_experts_per_tok if weight.part == "experts" else 1
    name = weight.name.removesuffix(".weight").rsplit(".", 1)[1]
    return Matrix(name, rows, columns, weight.part, weight.copies, met, weight.linear)  # type: ignore[arg-type]
