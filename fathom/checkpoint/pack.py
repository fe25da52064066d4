"""A plain or FP8 checkpoint, matrix by matrix, in the order in which the kernels read it.

What the matrices are is cost/packed.py's table, what packing means is ops/packing.py; here one becomes the other. A
Plain is checked against config.json in full before a byte of data is read, and holds no tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from fathom.checkpoint.convert import Converted, companions
from fathom.checkpoint.fp8 import E4M3
from fathom.checkpoint.load import check_equal, fetch, mtp_indices, plan_load
from fathom.checkpoint.reader import DTYPES, Reader, quoted, read_json
from fathom.checkpoint.writer import MAX_SHARD_BYTES, Source, write_weights
from fathom.config import FP8_BLOCK, PACKED_METHOD, ModelConfig
from fathom.cost import (
    KIND_OF_BITS,
    Cut,
    Kind,
    Made,
    Matrix,
    kind_for,
    single_matrices,
    stored,
    tensors,
    vectors,
    weights,
)
from fathom.errors import CheckpointError
from fathom.ops.packing import BLOCK_ROWS, PackedMatrix, pack, pack_f8

Wanted = Made | Literal["auto"]
Own = tuple[int, int, int]  # parts from the first number to the second, of so many equal ones (layout/rows.py)
PIECE = 1 << 20  # weights packed at a time
SCALE = "_scale"  # follows a packed matrix's name; DeepSeek's block scales are called _scale_inv
BITS: dict[Made, int] = {kind: bits for bits, kind in KIND_OF_BITS.items()}


class Plain:
    """A checkpoint that is not packed. config: that of the model, with the MTP modules that are there and wanted.

    Raises: CheckpointError: names missing or not expected, a wrong shape or dtype, the checkpoint is packed already.
    """

    def __init__(self, reader: Reader, config: ModelConfig, *, mtp: bool = True) -> None:
        if config.packed is not None:
            raise CheckpointError(f"{reader.source} is packed already; convert the checkpoint that it was made from.")
        held = len(mtp_indices(reader.tensors)) if mtp else 0
        modules = min(held, config.num_nextn_predict_layers)
        self.reader = reader
        self.config = replace(config, num_nextn_predict_layers=modules, quantization_config=None)
        own = {w.name for w in weights(self.config) if w.layer is None or w.part not in ("embedding", "head")}
        expected = {
            name: torch.empty(shape, device="meta")
            for name, shape, _ in tensors(self.config)
            if name in own or ".experts." in name
        }
        plan, self.copies = plan_load(reader, expected)
        self.steps = {step.target: step for step in plan}

    def read(self, name: str) -> Tensor:
        """One weight by its checkpoint name, in float32."""
        return fetch(self.reader, self.steps[name]).float()

    def check_copies(self) -> None:
        """Raise CheckpointError if an MTP module's embedding or head is not the main model's, of which one is kept."""
        for copy, original in self.copies:
            check_equal(self.reader, copy, original)

    def kind(self, matrix: Matrix, expert: int, wanted: Wanted) -> Kind:
        """How a matrix is kept. "auto" loses nothing: FP8 blocks and bf16 stay what they are, all else is f32."""
        if wanted != "auto":
            return kind_for(self.config, matrix, wanted)
        held = self.reader.tensors[self.steps[_source(matrix, expert)].source].dtype
        kind = kind_for(self.config, matrix, "f8" if held == E4M3 else "bf16" if held == torch.bfloat16 else "f32")
        return "f32" if held == E4M3 and kind == "bf16" else kind

    def packed(
        self, matrix: Matrix, expert: int, kind: Kind, group: int | None = None, own: Own | None = None
    ) -> PackedMatrix:
        """One matrix packed, rounded to nearest; f8 keeps the stored values and scales. own: only this part of it."""
        step = self.steps[_source(matrix, expert)]
        if own is not None and step.scale is not None:  # the blocks of its scales span what ranks own
            return own_part(self.packed(matrix, expert, kind, group), own)
        if kind != "f8":
            if matrix.cut is None and step.scale is None:
                return self._packed_in_pieces(step.source, kind, group, own)
            if own is not None:
                assert matrix.cut is not None, "other matrices are packed in pieces"
                rows = self.reader.tensors[step.source].shape[0] // matrix.cut.heads
                weight = self.reader.read(step.source, slice(own[0] * rows, own[1] * rows)).float()
                self._require_finite(weight, step.source)
                return pack(cut_heads(weight, replace(matrix.cut, heads=own[1] - own[0])), kind, group)
            weight = fetch(self.reader, step).float()
            self._require_finite(weight, step.source)
            return pack(cut_heads(weight, matrix.cut), kind, group)
        assert step.scale is not None, "f8 is for what is stored in FP8"
        values, scales = self.reader.read(step.source), self.reader.read(step.scale).float()
        self._require_finite(scales, step.scale)
        rows, columns = values.shape
        wide = scales.repeat_interleave(FP8_BLOCK, 0)[:rows].repeat_interleave(FP8_BLOCK, 1)[:, :columns]
        scale = cut_heads(wide, matrix.cut)[::BLOCK_ROWS, ::FP8_BLOCK, None].contiguous()
        whole = pack_f8(cut_heads(values.view(torch.uint8), matrix.cut).view(E4M3), torch.zeros(1, scale.shape[1]))
        return replace(whole, scale=scale)

    def _packed_in_pieces(self, name: str, kind: Kind, group: int | None, own: Own | None) -> PackedMatrix:
        """A matrix packed some rows at a time: on the way it takes several times its size in float32."""
        rows, columns = self.reader.tensors[name].shape
        first = 0 if own is None else min(own[0] * BLOCK_ROWS, rows)
        rows = rows - first if own is None else min(own[1] * BLOCK_ROWS, rows) - first
        step = max(BLOCK_ROWS, PIECE // columns // BLOCK_ROWS * BLOCK_ROWS)
        whole: PackedMatrix | None = None
        for begin in range(0, max(rows, 1), step):
            weight = self.reader.read(name, slice(first + begin, first + min(begin + step, rows))).float()
            self._require_finite(weight, name)
            piece = pack(weight, kind, group)
            if rows <= step:
                return piece
            if whole is None:
                blocks = -(-rows // BLOCK_ROWS)
                data, scale = (
                    None if part is None else part.new_empty(blocks, *part.shape[1:])
                    for part in (piece.data, piece.scale)
                )  # fmt: skip
                assert data is not None, "every kind has data"
                whole = replace(piece, rows=rows, data=data, scale=scale)
            place = slice(begin // BLOCK_ROWS, begin // BLOCK_ROWS + len(piece.data))
            whole.data[place] = piece.data
            if whole.scale is not None and piece.scale is not None:
                whole.scale[place] = piece.scale
        assert whole is not None, "a matrix has rows"
        return whole

    def _require_finite(self, values: Tensor, name: str) -> None:
        """A level of what is no number would be one all the same."""
        if not torch.isfinite(values).all():
            raise CheckpointError(
                f"{self.reader.source}: {quoted(name)} holds a value that is not finite; fetch it again."
            )

    def vectors(self) -> Iterator[tuple[str, tuple[int, ...], torch.dtype]]:
        """(name, shape, dtype) of what is not packed: the embedding in bf16 if it is stored so; all else in float32."""
        for weight in vectors(self.config):
            held = self.reader.tensors[self.steps[weight.name].source].dtype
            narrow = weight.part == "embedding" and held == torch.bfloat16
            yield weight.name, weight.shape, torch.bfloat16 if narrow else torch.float32


def own_part(matrix: PackedMatrix, own: Own) -> PackedMatrix:
    """A part of a matrix that is packed already, as a view."""
    begin, end, parts = own
    each = matrix.data.shape[0] // parts
    return matrix.blocks(begin * each, end * each)


def _source(matrix: Matrix, expert: int) -> str:
    return matrix.source.name.replace("{expert}", str(expert))


def cut_heads(weight: Tensor, cut: Cut | None) -> Tensor:
    """The part of every head, its rows padded to whole blocks, head after head; all of a matrix without heads."""
    if cut is None:
        return weight
    part = weight.unflatten(0, (cut.heads, -1))[:, cut.begin : cut.end]
    part = part.mT if cut.transposed else part
    return F.pad(part, (0, 0, 0, -part.shape[1] % BLOCK_ROWS)).flatten(0, 1)


def uncut_heads(stacked: Tensor, cut: Cut, columns: int) -> Tensor:
    """What `cut_heads` took: the part of every head of a matrix of `columns` [heads, rows, columns]."""
    heads = stacked.unflatten(0, (cut.heads, -1))
    return heads[:, :columns].mT if cut.transposed else heads[:, : cut.end - cut.begin]


def pack_checkpoint(
    plain: Plain, kind: Wanted, group: int | None = None, made: Mapping[str, PackedMatrix] | None = None
) -> list[Source]:
    """Every tensor of the packed checkpoint, each made when its turn comes; one matrix is in memory at a time.

    Args: group: columns that share a scale; each kind's own default if None. made: matrices that were rounded with
          more care, by name; they are taken as they are.
    """
    made = made or {}
    sources = [
        Source(name, shape, dtype, partial(_vector, plain, name, dtype)) for name, shape, dtype in plain.vectors()
    ]

    @lru_cache(maxsize=1)  # a matrix's data and scale are written one after the other
    def packed(name: str, matrix: Matrix, expert: int, kind: Kind) -> PackedMatrix:
        return made[name] if name in made else plain.packed(matrix, expert, kind, group)

    def part(name: str, matrix: Matrix, expert: int, kind: Kind, scale: bool) -> Tensor:
        whole = packed(name, matrix, expert, kind)
        tensor = whole.scale if scale else whole.data
        assert tensor is not None, f"{name} has a scale"
        return tensor

    for name, matrix, expert in single_matrices(plain.config):
        own = plain.kind(matrix, expert, kind)
        for suffix, shape, dtype in stored(own, matrix.rows, matrix.columns, group):
            load = partial(part, name, matrix, expert, own, bool(suffix))
            sources.append(Source(name + suffix, shape, DTYPES[dtype], load))
    return sources


def _vector(plain: Plain, name: str, dtype: torch.dtype) -> Tensor:
    return plain.read(name).to(dtype)


def convert_packed(
    source: str | Path,
    target: str | Path,
    *,
    kind: Made,
    group: int | None = None,
    made: Mapping[str, PackedMatrix] | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    progress: Callable[[int, int], None] | None = None,
) -> Converted:
    """Write the checkpoint `source`, plain or FP8, packed to the new directory `target`, tokenizer files beside it.

    Args:   kind, group, made: as in `pack_checkpoint`.
    Raises: CheckpointError: `source` is damaged or packed already, or `target` is taken or cannot be written.
    """
    source, target = Path(source), Path(target)
    if source.resolve() == target.resolve():
        raise CheckpointError(f"{target} is both source and target; name a new directory.")
    with Reader(source) as reader:
        plain = Plain(reader, ModelConfig.read(source))
        plain.check_copies()
        return write_packed(
            plain, target, read_json(source / "config.json"), kind=kind, group=group, made=made,
            extra_files=companions(source), max_shard_bytes=max_shard_bytes, progress=progress,
        )  # fmt: skip


def write_packed(
    plain: Plain,
    target: Path,
    config: Mapping[str, Any],
    *,
    kind: Made,
    group: int | None = None,
    made: Mapping[str, PackedMatrix] | None = None,
    extra_files: Mapping[str, bytes | Path] | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    progress: Callable[[int, int], None] | None = None,
) -> Converted:
    """Write `plain` packed to the new directory `target`, one matrix in memory at a time.

    Args: config: config.json of `plain`. kind, group, made: as in `pack_checkpoint`. The rest: as in `write_weights`.
    """
    sources = pack_checkpoint(plain, kind, group, made)
    changed = dict(config)
    changed["quantization_config"] = {"quant_method": PACKED_METHOD, "bits": BITS[kind], "group": group}
    changed["num_nextn_predict_layers"] = plain.config.num_nextn_predict_layers
    write_weights(target, sources, changed, extra_files=extra_files, max_shard_bytes=max_shard_bytes, progress=progress)
    size = sum(made.bytes for made in sources)
    return Converted(tensors=len(sources), bytes=size, files=len(list(target.glob("*.safetensors"))))
