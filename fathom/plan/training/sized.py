"""Shapes of models that are known by a name and a size only, as tables of measurements call them."""

from __future__ import annotations

import re

from fathom.errors import ConfigError
from fathom.plan.families import find, known
from fathom.plan.shape import Attention, Block, Matrix, Shape

SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*[bB]\b")
SAME = (r"^llama[- ]?3[- ](?=\d+b)", "llama-3.1-")  # another model of the same config


def plain(text: str) -> str:
    """Lower case, letters and digits only."""
    return re.sub(r"[^a-z0-9]", "", re.sub(*SAME, text.lower()))


def shape_of(model: str, parameters: float | None = None) -> Shape:
    """A known model, or else a dense one of that size. Raises: ConfigError: neither is said."""
    depth = re.search(r"nanochat d(\d+)", model)
    if depth:
        return nanochat(int(depth[1]))
    wanted, names = plain(model), {plain(name): name for name in known()}
    heads = [name for name in names if wanted.startswith(name) and len(name) > 4]
    if heads:
        return find(names[max(heads, key=len)])
    if parameters is None:
        size = SIZE.search(model)
        if size is None:
            raise ConfigError(f"model {model!r} is not known and names no size; give a config.json or its parameters.")
        parameters = float(size[1]) * 1e9
    return of_size(parameters, model)


def of_size(parameters: float, name: str = "", vocab: int = 50432) -> Shape:
    """A dense decoder of so many parameters: 12 L h^2 of them in L layers, h = 128 L, as GPT-3, OPT and MPT have it."""
    layers = max(1, round((parameters / (12 * 128**2)) ** (1 / 3)))
    hidden = max(1, round((parameters / (12 * layers)) ** 0.5 / 128)) * 128
    attention = Attention("heads", hidden // 128, hidden // 128, 128, 128)
    block = Block(layers, attention, _matrices(hidden), 2 * hidden)
    return Shape(name, hidden, vocab, (block,), tied=True, final_norm=hidden, context=2048, family="dense")


def nanochat(depth: int) -> Shape:
    """karpathy/nanochat: as wide as 64 times its depth; three layers of four see half of the context."""
    hidden = 64 * depth
    near, far = (Attention("heads", hidden // 128, hidden // 128, 128, 128, window=window) for window in (1024, None))
    blocks = (
        Block(depth - depth // 4, near, _matrices(hidden), 0), Block(depth // 4, far, _matrices(hidden), 0),
    )  # fmt: skip
    return Shape(f"nanochat d{depth}", hidden, 32768, blocks, family="dense", context=2048)


def _matrices(hidden: int) -> tuple[Matrix, ...]:
    """Attention with as many keys as queries, and an MLP four times as wide without a gate."""
    return (
        *(Matrix(f"{one}_proj", hidden, hidden, "attention") for one in "qkvo"),
        Matrix("up_proj", 4 * hidden, hidden, "dense_mlp"),
        Matrix("down_proj", hidden, 4 * hidden, "dense_mlp"),
    )
