"""Weights drawn at random, tensor by tensor: a model of any size to measure with, never held in memory.

The values of a tensor depend on the seed and its name alone, so shards, order and precision of the file change nothing.
They are whole numbers times one factor: the same bits on every machine, which `Tensor.normal_` does not promise.
"""

from __future__ import annotations

import hashlib
import math
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fathom.checkpoint.load import EMBEDDING, HEAD, LAYER, MTP_COPIES, Copy
from fathom.checkpoint.pack import Plain
from fathom.checkpoint.reader import DTYPES, Reader, TensorInfo
from fathom.checkpoint.writer import Source
from fathom.config import ModelConfig
from fathom.cost import tensors

BIAS_STD = 0.02  # of correction biases: enough to change which experts are chosen, too little to choose them alone


def random_sources(config: ModelConfig, seed: int = 0) -> list[Source]:
    """Every tensor of a checkpoint of `config`, to be written by `write_weights`, or packed first.

    Matrices are uniform with standard deviation 1 / sqrt(fan-in), norms are 1, correction biases small.
    """
    return [
        Source(name, shape, DTYPES[kind], partial(draw, _drawn_as(name, config), shape, DTYPES[kind], seed))
        for name, shape, kind in tensors(config)
    ]


class Drawn(Plain):
    """The same weights, to be packed as they are drawn: what was never written need not be read."""

    def __init__(self, config: ModelConfig, seed: int = 0) -> None:
        self.reader = _Draws(config, seed)
        self.config = config
        self.steps = {name: Copy(name, name) for name in self.reader.tensors}
        self.copies = []

    def _require_finite(self, values: Tensor, name: str) -> None:
        """They are by construction."""


class _Draws(Reader):
    """Random weights in the place of a checkpoint's files; the tensor drawn last is kept, since it is read in parts."""

    def __init__(self, config: ModelConfig, seed: int) -> None:
        self.source = Path("random")
        self._drawn = {source.name: source for source in random_sources(config, seed)}
        self.tensors = {
            name: TensorInfo(source.shape, source.dtype, self.source, 0, source.bytes)
            for name, source in self._drawn.items()
        }
        self._last: tuple[str, Tensor] | None = None

    def read(self, name: str, *slices: slice) -> Tensor:
        """One tensor, or some of its rows."""
        if self._last is None or self._last[0] != name:
            self._last = None  # before the next one is made
            self._last = (name, self._drawn[name].load())
        return self._last[1][slices]


def draw(name: str, shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    """The values of one tensor."""
    if len(shape) > 1:
        return _uniform(name, shape, shape[-1] ** -0.5, seed).to(dtype)
    if name.endswith("e_score_correction_bias"):
        return _uniform(name, shape, BIAS_STD, seed).to(dtype)
    return torch.ones(shape, dtype=dtype)


def _drawn_as(name: str, config: ModelConfig) -> str:
    """`name`, or where an MTP layer repeats the embedding or the head, the name of that."""
    part = LAYER.match(name)
    own = MTP_COPIES.get(part[2], name) if part else name
    return EMBEDDING if own == HEAD and config.tie_word_embeddings else own


def _uniform(name: str, shape: tuple[int, ...], std: float, seed: int) -> Tensor:
    key = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    count = math.prod(shape)
    raw = np.random.SFC64(int.from_bytes(key, "big")).random_raw(-(-count // 4))
    whole = torch.from_numpy(raw.astype("<u8", copy=False).view("<i2")[:count].astype(np.float32))
    return whole.mul_(std * math.sqrt(3) / 2**15).view(shape)
