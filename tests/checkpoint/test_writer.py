"""What is written reads identically elsewhere; a process killed at any step leaves the old or the new checkpoint."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fathom.checkpoint import Reader, Source, save_weights, verify_manifest, write_weights, writer
from fathom.errors import CheckpointError
from tests.checkpoint.test_reader import every_dtype, same_bits


def weights(value: float) -> dict[str, torch.Tensor]:
    return {name: torch.full((4, 3), value) for name in "abcde"}


def value_of(directory: Path) -> float:
    """The number all tensors of a checkpoint hold; fails if the checkpoint is not whole."""
    with Reader(directory) as reader:
        values = torch.cat([reader.read(name) for name in "abcde"]).unique()
    verify_manifest(directory)
    assert json.loads((directory / "config.json").read_text()) == {"value": values.item()}
    return values.item()


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_file_reads_identically_in_the_safetensors_library(tmp_path: Path) -> None:
    made = every_dtype()
    save_weights(tmp_path / "m", made, {})
    loaded = load_file(tmp_path / "m" / "model.safetensors")
    assert loaded.keys() == made.keys()
    assert all(same_bits(loaded[name], tensor) for name, tensor in made.items())


def test_views_are_written_as_they_look(tmp_path: Path) -> None:
    whole = torch.arange(24.0).view(4, 6)
    save_weights(tmp_path / "m", {"turned": whole.T, "part": whole[1:3, 2:4], "far": whole.expand(2, 4, 6)}, {})
    loaded = load_file(tmp_path / "m" / "model.safetensors")
    assert torch.equal(loaded["turned"], whole.T) and torch.equal(loaded["part"], whole[1:3, 2:4])
    assert torch.equal(loaded["far"], whole.expand(2, 4, 6))


def test_a_tensor_of_several_chunks_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "_CHUNK_BYTES", 7)
    save_weights(tmp_path / "m", {"x": torch.arange(33)}, {})
    assert torch.equal(load_file(tmp_path / "m" / "model.safetensors")["x"], torch.arange(33))


def test_shards_are_bounded_and_indexed(tmp_path: Path) -> None:
    made = weights(1.0) | {"large": torch.ones(100)}
    save_weights(tmp_path / "m", made, {"value": 1.0}, max_shard_bytes=100)
    index = json.loads((tmp_path / "m" / "model.safetensors.index.json").read_text())
    shards = sorted(set(index["weight_map"].values()))
    assert shards == [f"model-{i:05d}-of-00004.safetensors" for i in range(1, 5)]
    assert index["metadata"]["total_size"] == 5 * 48 + 400
    with Reader(tmp_path / "m") as reader:
        assert reader.tensors.keys() == made.keys()
        for shard in shards:
            inside = [info.bytes for info in reader.tensors.values() if info.file.name == shard]
            assert sum(inside) <= 100 or len(inside) == 1


def test_tensors_are_asked_for_one_at_a_time(tmp_path: Path) -> None:
    order: list[str] = []

    def load(name: str) -> torch.Tensor:
        order.append(name)
        return torch.ones(2)

    sources = [Source(name, (2,), torch.float32, lambda name=name: load(name)) for name in "abc"]  # type: ignore[misc]
    calls: list[tuple[int, int, int]] = []
    write_weights(tmp_path / "m", sources, {}, progress=lambda done, total: calls.append((done, total, len(order))))
    assert calls == [(8, 24, 1), (16, 24, 2), (24, 24, 3)]


def test_the_manifest_lists_every_file(tmp_path: Path) -> None:
    (tmp_path / "tok").write_text("{}")
    extra = {"tokenizer.json": tmp_path / "tok", "CARD.md": b"card"}
    save_weights(tmp_path / "m", weights(1.0), {"value": 1.0}, extra_files=extra)
    manifest = json.loads((tmp_path / "m" / "manifest.json").read_text())
    assert names(tmp_path / "m") == sorted([*manifest["files"], "manifest.json"])
    for name, noted in manifest["files"].items():
        content = (tmp_path / "m" / name).read_bytes()
        assert noted == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (tmp_path / "m" / "CARD.md").write_bytes(b"bard")
    with pytest.raises(CheckpointError, match="CARD.md does not have the SHA-256"):
        verify_manifest(tmp_path / "m")


def test_a_tied_head_is_not_stored_twice(tmp_path: Path) -> None:
    made = {"model.embed_tokens.weight": torch.ones(2), "lm_head.weight": torch.ones(2)}
    save_weights(tmp_path / "tied", made, {"tie_word_embeddings": True})
    save_weights(tmp_path / "free", made, {"tie_word_embeddings": False})
    assert len(Reader(tmp_path / "tied").tensors) == 1 and len(Reader(tmp_path / "free").tensors) == 2


# ---- crashes --------------------------------------------------------------------------------------------------------

STEPS = [(os, "fsync"), (os, "rename"), (os, "open"), (shutil, "rmtree"), (Path, "mkdir"), (writer, "_exchange")]


def killed_at(step: int, after: bool, act: Callable[[], None]) -> bool:
    """Run `act` in a child that dies, with no chance to clean up, at its `step`-th system call; False if it ended."""
    child = os.fork()
    if child == 0:
        left = step

        def deadly(original: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                nonlocal left
                left -= 1
                if left == 0 and not after:
                    os._exit(9)
                result = original(*args, **kwargs)
                if left == 0:
                    os._exit(9)
                return result

            return call

        for owner, name in STEPS:
            setattr(owner, name, deadly(getattr(owner, name)))
        try:
            act()
        finally:
            os._exit(0 if left > 0 else 8)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


@pytest.mark.parametrize("swap", [True, False])
@pytest.mark.parametrize("after", [False, True])
def test_a_kill_at_any_step_leaves_the_old_or_the_new(
    tmp_path: Path, swap: bool, after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the exchange of Linux, and with the two renames of other systems."""
    target = tmp_path / "m"
    if not swap:
        monkeypatch.setattr(writer, "_exchange", lambda *_: False)
    save_weights(target, weights(1.0), {"value": 1.0}, max_shard_bytes=100)
    seen = []
    for step in range(1, 100):
        if not killed_at(step, after, lambda: save_weights(target, weights(2.0), {"value": 2.0}, max_shard_bytes=100)):
            break
        assert target.exists() or not swap
        seen.append(value_of(target))
        save_weights(target, weights(1.0), {"value": 1.0}, max_shard_bytes=100)
        assert value_of(target) == 1.0 and names(tmp_path) == ["m"]
    assert len(seen) >= 8 and seen == sorted(seen) and set(seen) == {1.0, 2.0}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EIO])
def test_a_failing_disk_is_explained_and_the_old_one_stays(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "m"
    save_weights(target, weights(1.0), {"value": 1.0})

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(writer, "_write_all", fail)
        with pytest.raises(CheckpointError, match=f"{os.strerror(number)}.*untouched") as caught:
            save_weights(target, weights(2.0), {"value": 2.0})
    assert caught.value.exit_code == 2
    assert value_of(target) == 1.0 and names(tmp_path) == ["m"]


def test_a_failure_between_two_renames_puts_the_old_one_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "m"
    save_weights(target, weights(1.0), {"value": 1.0})
    rename = os.rename

    def fail_from_partial(source: Path, destination: Path) -> None:
        if Path(source).name == ".m.partial":
            raise OSError(errno.EIO, "broken")
        rename(source, destination)

    monkeypatch.setattr(writer, "_exchange", lambda *_: False)
    monkeypatch.setattr(os, "rename", fail_from_partial)
    with pytest.raises(CheckpointError, match="broken"):
        save_weights(target, weights(2.0), {"value": 2.0})
    assert value_of(target) == 1.0 and names(tmp_path) == ["m"]


def test_an_interrupt_leaves_nothing_behind(tmp_path: Path) -> None:
    def interrupted() -> torch.Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_weights(tmp_path / "m", [Source("x", (1,), torch.float32, interrupted)], {})
    assert names(tmp_path) == []


def test_a_directory_of_other_files_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("years of work")
    for target in (tmp_path / "home", tmp_path / "home" / "thesis.txt"):
        with pytest.raises(CheckpointError, match="name a new"):
            save_weights(target, weights(1.0), {})
    assert (tmp_path / "home" / "thesis.txt").read_text() == "years of work"


def test_a_link_is_followed_not_replaced(tmp_path: Path) -> None:
    save_weights(tmp_path / "real", weights(1.0), {"value": 1.0})
    (tmp_path / "link").symlink_to("real")
    save_weights(tmp_path / "link", weights(2.0), {"value": 2.0})
    assert (tmp_path / "link").is_symlink() and value_of(tmp_path / "real") == 2.0


def test_too_little_space_is_said_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 90, 10))
    with pytest.raises(CheckpointError, match="needs 240 bytes, 10 are free"):
        save_weights(tmp_path / "m", weights(1.0), {})
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["../x", "a/b", "", "..", "model.safetensors", "config.json"])
def test_an_extra_file_may_not_leave_or_overwrite(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match="cannot be the name"):
        save_weights(tmp_path / "m", weights(1.0), {}, extra_files={name: b"x"})
    assert names(tmp_path) == []


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    for tensor in (torch.ones(2, dtype=torch.complex64), torch.ones(2, dtype=torch.complex128)):
        with pytest.raises(CheckpointError, match="'x' .* cannot be written"):
            save_weights(tmp_path / "m", {"x": tensor}, {})
    with pytest.raises(CheckpointError, match="max_shard_bytes is 0"):
        save_weights(tmp_path / "m", weights(1.0), {}, max_shard_bytes=0)
    with pytest.raises(CheckpointError, match="'__metadata__'"):
        save_weights(tmp_path / "m", {"__metadata__": torch.ones(1)}, {})


def test_every_tensor_starts_aligned(tmp_path: Path) -> None:
    """On its own width; on a cache line if it takes whole ones, so that a map of the file can be read in registers."""
    made = {
        "a": torch.ones(3, dtype=torch.uint8), "b": torch.ones(1), "c": torch.ones(1, dtype=torch.int64),
        "d": torch.ones(7), "e": torch.ones(32, dtype=torch.bfloat16), "f": torch.ones(0), "g": torch.ones(8),
        "h": torch.ones(192, dtype=torch.int8),
    }  # fmt: skip
    save_weights(tmp_path / "m", made, {})
    infos = Reader(tmp_path / "m").tensors
    assert all(info.offset % info.dtype.itemsize == 0 for info in infos.values())
    assert all(info.offset % 64 == 0 for info in infos.values() if info.bytes % 64 == 0)
    assert {name for name, info in infos.items() if info.bytes and info.bytes % 64 == 0} == {"e", "h"}


def test_a_save_that_fails_keeps_what_an_earlier_kill_set_aside(tmp_path: Path) -> None:
    save_weights(tmp_path / "m", weights(1.0), {"value": 1.0})
    (tmp_path / "m").rename(tmp_path / ".m.old")
    with pytest.raises(CheckpointError, match="cannot be the name"):
        save_weights(tmp_path / "m", weights(2.0), {"value": 2.0}, extra_files={"../x": b""})
    assert value_of(tmp_path / "m") == 1.0
