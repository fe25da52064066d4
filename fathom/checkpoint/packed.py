"""Packed weights for the kernels: mapped from a packed checkpoint, or packed from another one while it is read.

load_packed(directory, config)  ->  name -> PackedMatrix, or a plain Tensor: what fathom/ops/packed.py calls Weights
unpacked(weights, config)       ->  name -> Tensor: the state_dict of a Transformer with the same numbers
pack_state(tensors, config)     ->  back again, in float32; refill puts other values in, while a model runs on them
"""

from __future__ import annotations

import ctypes
import mmap
import re
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from fathom.checkpoint.load import LAYER, mismatch, mtp_indices
from fathom.checkpoint.pack import SCALE, Plain, Wanted, cut_heads, own_part, uncut_heads
from fathom.checkpoint.reader import Reader, TensorInfo, quoted
from fathom.checkpoint.writer import ALIGNMENT
from fathom.config import FP8_BLOCK, ModelConfig
from fathom.cost import KIND_OF_BITS, Kind, Matrix, single_matrices, stored, vectors
from fathom.errors import CheckpointError
from fathom.layout import Shard
from fathom.layout.rows import owned
from fathom.ops.packing import GROUPS, PackedMatrix, pack, unpack

Weights = dict[str, PackedMatrix | Tensor]
SLAB_BYTES = 32 << 20  # untouched parts of one take no memory
READ_BYTES = 256 << 20  # at a time, so that Ctrl-C is heard
POPULATE_READ = 22  # madvise(2): fill the page tables now; Linux 5.14, not named by Python's mmap


def load_packed(
    directory: str | Path,
    config: ModelConfig,
    *,
    kind: Wanted = "auto",
    group: int | None = None,
    mtp: bool = True,
    copy: bool = False,
    shard: Shard | None = None,
    wanted: Callable[[str], bool] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Weights:
    """The weights of a model as the kernels read them, by name.

    A packed checkpoint is mapped into memory, not read: whoever cuts a file short or writes into it while a model runs
    crashes that model, or changes it. Replacing the directory, as every save here does, is safe. With `copy` it is
    read, into huge pages: seconds for gigabytes, after which a model larger than the caches decodes faster.
    Any other checkpoint is packed now, rounded to nearest, matrix by matrix.

    Args:   kind: "auto" keeps what is stored (float32, bf16, FP8 blocks or packed); of a packed checkpoint nothing else
            can be had. group: columns that share a scale. mtp: load the multi-token prediction modules that are there.
            shard: of divided matrices, the rows that this rank owns. wanted: tells by name what to load at all.
            progress: called with (matrices done, matrices in all) while packing.
    Raises: CheckpointError: names, shapes or types do not fit `config`, or a file is damaged; nothing was read.
    """
    with Reader(directory) as reader:
        if config.packed is None:
            return _pack(Plain(reader, config, mtp=mtp), kind, group, shard, wanted, progress)
        if kind not in ("auto", KIND_OF_BITS[config.packed.bits]):
            raise CheckpointError(
                f"{reader.source} is packed as {KIND_OF_BITS[config.packed.bits]}; {kind} is asked for. "
                "Use it as it is, or convert the checkpoint that it was made from."
            )
        return _stored(reader, config, mtp, copy, shard, wanted)


def _pack(
    plain: Plain, kind: Wanted, group: int | None, shard: Shard | None, wanted: Callable[[str], bool] | None,
    progress: Callable[[int, int], None] | None,
) -> Weights:  # fmt: skip
    kept = Kept()
    found: Weights = {
        name: kept.copy(plain.read(name).to(dtype))
        for name, _, dtype in plain.vectors()
        if wanted is None or wanted(name)
    }
    singles = [one for one in single_matrices(plain.config) if wanted is None or wanted(one[0])]
    for done, (name, matrix, expert) in enumerate(singles, 1):
        own = None if shard is None else owned(name, shard)
        packed = plain.packed(matrix, expert, plain.kind(matrix, expert, kind), group, own)
        scale = None if packed.scale is None else kept.copy(packed.scale)
        found[name] = replace(packed, data=kept.copy(packed.data), scale=scale)
        if progress is not None:
            progress(done, len(singles))
    if shard is None or (shard.has_head and shard.dp_rank == shard.tp_rank == 0):  # one of all who load this model
        plain.check_copies()
    with suppress(AttributeError, OSError):  # other C libraries give back what is freed without being told
        ctypes.CDLL(None).malloc_trim(0)
    return found


def huge(size: int) -> mmap.mmap:
    """Memory in huge pages, where there are any: with small ones the processor's prefetching stops every 4 KB."""
    space = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        space.madvise(mmap.MADV_HUGEPAGE)
    return space


class Kept:
    """Memory for weights in huge pages, where there are any, apart from what comes and goes while they are packed.

    Among such temporary tensors they would keep the C library from ever giving the space between them back: a model of
    0.5 GB at 8 bits took 0.3 GB more (docs/log.md).
    """

    def __init__(self) -> None:
        self._slab, self._used = torch.empty(0, dtype=torch.uint8), 0

    def copy(self, tensor: Tensor) -> Tensor:
        """The same values, in memory of their own for as long as anybody holds them."""
        begin, size = -(-self._used // ALIGNMENT) * ALIGNMENT, tensor.nbytes
        if begin + size > len(self._slab):
            self._slab, begin = torch.frombuffer(huge(max(size, SLAB_BYTES)), dtype=torch.uint8), 0
        self._used = begin + size
        return self._slab[begin : self._used].view(tensor.dtype).view(tensor.shape).copy_(tensor)


def _stored(
    reader: Reader, config: ModelConfig, mtp: bool, copy: bool, shard: Shard | None,
    wanted: Callable[[str], bool] | None,
) -> Weights:  # fmt: skip
    """Every weight as a view of its file; all is checked against the headers before the first file is opened."""
    plain = {weight.name: weight.shape for weight in vectors(config)}
    singles = {name: matrix for name, matrix, _ in single_matrices(config)}
    _check_names(reader, plain, singles)
    described = {name: _describe(reader, name, matrix) for name, matrix in singles.items()}
    _check_partners(reader, described)
    for name, shape in plain.items():
        _check_vector(reader, name, shape)
    end = config.num_hidden_layers if not mtp else config.num_hidden_layers + config.num_nextn_predict_layers
    files: dict[Path, Tensor] = {}

    def view(name: str) -> Tensor:
        info = reader.tensors[name]
        if info.file not in files:
            size = _file_bytes(reader, info.file)
            whole = wanted is None
            files[info.file] = _read(info.file, size) if copy and whole else _map(info.file, size, ahead=whole)
        part = files[info.file][info.offset : info.offset + info.bytes]
        part = part if info.offset % ALIGNMENT == 0 else part.clone()  # small: all else starts on a cache line
        return part.view(info.dtype).view(info.shape)

    def is_wanted(name: str) -> bool:
        return _layer(name) < end and (wanted is None or wanted(name))

    found: Weights = {name: view(name) for name in plain if is_wanted(name)}
    for name, (kind, group) in described.items():
        if is_wanted(name):
            matrix, scaled = singles[name], name + SCALE in reader.tensors
            scale = view(name + SCALE) if scaled else None
            whole = PackedMatrix(kind, matrix.rows, matrix.columns, group, view(name), scale)
            own = None if shard is None else owned(name, shard)
            found[name] = whole if own is None else own_part(whole, own)
    if wanted is not None and copy:
        return _copied(found)
    return found


def _layer(name: str) -> int:
    """The layer a weight belongs to; -1 for those of the whole model."""
    match = LAYER.match(name)
    return int(match[1]) if match else -1


def _file_bytes(reader: Reader, file: Path) -> int:
    """The size a file had when its header was checked: its tensors cover it exactly."""
    return max(info.offset + info.bytes for info in reader.tensors.values() if info.file == file)


def _copied(weights: Weights) -> Weights:
    """The same in memory of their own."""
    kept = Kept()

    def copy(weight: PackedMatrix | Tensor) -> PackedMatrix | Tensor:
        if isinstance(weight, Tensor):
            return kept.copy(weight)
        return replace(
            weight, data=kept.copy(weight.data), scale=None if weight.scale is None else kept.copy(weight.scale)
        )

    return {name: copy(weight) for name, weight in weights.items()}


def _map(file: Path, size: int, *, ahead: bool) -> Tensor:
    """A whole file as bytes, mapped, and read `ahead` unless only parts are wanted; read-only: writing to it ends the
    process."""
    try:
        with file.open("rb") as opened:
            mapped = mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be mapped ({error}); check the file and the memory limit.") from None
    _check_size(file, len(mapped), size)
    with suppress(OSError, ValueError):  # advice: an older kernel fetches pages as they are touched
        if ahead:
            mapped.madvise(mmap.MADV_WILLNEED)
            mapped.madvise(POPULATE_READ)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        return torch.frombuffer(mapped, dtype=torch.uint8)


def _read(file: Path, size: int) -> Tensor:
    """A whole file as bytes, in memory of their own."""
    space = huge(size)
    with file.open("rb", buffering=0) as opened, memoryview(space) as view:
        done = 0
        while count := opened.readinto(view[done : done + READ_BYTES]):  # 0 at the end of the file, or of the space
            done += count
        _check_size(file, done + len(opened.read(1)), size)
    return torch.frombuffer(space, dtype=torch.uint8)


def _check_size(file: Path, found: int, size: int) -> None:
    if found != size:
        raise CheckpointError(f"{file} holds {found} bytes, not {size}: it changed since it was opened; try again.")


def _check_names(reader: Reader, plain: Mapping[str, object], singles: Mapping[str, object]) -> None:
    """Every expected name is there, and else only scales of matrices, and MTP modules that `config` leaves out."""
    names = [*plain, *singles]
    missing = [name for name in names if name not in reader.tensors]
    scales = {name + SCALE for name in singles}
    left_out = mtp_indices(reader.tensors) - {_layer(name) for name in names}
    spare = reader.tensors.keys() - scales - set(names)
    unexpected = sorted(name for name in spare if _layer(name) not in left_out)
    if missing or unexpected:
        raise CheckpointError(mismatch(reader, missing, unexpected, names))


def _check_vector(reader: Reader, name: str, shape: tuple[int, ...]) -> None:
    info = reader.tensors[name]
    types = (torch.float32, torch.bfloat16) if len(shape) == 2 else (torch.float32,)
    if info.shape != shape or info.dtype not in types:
        raise CheckpointError(
            f"{reader.source}: {quoted(name)} is {_shown(info)}; "
            f"{list(shape)} of {' or '.join(map(str, types))} is needed."
        )


def _describe(reader: Reader, name: str, matrix: Matrix) -> tuple[Kind, int]:
    """(kind, group) of one stored matrix: they follow from its dtype, its rank and its scale."""
    data, scale = reader.tensors[name], reader.tensors.get(name + SCALE)
    for kind, group in _possible(data, scale):
        shapes = [shape for _, shape, _ in stored(kind, matrix.rows, matrix.columns, group if scale else None)]
        if shapes == [info.shape for info in (data, scale) if info is not None]:
            return kind, group
    raise CheckpointError(
        f"{reader.source}: {quoted(name)} is {_shown(data)} with {_shown(scale) if scale else 'no scale'}; no kind of "
        f"matrix of {matrix.rows} x {matrix.columns} is stored so (docs/formats.md). Does config.json belong to it?"
    )


def _check_partners(reader: Reader, described: Mapping[str, tuple[Kind, int]]) -> None:
    """Matrices that read the same rounded activations agree: gate and up, and those of all experts of a layer."""
    first: dict[str, tuple[str, tuple[Kind, int]]] = {}
    for name, kind in described.items():
        role = re.sub(r"\.experts\.\d+\.", ".experts.", name.replace(".up_proj.", ".gate_proj."))
        other, expected = first.setdefault(role, (name, kind))
        if kind != expected:
            raise CheckpointError(
                f"{reader.source}: {quoted(name)} is {_words(kind)}, {quoted(other)} {_words(expected)}; "
                "gate and up, and all experts of a layer, must be stored alike."
            )


def _words(kind: tuple[Kind, int]) -> str:
    return f"{kind[0]} in groups of {kind[1]}"


def _possible(data: TensorInfo, scale: TensorInfo | None) -> list[tuple[Kind, int]]:
    """The kinds that two dtypes may stand for, with every group."""
    if scale is None:
        return [("f32", 1)] if data.dtype == torch.float32 else [("bf16", 1)] if data.dtype == torch.bfloat16 else []
    if scale.dtype == torch.float32:
        return [("f8", FP8_BLOCK)] if data.dtype == torch.uint8 else []
    kinds: dict[torch.dtype, Kind] = {torch.int8: "i8", torch.uint8: "i4"}
    if scale.dtype != torch.float16 or data.dtype not in kinds:
        return []
    return [(kinds[data.dtype], group) for group in GROUPS]


def _shown(info: TensorInfo) -> str:
    return f"{info.dtype} {list(info.shape)}"


def unpacked(weights: Mapping[str, PackedMatrix | Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """The float32 weights that packed ones stand for, by checkpoint name: the state_dict of a Transformer.

    It gives the model a machine without kernels; activations are not rounded there, as they are beside 8 and 4 bits.
    """
    found = {name: weight.float() for name, weight in weights.items() if isinstance(weight, Tensor)}
    for name, matrix, _ in single_matrices(config):
        packed = weights.get(name)
        if not isinstance(packed, PackedMatrix):
            continue  # an MTP module that was not loaded
        part = unpack(packed)
        if matrix.cut is None:
            found[name] = part
            continue
        heads = uncut_heads(part, matrix.cut, matrix.source.shape[1])
        if matrix.cut.begin:  # the values of each head follow its keys: kv_b_proj again
            keys = found[matrix.source.name].unflatten(0, (matrix.cut.heads, -1))
            heads = torch.cat((keys, heads), dim=1)
        found[matrix.source.name] = heads.flatten(0, 1)
    return found


def pack_state(tensors: Mapping[str, Tensor], config: ModelConfig) -> Weights:
    """The float32 weights of a Transformer's state_dict as the kernels read them, in memory of their own."""
    kept = Kept()
    found: Weights = {weight.name: kept.copy(tensors[weight.name].detach().float()) for weight in vectors(config)}
    for name, matrix, expert in single_matrices(config):
        whole = _packed(tensors, matrix, expert)
        found[name] = replace(whole, data=kept.copy(whole.data))
    return found


def refill(weights: Weights, tensors: Mapping[str, Tensor], config: ModelConfig) -> None:
    """Put other values into what `pack_state` made: a model that runs on it has them from its next forward on.

    What that model has in its latent cache belongs to the old ones (Request.cache_salt keeps them apart).
    """
    for weight in vectors(config):
        held = weights[weight.name]
        assert isinstance(held, Tensor), f"{weight.name} is plain"
        held.copy_(tensors[weight.name].detach())
    for name, matrix, expert in single_matrices(config):
        held = weights[name]
        assert isinstance(held, PackedMatrix), f"{name} is packed"
        held.data.copy_(_packed(tensors, matrix, expert).data)


def _packed(tensors: Mapping[str, Tensor], matrix: Matrix, expert: int) -> PackedMatrix:
    weight = tensors[matrix.source.name.replace("{expert}", str(expert))].detach()
    return pack(cut_heads(weight, matrix.cut), "f32")
