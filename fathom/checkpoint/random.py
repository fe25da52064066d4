"""Weights drawn at random, tensor by tensor: a model of any size to measure with, never held in memory.

The values of a tensor depend on the seed and its name alone, so shards, order and precision of the file change nothing.
They are whole numbers times one factor: the same bits on every machine, which `Tensor.normal_` does not promise.
"""

from __future__ import annotations

import hashlib
import math
from functools import partial

import numpy as np
import torch
from torch import Tensor

from fathom.checkpoint.load import LAYER, MTP_COPIES
from fathom.checkpoint.reader import DTYPES
from fathom.checkpoint.writer import Source
from fathom.config import ModelConfig
from fathom.cost import tensors

BIAS_STD = 0.02  # of correction biases: enough to change which experts are chosen, too little to choose them alone


def random_sources(config: ModelConfig, seed: int = 0) -> list[Source]:
    """Every tensor of a checkpoint of `config`, to be written by `write_weights`, or packed first.

    Matrices are uniform with standard deviation 1 / sqrt(fan-in), norms are 1, correction biases small.
    """
    return [
        Source(name, shape, DTYPES[kind], partial(draw, name, shape, DTYPES[kind], seed))
        for name, shape, kind in tensors(config)
    ]


def draw(name: str, shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    """The values of one tensor."""
    if len(shape) > 1:
        return _uniform(_own_name(name), shape, shape[-1] ** -0.5, seed).to(dtype)
    if name.endswith("e_score_correction_bias"):
        return _uniform(name, shape, BIAS_STD, seed).to(dtype)
    return torch.ones(shape, dtype=dtype)


def _own_name(name: str) -> str:
    """`name`, or where an MTP layer repeats the embedding or the head, the name of that."""
    part = LAYER.match(name)
    return MTP_COPIES.get(part[2], name) if part else name


def _uniform(name: str, shape: tuple[int, ...], std: float, seed: int) -> Tensor:
    key = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    count = math.prod(shape)
    raw = np.random.SFC64(int.from_bytes(key, "big")).random_raw(-(-count // 4))
    whole = torch.from_numpy(raw.astype("<u8", copy=False).view("<i2")[:count].astype(np.float32))
    return whole.mul_(std * math.sqrt(3) / 2**15).view(shape)
