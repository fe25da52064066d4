"""Rewrite a checkpoint tensor by tensor: other precision, FP8 in or out, other shard size.

Never more than one tensor is in memory. FP8 follows the released DeepSeek files: the projections of attention and
MLPs are quantised; embedding, head, norms, router and the MTP projection are not.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fathom.checkpoint.fp8 import (
    E4M3,
    QUANTIZATION_CONFIG,
    SCALE_SUFFIX,
    dequantize_fp8,
    quantize_fp8,
    scale_shape,
)
from fathom.checkpoint.reader import Reader, TensorInfo, quoted, read_json
from fathom.checkpoint.writer import MAX_SHARD_BYTES, Source, write_weights
from fathom.config import PACKED_METHOD
from fathom.errors import CheckpointError

QUANTISED = re.compile(
    r"\.(q_proj|q_a_proj|q_b_proj|kv_a_proj_with_mqa|kv_b_proj|o_proj|gate_proj|up_proj|down_proj)\.weight"
)
FP32_ALWAYS = "e_score_correction_bias"  # float32 in the released files: in bf16 near ties between experts flip
COMPANIONS = ("tokenizer*", "special_tokens_map.json", "vocab*", "merges.txt", "generation_config.json",
              "chat_template*", "*.md", "LICENSE*")  # fmt: skip


@dataclass(frozen=True)
class Converted:
    """What a conversion wrote."""

    tensors: int
    bytes: int
    files: int


def convert(
    source: str | Path,
    target: str | Path,
    *,
    dtype: torch.dtype | None = None,
    fp8: bool = False,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    progress: Callable[[int, int], None] | None = None,
) -> Converted:
    """Write the checkpoint `source` to the new directory `target`, with config.json and tokenizer files.

    Args:   dtype: type of the values that are not FP8; by default as stored, and bf16 for what was FP8.
            fp8: store the projections in FP8 blocks; otherwise FP8 weights are dequantised.
    Raises: CheckpointError: `source` is damaged, or `target` is taken or cannot be written.
    """
    source, target = Path(source), Path(target)
    if source.resolve() == target.resolve():
        raise CheckpointError(f"{target} is both source and target; name a new directory.")
    if not source.is_dir() and source.exists():
        raise CheckpointError(f"{source} is a file; name the directory that holds it, with its config.json.")
    with Reader(source) as reader:
        stored = read_json(source / "config.json")
        if isinstance(how := stored.get("quantization_config"), dict) and how.get("quant_method") == PACKED_METHOD:
            raise CheckpointError(f"{source} is packed already; convert the checkpoint that it was made from.")
        config = _convert_config(stored, reader, dtype, fp8)
        sources = [made for name in reader.tensors for made in _convert_tensor(reader, name, dtype, fp8)]
        write_weights(
            target, sources, config, extra_files=companions(source), max_shard_bytes=max_shard_bytes, progress=progress
        )
    files = len(list(target.glob("*.safetensors")))
    return Converted(tensors=len(sources), bytes=sum(made.bytes for made in sources), files=files)


def companions(source: Path) -> dict[str, bytes | Path]:
    """The files of a model that are not weights: tokenizer, card, licence."""
    return {path.name: path for pattern in COMPANIONS for path in source.glob(pattern) if path.is_file()}


def _convert_tensor(reader: Reader, name: str, dtype: torch.dtype | None, fp8: bool) -> list[Source]:
    """What one stored tensor becomes: itself, itself in another type, an FP8 pair, or nothing (a scale used up)."""
    info = reader.tensors[name]
    weight = name.removesuffix(SCALE_SUFFIX)
    if weight != name:
        if weight not in reader.tensors or reader.tensors[weight].dtype != E4M3:
            raise CheckpointError(f"{reader.source}: {quoted(name)} scales no FP8 weight; the checkpoint is damaged.")
        return [Source(name, info.shape, info.dtype, partial(reader.read, name))] if fp8 else []
    if info.dtype == E4M3:
        _check_scale(reader, name, info)
        if fp8:
            return [Source(name, info.shape, info.dtype, partial(reader.read, name))]
        plain = dtype or torch.bfloat16
        return [Source(name, info.shape, plain, partial(_dequantised, reader, name, plain))]
    if fp8 and QUANTISED.search(name) and info.dtype.is_floating_point:
        if len(info.shape) != 2:
            raise CheckpointError(f"{reader.source}: {quoted(name)} has shape {list(info.shape)}; FP8 needs a matrix.")
        scale = name + SCALE_SUFFIX
        return [
            Source(name, info.shape, E4M3, partial(_quantised, reader, name, 0)),
            Source(scale, scale_shape(info.shape), torch.float32, partial(_quantised, reader, name, 1)),
        ]
    keep = dtype is None or not info.dtype.is_floating_point or name.endswith(FP32_ALWAYS)
    wanted = info.dtype if keep or dtype is None else dtype
    return [Source(name, info.shape, wanted, lambda: reader.read(name).to(wanted))]


def _check_scale(reader: Reader, name: str, info: TensorInfo) -> None:
    scale = reader.tensors.get(name + SCALE_SUFFIX)
    if scale is None or len(info.shape) != 2 or scale.shape != scale_shape(info.shape):
        raise CheckpointError(f"{reader.source}: {quoted(name)} is FP8 without fitting block scales; fetch it again.")


def _dequantised(reader: Reader, name: str, dtype: torch.dtype) -> Tensor:
    return dequantize_fp8(reader.read(name), reader.read(name + SCALE_SUFFIX), dtype)


def _quantised(reader: Reader, name: str, part: int) -> Tensor:
    """Values (0) or scales (1); made twice rather than kept, since a file holds all its scales before its values."""
    return quantize_fp8(reader.read(name))[part]


def _convert_config(config: dict[str, Any], reader: Reader, dtype: torch.dtype | None, fp8: bool) -> dict[str, Any]:
    """config.json of the result; key order is kept."""
    was_fp8 = any(info.dtype == E4M3 for info in reader.tensors.values())
    changed = dict(config)
    if fp8:
        changed["quantization_config"] = (was_fp8 and config.get("quantization_config")) or dict(QUANTIZATION_CONFIG)
    else:
        changed.pop("quantization_config", None)
    if dtype is None and was_fp8 and not fp8:
        dtype = torch.bfloat16
    if dtype is not None:
        key = "dtype" if "dtype" in config else "torch_dtype"
        changed[key] = str(dtype).removeprefix("torch.")
    return changed
