"""The 4-bit matrices of a model, each rounded for the inputs that it meets in given text (checkpoint/rounding.py).

The text goes through the model layer by layer, and on from each layer as it is once rounded, so that a layer makes up
for those before it. In memory are one layer in float32, the hidden states of all tokens, and what is packed so far.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from fathom import ops
from fathom.checkpoint.pack import Plain, cut_heads, uncut_heads
from fathom.checkpoint.rounding import Inputs, round_for_inputs
from fathom.cost import Matrix, kind_for, single_matrices
from fathom.layout import Shard
from fathom.model import Batch
from fathom.model.block import Block
from fathom.model.comm import Alone
from fathom.model.layers import Linear, RMSNorm, Storage
from fathom.model.moe import Experts
from fathom.model.mtp import MTPModule
from fathom.model.rope import Rotary
from fathom.ops.packing import DEFAULT_GROUP, PackedMatrix, group_for, pack_levels, unpack

BATCH_TOKENS = 4096  # of one forward: bounds what attention takes


@dataclass
class Piece:
    """Some documents on their way through the model. x: what the next layer reads [tokens, hidden]."""

    tokens: Tensor
    batch: Batch
    turn: tuple[Tensor, Tensor]
    x: Tensor


@dataclass
class Seen:
    """What one layer met: second moments by module; every token before the experts, and the experts chosen for it."""

    moments: dict[str, Tensor] = field(default_factory=dict)
    tokens: list[Tensor] = field(default_factory=list)
    chosen: list[Tensor] = field(default_factory=list)

    def join(self) -> None:
        """The tokens before the experts as one tensor each, once all have come."""
        self.tokens, self.chosen = ([torch.cat(each)] if each else [] for each in (self.tokens, self.chosen))

    def add(self, name: str, x: Tensor) -> None:
        found = x.T @ x
        self.moments[name] = self.moments[name] + found if name in self.moments else found


@torch.no_grad()
def calibrate(
    plain: Plain,
    documents: Sequence[Sequence[int]],
    group: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, PackedMatrix]:
    """Every matrix that `--bits 4` rounds to 4 bits, by name, rounded for `documents`; packed, for `pack_checkpoint`.

    Args: documents: token ids. group: columns that share a scale. progress: called with (layers done, layers in all).
    """
    config, wanted = plain.config, group or DEFAULT_GROUP["i4"]
    todo: dict[int, dict[str, Matrix]] = defaultdict(dict)
    for name, matrix, _ in single_matrices(config):
        if matrix.source.layer is not None and kind_for(config, matrix, "i4") == "i4":
            todo[matrix.source.layer][name] = matrix
    embedding = plain.read("model.embed_tokens.weight")
    pieces = list(_pieces(plain, documents, embedding))
    found: dict[str, PackedMatrix] = {}
    layers = config.num_hidden_layers + config.num_nextn_predict_layers
    for layer in range(layers):
        if layer == config.num_hidden_layers:
            norm = RMSNorm(config.hidden_size, config.rms_norm_eps, Storage())
            norm.weight.copy_(plain.read("model.norm.weight"))
            for piece in pieces:
                piece.x = norm(piece.x)
        block, ahead = _block(plain, layer), layer - config.num_hidden_layers + 1
        seen = Seen()
        handles = list(_watch(block, seen))
        for piece in pieces:
            _run(block, piece, embedding, ahead)
        for handle in handles:
            handle.remove()
        seen.join()
        found |= _rounded(block, f"model.layers.{layer}.", todo[layer], seen, wanted)
        for piece in pieces:
            piece.x = _run(block, piece, embedding, ahead)
        if progress is not None:
            progress(layer + 1, layers)
    return found


def _pieces(plain: Plain, documents: Sequence[Sequence[int]], embedding: Tensor) -> Iterator[Piece]:
    """The documents, some at a time: at least one, and as many as BATCH_TOKENS holds."""
    rotary = Rotary(plain.config)
    some: list[Sequence[int]] = []
    for i, document in enumerate(documents):
        some.append(document)
        if i + 1 == len(documents) or sum(map(len, some)) + len(documents[i + 1]) > BATCH_TOKENS:
            tokens, batch = torch.tensor([t for each in some for t in each]), Batch.packed([len(each) for each in some])
            yield Piece(tokens, batch, rotary(batch.positions), embedding[tokens])
            some = []


def _block(plain: Plain, layer: int) -> Block:
    """One layer of the model, in float32."""
    made = MTPModule if layer >= plain.config.num_hidden_layers else Block
    block = made(plain.config, layer, Shard.whole(plain.config), Alone(), Storage())
    for name, tensor in block.state_dict().items():
        tensor.copy_(plain.read(f"model.layers.{layer}.{name}"))
    return block


def _run(block: Block, piece: Piece, embedding: Tensor, ahead: int) -> Tensor:
    """The layer's output. ahead: of an MTP module, tokens between a hidden state and the one it reads with it."""
    if not isinstance(block, MTPModule):
        return block(piece.x, piece.turn, piece.batch, None)
    return block.predict(piece.x, embedding[piece.tokens.roll(-ahead)], piece.turn, piece.batch, None)


def _watch(block: Block, seen: Seen) -> Iterator[torch.utils.hooks.RemovableHandle]:
    """Hooks that note what the layer's matrices meet while it runs."""

    def linear(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _, arguments: seen.add(name, arguments[0])

    def experts(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        seen.tokens.append(arguments[0])
        seen.chosen.append(arguments[1])

    for name, module in block.named_modules():
        if isinstance(module, Linear):
            yield module.register_forward_pre_hook(linear(name))
        elif isinstance(module, Experts):
            yield module.register_forward_pre_hook(experts)


def _rounded(
    block: Block, prefix: str, todo: dict[str, Matrix], seen: Seen, group: int
) -> Iterator[tuple[str, PackedMatrix]]:
    """The layer's 4-bit matrices; each takes its place in `block` as rounded."""
    held = block.state_dict()
    inputs: dict[str, Inputs] = {}
    for name, matrix in todo.items():
        own = name.removeprefix(prefix)
        weight = held[own]
        size = group_for(matrix.columns, group)
        shared = own.replace("up_proj", "gate_proj")  # the two read the same
        if shared not in inputs:
            inputs = {shared: Inputs.of(_moments(own, held, seen), size)}  # the matrices of an expert follow each other
        levels, scale = round_for_inputs(cut_heads(weight, matrix.cut), inputs[shared], "i4", size)
        packed = pack_levels(levels, scale, kind="i4", columns=matrix.columns)
        rounded = unpack(packed)
        if matrix.cut is not None:
            rounded = uncut_heads(rounded, matrix.cut, matrix.columns).flatten(0, 1)
        weight.copy_(rounded)
        yield name, packed


def _moments(name: str, held: dict[str, Tensor], seen: Seen) -> Tensor:
    """Second moments of what one matrix of the layer met."""
    module = name.removesuffix(".weight")
    if module in seen.moments:
        return seen.moments[module]
    stem, _, short = module.rpartition(".")
    expert = int(stem.rpartition(".")[2])
    x = _met_by(expert, *seen.tokens, *seen.chosen)
    if short == "down_proj":
        gate, up = (held[f"{stem}.{part}_proj.weight"] for part in ("gate", "up"))
        x = ops.swiglu(x @ gate.T, x @ up.T)
    return x.T @ x


def _met_by(expert: int, x: Tensor, chosen: Tensor) -> Tensor:
    """The tokens of an expert. One that met fewer than they have values is shown others too: too few would mislead."""
    mine = (chosen == expert).any(-1)
    missing = x.shape[1] - int(mine.sum())
    return torch.cat((x[mine], x[~mine][:missing])) if missing > 0 else x[mine]
