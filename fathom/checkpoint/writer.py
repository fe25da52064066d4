"""Write a checkpoint so that the name always leads to a whole one: the old or the new, never half.

The files go to a hidden directory beside the target, each is flushed to disk and hashed, `manifest.json` comes last,
then one rename puts the new directory in place. Tensors are asked for one at a time: they need not all fit in memory.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fathom.checkpoint.reader import (
    DTYPES,
    INDEX_NAME,
    MAX_JSON_BYTES,
    SINGLE_NAME,
    hidden,
    quoted,
    read_json,
    recover,
)
from fathom.errors import CheckpointError

MANIFEST_NAME = "manifest.json"
MAX_SHARD_BYTES = 4_000_000_000  # a few GB, as the public checkpoints: one shard fits in memory while it is fetched
_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_CHUNK_BYTES = 1 << 24
ALIGNMENT = 64  # bytes: a cache line, and the widest register that reads a mapped file


@dataclass(frozen=True)
class Source:
    """A tensor to be written: what it will be, and how to get it when its turn comes."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    load: Callable[[], Tensor]

    @property
    def bytes(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize

    @staticmethod
    def of(name: str, tensor: Tensor) -> Source:
        """A tensor that is in memory already."""
        return Source(name, tuple(tensor.shape), tensor.dtype, lambda: tensor)


def save_weights(
    directory: str | Path,
    tensors: Mapping[str, Tensor],
    config: Mapping[str, Any],
    *,
    extra_files: Mapping[str, bytes | Path] | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write weights under their Hugging Face names, with config.json, as a checkpoint that `transformers` loads too.

    Args: tensors: usually `model.state_dict()`. config: written as config.json (`ModelConfig.to_dict()`).
          extra_files: more files by name (a tokenizer): their bytes, or a path to copy.
          max_shard_bytes: size of a file at most [bytes]; a single larger tensor gets a file of its own.
    """
    tied = bool(config.get("tie_word_embeddings"))
    sources = [Source.of(name, tensor) for name, tensor in tensors.items() if not (tied and name == "lm_head.weight")]
    write_weights(directory, sources, config, extra_files=extra_files, max_shard_bytes=max_shard_bytes)


def write_weights(
    directory: str | Path,
    sources: Sequence[Source],
    config: Mapping[str, Any],
    *,
    extra_files: Mapping[str, bytes | Path] | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """`save_weights` for tensors that are made one by one; `progress` gets (bytes done, bytes in all)."""
    directory = Path(directory)
    shards = _assign_shards(sources, max_shard_bytes)
    total = sum(source.bytes for source in sources)
    _check_place(directory, total)
    names = [SINGLE_NAME] if len(shards) == 1 else [
        f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)
    ]  # fmt: skip
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, total)

    with replacing(directory) as folder:
        for file_name, shard in zip(names, shards, strict=True):
            folder.write_tensors(file_name, shard, advance)
        if len(shards) > 1:
            weight_map = {source.name: name for name, shard in zip(names, shards, strict=True) for source in shard}
            folder.write_json(INDEX_NAME, {"metadata": {"total_size": total}, "weight_map": weight_map})
        folder.write_json("config.json", config)
        for name, content in (extra_files or {}).items():
            folder.write(name, content.read_bytes() if isinstance(content, Path) else content)


def _check_place(directory: Path, total: int) -> None:
    """Refuse to replace what is not a checkpoint of ours, and to start what cannot fit."""
    if directory.exists() and not directory.is_dir():
        raise CheckpointError(f"{directory} is a file; name a new directory.")
    if directory.is_dir() and any(directory.iterdir()) and not (directory / MANIFEST_NAME).is_file():
        raise CheckpointError(f"{directory} holds other files and no {MANIFEST_NAME}; name a new or empty directory.")
    place = next(parent for parent in directory.absolute().parents if parent.is_dir())
    free = shutil.disk_usage(place).free
    if total > free:
        raise CheckpointError(
            f"{directory} needs {total} bytes, {free} are free on that disk; free some or use another."
        )


def _assign_shards(sources: Sequence[Source], max_shard_bytes: int) -> list[list[Source]]:
    """Fill files in order; within a file, tensors of whole cache lines come first, so that each starts on one."""
    if max_shard_bytes < 1:
        raise CheckpointError(
            f"max_shard_bytes is {max_shard_bytes} bytes; it must be at least 1. Try {MAX_SHARD_BYTES}."
        )
    shards: list[list[Source]] = [[]]
    filled = 0
    for source in sources:
        if shards[-1] and filled + source.bytes > max_shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(source)
        filled += source.bytes
    return [sorted(shard, key=lambda source: -alignment(source.bytes)) for shard in shards]


def alignment(size: int) -> int:
    """The largest power of two up to ALIGNMENT that divides `size`: where the next tensor starts, at least.

    Laid out by falling alignment, tensors of whole cache lines start on one, and any other on its own width.
    """
    return min(ALIGNMENT, size & -size) if size else ALIGNMENT


class Folder:
    """A directory being filled: every file is flushed to disk and its size and hash are noted for the manifest."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files: dict[str, dict[str, Any]] = {}

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        self.write(name, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())

    def write(self, name: str, content: bytes) -> None:
        with self._file(name) as write:
            write(content)

    def write_tensors(
        self, name: str, sources: Sequence[Source], advance: Callable[[int], None] = lambda _: None
    ) -> None:
        """One safetensors file, tensor by tensor."""
        with self._file(name) as write:
            write(_header(sources))
            for source in sources:
                tensor = source.load().detach()
                if tuple(tensor.shape) != source.shape or tensor.dtype != source.dtype:
                    raise AssertionError(
                        f"{source.name} was announced as {source.shape} {source.dtype}, came otherwise"
                    )
                for view in _byte_views(tensor):
                    write(view)
                advance(source.bytes)

    def finish(self) -> None:
        """Write the manifest, last of all, and flush the directory itself."""
        manifest = {"format": 1, "files": dict(self.files)}
        self.write_json(MANIFEST_NAME, manifest)
        _flush_directory(self.path)

    @contextmanager
    def _file(self, name: str) -> Iterator[Callable[[Any], None]]:
        if name in self.files or Path(name).name != name or name in ("", ".", ".."):
            raise CheckpointError(
                f"{quoted(name)} cannot be the name of a checkpoint file; give a plain, new file name."
            )
        digest, size = hashlib.sha256(), 0

        def write(content: Any) -> None:
            nonlocal size
            digest.update(content)
            size += len(content)
            _write_all(file, content)

        with open(self.path / name, "xb", buffering=0) as file:
            yield write
            os.fsync(file.fileno())
        self.files[name] = {"bytes": size, "sha256": digest.hexdigest()}


def _write_all(file: Any, content: Any) -> None:
    view = memoryview(content)
    while view:
        view = view[file.write(view) :]


def _header(sources: Sequence[Source]) -> bytes:
    """Length and JSON that open a safetensors file, padded with spaces so that the data starts on a cache line."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for source in sources:
        if source.name in entries or source.dtype not in _DTYPE_NAMES:
            raise CheckpointError(
                f"tensor {quoted(source.name)} ({source.dtype}) cannot be written: name taken, or dtype unknown."
            )
        end = position + source.bytes
        entries[source.name] = {
            "dtype": _DTYPE_NAMES[source.dtype], "shape": list(source.shape), "data_offsets": [position, end]
        }  # fmt: skip
        position = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    if len(text) > MAX_JSON_BYTES:
        raise CheckpointError(f"{len(sources)} tensors need a header of {len(text)} bytes; use smaller shards.")
    return len(text).to_bytes(8, "little") + text


def _byte_views(tensor: Tensor) -> Iterator[memoryview]:
    """The values as little-endian bytes, row-major, a few MB at a time."""
    if tensor.numel():
        for part in tensor.cpu().contiguous().view(-1).view(torch.uint8).split(_CHUNK_BYTES):
            yield memoryview(part.numpy())


@contextmanager
def replacing(target: Path) -> Iterator[Folder]:
    """A Folder that becomes `target` when the block ends well, and vanishes when it does not.

    Raises: CheckpointError: the disk is full, or the place cannot be written; what was at `target` is untouched.
    """
    target = target.resolve()
    partial, aside = hidden(target, "partial"), hidden(target, "old")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        recover(target)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        folder = Folder(partial)
        yield folder
        folder.finish()
        _put_in_place(partial, target, aside)
    except BaseException as error:
        with suppress(OSError):
            recover(target)
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, OSError):
            raise CheckpointError(_explain(error, target)) from error
        raise


def _put_in_place(partial: Path, target: Path, aside: Path) -> None:
    if not target.exists():
        os.rename(partial, target)
    elif _exchange(partial, target):
        shutil.rmtree(partial, ignore_errors=True)
    else:
        os.rename(target, aside)
        os.rename(partial, target)
        shutil.rmtree(aside, ignore_errors=True)
    _flush_directory(target.parent)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two directories in one step (Linux); False where the system cannot."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    at_cwd, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of renameat2(2)
    return bool(renameat2(at_cwd, os.fsencode(first), at_cwd, os.fsencode(second), exchange) == 0)


def _flush_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _explain(error: OSError, target: Path) -> str:
    advice = {
        errno.ENOSPC: "free some space or choose another disk",
        errno.EDQUOT: "your disk quota is used up; free some space",
        errno.EACCES: "you may not write there; choose another directory",
        errno.EPERM: "you may not write there; choose another directory",
        errno.EROFS: "that disk is read-only; choose another directory",
    }.get(error.errno or 0, "check the disk and the path")
    return f"{target} could not be saved ({error.strerror or error}); {advice}. What was there before is untouched."


def verify_manifest(directory: str | Path) -> None:
    """Return if every file has the size and SHA-256 that manifest.json says. Raises: CheckpointError: one has not."""
    directory = Path(directory)
    files = read_json(directory / MANIFEST_NAME).get("files")
    if not isinstance(files, dict) or not all(isinstance(noted, dict) for noted in files.values()):
        raise CheckpointError(f"{directory / MANIFEST_NAME} lists no files; it is damaged.")
    for name, noted in files.items():
        path = directory / name
        if Path(name).name != name:
            raise CheckpointError(
                f"{directory / MANIFEST_NAME}: {quoted(name)} is not a plain file name; it is damaged."
            )
        if not path.is_file():
            raise CheckpointError(f"{path} is missing, though the manifest lists it.")
        if path.stat().st_size != noted.get("bytes"):
            raise CheckpointError(f"{path} holds {path.stat().st_size} bytes; the manifest says {noted.get('bytes')}.")
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != noted.get("sha256"):
                raise CheckpointError(f"{path} does not have the SHA-256 that the manifest says; it is damaged.")
