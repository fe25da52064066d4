"""A model as the kernels read it (ops/packing.py, docs/formats.md): its matrices, their kinds, the bytes they take.

Counted from `weights(config)`, like a checkpoint. Matrices that exist per head are stacked head by head, each head's
rows padded to whole blocks. Attention is absorbed, so kv_b_proj is stored as its two halves, the key half transposed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from fathom.config import FP8_BLOCK, ModelConfig
from fathom.cost.model import BYTES, Weight, weights
from fathom.errors import ConfigError

Kind = Literal["f32", "bf16", "f8", "i8", "i4"]
Made = Literal["f32", "bf16", "i8", "i4"]  # what any checkpoint can be packed to
KIND_OF_BITS: dict[int, Made] = {32: "f32", 16: "bf16", 8: "i8", 4: "i4"}
GROUPS = (32, 64, 128)  # columns that may share a scale
DEFAULT_GROUP: dict[Kind, int] = {"i8": 64, "i4": 32}
BLOCK_ROWS = 16

# What `--bits 4` leaves at 8 bits. KL divergence that 4 bits bring fathom-nano, per MB saved [millinats]:
# v_b 110, kv_a 69, head 8; elsewhere, rounded with care, dense MLP 3, q_b 3, o 1, q_a 1, shared experts 1, experts 0.
# k_b loses nothing there, but scores every key of contexts longer than nano's, and takes 1 % of a large model.
EIGHT_OF_FOUR = frozenset(("lm_head", "kv_a_proj_with_mqa", "k_b_proj", "v_b_proj"))


@dataclass(frozen=True)
class Cut:
    """Rows begin to end of each head of a matrix of `heads` heads, transposed or not."""

    heads: int
    begin: int
    end: int
    transposed: bool = False


@dataclass(frozen=True)
class Matrix:
    """One kind of matrix of a packed model. source: what it is made of; cut: which part of it; None is all of it.

    "{expert}" in the name stands for 0 .. source.copies - 1. rows: with the padding of each head, if there are heads.
    """

    name: str
    source: Weight
    rows: int
    columns: int
    cut: Cut | None = None

    @property
    def short(self) -> str:
        """The last part of the name: "q_b_proj"."""
        return self.name.split(".")[-2]


@dataclass(frozen=True)
class PackedSize:
    """Bytes of a packed model. elements: weights in its matrices, padding not counted."""

    elements: int
    values_bytes: int  # levels or values of matrices, padding included
    scales_bytes: int
    plain_bytes: int  # embedding, norms, biases

    @property
    def bytes(self) -> int:
        """All of it [B]."""
        return self.values_bytes + self.scales_bytes + self.plain_bytes

    @property
    def bits_per_weight(self) -> float:
        """Bits that a weight of a matrix takes on average, scales and padding included."""
        return 8 * (self.values_bytes + self.scales_bytes) / self.elements


def matrices(config: ModelConfig) -> Iterator[Matrix]:
    """Every kind of matrix of a packed model, in reading order, MTP modules last."""
    for weight in weights(config):
        if weight.part == "embedding":
            if config.tie_word_embeddings and weight.layer is None:
                yield Matrix("lm_head.weight", weight, config.vocab_size, config.hidden_size)
        elif len(weight.shape) == 2 and not _is_copy(weight):
            yield from _per_head(config, weight) or [Matrix(weight.name, weight, weight.shape[0], weight.shape[1])]


def single_matrices(config: ModelConfig) -> Iterator[tuple[str, Matrix, int]]:
    """(name, matrix, expert) of every single matrix, the number of the expert in the name."""
    for matrix in matrices(config):
        for expert in range(matrix.source.copies):
            yield matrix.name.replace("{expert}", str(expert)), matrix, expert


def vectors(config: ModelConfig) -> Iterator[Weight]:
    """What is not packed: the embedding, norms and biases."""
    for weight in weights(config):
        if len(weight.shape) == 1 or (weight.part == "embedding" and weight.layer is None):
            yield weight


def _is_copy(weight: Weight) -> bool:
    """An MTP module's embedding or head: the packed model keeps one."""
    return weight.part in ("embedding", "head") and weight.layer is not None


def _per_head(config: ModelConfig, weight: Weight) -> list[Matrix]:
    """What a matrix with rows per head becomes; nothing if it has none."""
    heads, nope, latent = config.num_attention_heads, config.qk_nope_head_dim, config.kv_lora_rank
    stem, _, name = weight.name.removesuffix(".weight").rpartition(".")
    if name in ("q_proj", "q_b_proj"):
        whole = Cut(heads, 0, config.qk_head_dim)
        return [Matrix(weight.name, weight, heads * padded(config.qk_head_dim), weight.shape[1], whole)]
    if name == "kv_b_proj":
        keys, values = Cut(heads, 0, nope, transposed=True), Cut(heads, nope, nope + config.v_head_dim)
        return [
            Matrix(f"{stem}.k_b_proj.weight", weight, heads * padded(latent), nope, keys),
            Matrix(f"{stem}.v_b_proj.weight", weight, heads * padded(config.v_head_dim), latent, values),
        ]
    return []


def padded(rows: int, multiple: int = BLOCK_ROWS) -> int:
    """Rounded up to whole blocks."""
    return -(-rows // multiple) * multiple


def kind_for(config: ModelConfig, matrix: Matrix, wanted: Kind) -> Kind:
    """How one matrix of a model is kept whose matrices are `wanted`, exceptions included.

    f8 is for what the checkpoint stores in FP8, as long as no block of 128 x 128 spans two heads of a cut; the rest of
    an FP8 checkpoint keeps its type.
    """
    if matrix.source.part == "router":  # near ties between experts flip in less
        return "f32"
    if wanted == "i4" and matrix.short in EIGHT_OF_FOUR:
        return "i8"
    if wanted != "f8":
        return wanted
    if not matrix.source.linear:
        return "bf16" if config.torch_dtype == "bfloat16" else "f32"
    return "f8" if _blocks_fit(matrix) else "f32"


def _blocks_fit(matrix: Matrix) -> bool:
    """Whether every 16 rows x 128 columns of a packed matrix lie in one FP8 block of its source."""
    cut = matrix.cut
    if cut is None:
        return True
    per_head = matrix.source.shape[0] // cut.heads
    step = FP8_BLOCK if cut.transposed else BLOCK_ROWS
    spans = [
        (head * per_head + begin, min(head * per_head + begin + step, head * per_head + cut.end) - 1)
        for head in range(cut.heads)
        for begin in range(cut.begin, cut.end, step)
    ]
    return all(first // FP8_BLOCK == last // FP8_BLOCK for first, last in spans)


def stored(kind: Kind, rows: int, columns: int, group: int | None = None) -> list[tuple[str, tuple[int, ...], str]]:
    """(name suffix, shape, safetensors dtype) of one packed matrix: its data and, if it has one, its scale."""
    blocks = -(-rows // BLOCK_ROWS)
    if kind == "f32":
        return [("", (blocks, columns, BLOCK_ROWS), "F32")]
    if kind == "bf16":
        return [("", (blocks, -(-columns // 2), BLOCK_ROWS, 2), "BF16")]
    size = FP8_BLOCK if kind == "f8" else group_for(columns, group or DEFAULT_GROUP[kind])
    wide = padded(columns, size)
    scale = ((blocks, wide // size, 1), "F32") if kind == "f8" else ((blocks, wide // size, BLOCK_ROWS), "F16")
    data = ((blocks, wide // 8, BLOCK_ROWS, 4), "U8") if kind == "i4" else ((blocks, wide // 4, BLOCK_ROWS, 4), "I8")
    return [("", data[0], "U8" if kind == "f8" else data[1]), ("_scale", *scale)]


def group_for(columns: int, wanted: int) -> int:
    """Columns that share a scale: `wanted`, or the smallest group that holds a shorter row whole."""
    if wanted not in GROUPS:
        raise ConfigError(f"group is {wanted} columns; it must be one of {', '.join(map(str, GROUPS))}.")
    return min(wanted, next((g for g in GROUPS if g >= columns), wanted))


def packed_tensors(
    config: ModelConfig, kind: Kind, group: int | None = None
) -> Iterator[tuple[str, tuple[int, ...], str]]:
    """(name, shape, safetensors dtype) of every tensor of a packed checkpoint whose matrices are of `kind`."""
    for weight in vectors(config):
        narrow = weight.part == "embedding" and config.torch_dtype == "bfloat16"
        yield weight.name, weight.shape, "BF16" if narrow else "F32"
    for name, matrix, _ in single_matrices(config):
        for suffix, shape, dtype in stored(kind_for(config, matrix, kind), matrix.rows, matrix.columns, group):
            yield name + suffix, shape, dtype


def packed_size(config: ModelConfig, kind: Kind, group: int | None = None) -> PackedSize:
    """What `packed_tensors` add up to."""
    values = scales = plain = 0
    for name, shape, dtype in packed_tensors(config, kind, group):
        size = math.prod(shape) * BYTES[dtype]
        if name.endswith("_scale"):
            scales += size
        elif len(shape) > 2:
            values += size
        else:
            plain += size
    elements = sum(matrix.source.elements for matrix in matrices(config) if not (matrix.cut and matrix.cut.begin))
    return PackedSize(elements, values, scales, plain)


def step_weight_bytes(config: ModelConfig, kind: Kind, group: int | None = None) -> tuple[float, float]:
    """(bytes that every step reads, bytes of one expert of every layer) of the main model [B].

    Of the embedding a token reads one row, which is left out, as are vectors.
    """
    always = each = 0.0
    for matrix in matrices(config):
        if matrix.source.layer is not None and matrix.source.layer >= config.num_hidden_layers:
            continue
        parts = stored(kind_for(config, matrix, kind), matrix.rows, matrix.columns, group)
        one = float(sum(math.prod(shape) * BYTES[dtype] for _, shape, dtype in parts))
        if matrix.source.part == "experts":
            each += one
        else:
            always += one
    return always, each
