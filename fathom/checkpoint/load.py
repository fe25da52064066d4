"""Fill a module from a checkpoint by name, or say in one line why not, before the first byte of data is read.

The module decides what is expected: its `state_dict()` holds Hugging Face names (a view per expert, where experts are
stacked). What real checkpoints do beside that has a rule each: FP8 weights with their scales, MTP layers that repeat
the embedding and the head, a head tied to the embedding, rotary tables that old files carry.
"""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from fathom.checkpoint.fp8 import E4M3, SCALE_SUFFIX, dequantize_fp8, scale_shape
from fathom.checkpoint.reader import Reader, TensorInfo, quoted, read_json
from fathom.config import FP8_BLOCK
from fathom.errors import CheckpointError

log = logging.getLogger(__name__)

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")
MTP_COPIES = {"embed_tokens.weight": EMBEDDING, "shared_head.head.weight": HEAD}
_COMPARED_BYTES = 4 << 20


@dataclass(frozen=True)
class Copy:
    """One step of a load: the stored tensor `source` (with its block scales, if any) goes to `target`."""

    target: str
    source: str
    scale: str | None = None


def mtp_layers(directory: str | Path) -> int:
    """How many MTP layers the checkpoint really holds; config.json may promise more than was published."""
    with Reader(directory) as reader:
        return len(mtp_indices(reader.tensors))


def load_weights(
    module: nn.Module,
    directory: str | Path,
    *,
    dtype: torch.dtype | None = None,
    keep_fp8: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Fill every tensor of `module.state_dict()` from the checkpoint, one tensor in memory at a time.

    Floating values take the type of the module's tensor; a loss of precision on the way is logged once.

    Args:   dtype: what FP8 weights are rounded to before that; by default nothing, they keep float32's precision.
            keep_fp8: where the module itself expects E4M3 `weight` and float32 `weight_scale_inv`, copy both as stored.
            progress: called with (bytes done, bytes in all).
    Raises: CheckpointError: names missing or not expected, a wrong shape or dtype, a damaged file.
    """
    with Reader(directory) as reader, torch.no_grad():
        expected = module.state_dict()
        for name, tensor in expected.items():
            if tensor.is_meta:
                raise AssertionError(f"{name} has no memory; call module.to_empty(device=...) before load_weights")
        plan, copies = plan_load(reader, expected, keep_fp8=keep_fp8)
        _report_narrowing(reader, plan, expected)
        plan.sort(key=lambda step: (str(reader.tensors[step.source].file), reader.tensors[step.source].offset))
        total = sum(reader.tensors[step.source].bytes for step in plan)
        done = 0
        for step in plan:
            expected[step.target].copy_(fetch(reader, step, dtype))
            done += reader.tensors[step.source].bytes
            if progress is not None:
                progress(done, total)
        for copy, original in copies:
            check_equal(reader, copy, original)


def plan_load(
    reader: Reader, expected: Mapping[str, Tensor], *, keep_fp8: bool = False
) -> tuple[list[Copy], list[tuple[str, str]]]:
    """How to fill `expected` from the checkpoint, checked against the headers; and pairs of tensors to `check_equal`.

    Raises: CheckpointError: names missing or not expected, a wrong shape or dtype.
    """
    plan, copies = _plan(reader, expected, tied=_is_tied(reader, expected))
    for step in plan:
        _check(reader, step, expected[step.target], keep_fp8)
    return plan, copies


def _plan(reader: Reader, expected: Mapping[str, Tensor], tied: bool) -> tuple[list[Copy], list[tuple[str, str]]]:
    """What to copy where, and which stored tensors are copies of others; every stored name is accounted for."""
    stored = reader.tensors
    aliases = _aliases(stored, expected, tied)
    ignored = _ignored(stored, expected)
    plan: list[Copy] = []
    used: set[str] = set()
    missing = []
    for target, tensor in expected.items():
        source = target if target in stored else aliases.get(target)
        if source is None or source not in stored:
            missing.append(target)
            continue
        scale = source + SCALE_SUFFIX if stored[source].dtype == E4M3 and tensor.dtype != E4M3 else None
        if scale is not None and scale not in stored:
            raise CheckpointError(
                f"{reader.source}: {quoted(source)} is FP8, but its {quoted(scale)} is missing; fetch it."
            )
        plan.append(Copy(target, source, scale))
        used.update({source, scale} if scale else {source})
    spare = stored.keys() - used - ignored
    copies = [(name, aliases[name]) for name in sorted(spare) if aliases.get(name) in stored]
    unexpected = sorted(spare - {name for name, _ in copies})
    if missing or unexpected:
        raise CheckpointError(mismatch(reader, missing, unexpected, expected))
    return plan, copies


def _aliases(stored: Mapping[str, TensorInfo], expected: Mapping[str, Tensor], tied: bool) -> dict[str, str]:
    """name -> the tensor it must be equal to: heads and embeddings that MTP layers repeat, and a tied head."""
    aliases = {HEAD: EMBEDDING} if tied else {}
    for index in mtp_indices(stored) | mtp_indices(expected):
        for suffix, original in MTP_COPIES.items():
            aliases[f"model.layers.{index}.{suffix}"] = (
                original if original in stored else aliases.get(original, original)
            )
    return aliases


def _ignored(stored: Mapping[str, TensorInfo], expected: Mapping[str, Tensor]) -> set[str]:
    """Stored names that are passed over: rotary tables, and MTP layers that the module was built without."""
    spare = mtp_indices(stored) - _layer_indices(expected)
    if spare:
        layers = ", ".join(map(str, sorted(spare)))
        log.info("layers left out of the load: %s (multi-token prediction; the model was built without)", layers)
    return {
        name for name in stored
        if name.endswith("rotary_emb.inv_freq") or ((match := LAYER.match(name)) and int(match[1]) in spare)
    }  # fmt: skip


def _layer_indices(names: Iterable[str]) -> set[int]:
    return {int(match[1]) for name in names if (match := LAYER.match(name))}


def mtp_indices(names: Iterable[str]) -> set[int]:
    """Layers that are MTP modules: only those have a projection of [embedding; hidden]."""
    return {int(match[1]) for name in names if (match := LAYER.match(name)) and match[2] == "eh_proj.weight"}


def _is_tied(reader: Reader, expected: Mapping[str, Tensor]) -> bool:
    """True if config.json says so, or if the module's head and embedding are one tensor."""
    head, embedding = expected.get(HEAD), expected.get(EMBEDDING)
    if head is not None and embedding is not None and not head.is_meta and head.data_ptr() == embedding.data_ptr():
        return True
    config = (reader.source if reader.source.is_dir() else reader.source.parent) / "config.json"
    return config.is_file() and read_json(config).get("tie_word_embeddings") is True


def mismatch(reader: Reader, missing: list[str], unexpected: list[str], expected: Collection[str]) -> str:
    """One line: how many names are missing or unexpected, five of each, the nearest names, and what to do."""
    parts = []
    if missing:
        parts.append(f"{len(missing)} tensors are missing ({_shown(map(quoted, missing[:5]), len(missing))})")
    if unexpected:
        nearest = (_with_nearest(name, missing or list(expected)) for name in unexpected[:5])
        parts.append(f"{len(unexpected)} tensors are not expected ({_shown(nearest, len(unexpected))})")
    advice = "check that config.json and the weights belong together"
    if not unexpected and _layer_indices(missing) and _layer_indices(missing) <= mtp_indices(expected):
        advice = "it has no MTP layer of that number; build the model with num_nextn_predict_layers = 0"
    elif not unexpected and all(name.endswith(SCALE_SUFFIX) for name in missing):
        advice = "its weights are not FP8; run `fathom convert SRC DST --fp8` first"
    return f"{reader.source}: {' and '.join(parts)}; {advice}."


def _shown(names: Iterable[str], count: int) -> str:
    return ", ".join(names) + (", ..." if count > 5 else "")


def _with_nearest(name: str, pool: Iterable[str]) -> str:
    """The name and the most similar one of `pool`; only names with the same ending are compared, so it stays fast."""
    ending = name.rsplit(".", 1)[-1]
    candidates = [other for other in pool if other.endswith(ending)][:500]
    nearest = difflib.get_close_matches(name[:200], candidates, n=1)
    return quoted(name) + (f", nearest is {quoted(nearest[0])}" if nearest else "")


def _check(reader: Reader, step: Copy, target: Tensor, keep_fp8: bool) -> None:
    """Shape and dtype of what is stored against what the module has."""
    info, what = reader.tensors[step.source], f"{reader.source}: {quoted(step.source)}"
    if info.shape != tuple(target.shape):
        raise CheckpointError(
            f"{what} has shape {list(info.shape)}; the model needs {list(target.shape)}. Does config.json belong to it?"
        )
    if target.dtype == E4M3:
        if not keep_fp8:
            raise AssertionError(f"{step.target} of the model is FP8; pass keep_fp8=True to load_weights")
        if info.dtype != E4M3:
            raise CheckpointError(
                f"{what} is {info.dtype}; FP8 is asked for. Run `fathom convert SRC DST --fp8` first."
            )
    elif step.scale is not None:
        scale = reader.tensors[step.scale]
        if len(info.shape) != 2 or scale.shape != scale_shape(info.shape) or not scale.dtype.is_floating_point:
            raise CheckpointError(
                f"{reader.source}: {quoted(step.scale)} is {scale.dtype} {list(scale.shape)}; "
                f"{list(info.shape)} needs one float32 scale per block of {FP8_BLOCK} x {FP8_BLOCK}."
            )
    elif info.dtype != target.dtype and not (info.dtype.is_floating_point and target.dtype.is_floating_point):
        raise CheckpointError(f"{what} has dtype {info.dtype}; the model needs {target.dtype}.")


def _report_narrowing(reader: Reader, plan: list[Copy], expected: Mapping[str, Tensor]) -> None:
    """Log once if values are rounded to fewer bits than the file holds."""
    pairs = [
        (step.source, reader.tensors[step.source].dtype, expected[step.target].dtype) for step in plan if not step.scale
    ]
    narrowed = [pair for pair in pairs if _loses(pair[1], pair[2])]
    if narrowed:
        name, source, target = narrowed[0]
        log.warning(
            "%s: %d tensors are rounded on loading, such as %s (%s to %s)",
            reader.source, len(narrowed), quoted(name), source, target,
        )  # fmt: skip


def _loses(source: torch.dtype, target: torch.dtype) -> bool:
    """True if some value of `source` is not a value of `target`."""
    if source == target or not source.is_floating_point:
        return False
    have, need = torch.finfo(target), torch.finfo(source)
    return have.eps > need.eps or have.max < need.max


def fetch(reader: Reader, step: Copy, dtype: torch.dtype | None = None) -> Tensor:
    """The values of one step; FP8 ones times their scales, in `dtype` (float32 if None)."""
    value = reader.read(step.source)
    if step.scale is None:
        if step.source.endswith(SCALE_SUFFIX) and not torch.isfinite(value).all():
            raise CheckpointError(
                f"{reader.source}: {quoted(step.source)} holds a value that is not finite; fetch it again."
            )
        return value
    try:
        return dequantize_fp8(value, reader.read(step.scale), dtype or torch.float32)
    except CheckpointError as error:
        raise CheckpointError(f"{reader.source}: {quoted(step.source)}: {error}") from None


def check_equal(reader: Reader, copy: str, original: str) -> None:
    """A repeated tensor must repeat exactly: the model keeps one, so a second version would be lost in silence."""
    one, two = reader.tensors[copy], reader.tensors[original]
    rows = max(1, _COMPARED_BYTES * max(1, one.shape[0]) // max(1, one.bytes)) if one.shape else 1
    if (one.shape, one.dtype) == (two.shape, two.dtype) and all(
        torch.equal(*(reader.read(name, slice(i, i + rows)).view(torch.uint8) for name in (copy, original)))
        for i in range(0, one.shape[0], rows)
    ):
        return
    raise CheckpointError(
        f"{reader.source}: {quoted(copy)} differs from {quoted(original)}; the model has one tensor for both."
    )
