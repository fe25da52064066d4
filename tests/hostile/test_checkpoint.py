"""A hostile or broken checkpoint is one line of error: no crash, no misread, no large allocation, no file outside."""

from __future__ import annotations

import json
import os
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from fathom.checkpoint import Reader, load_weights
from fathom.checkpoint.reader import MAX_JSON_BYTES
from fathom.errors import CheckpointError
from tests.checkpoint.handmade import entry, file_bytes, write_file

F32 = entry("F32", [2], 0, 8)
DATA = bytes(range(8))


@contextmanager
def refused(match: str, *, limit_bytes: int = 4_000_000) -> Iterator[None]:
    """The block must raise one line of CheckpointError, soon and without allocating much on the way.

    Soon: measured 0.2 s, or 1.5 s while memory is traced on a slow machine; what grows with the square takes minutes.
    """
    tracemalloc.start()
    started = time.process_time()
    try:
        with pytest.raises(CheckpointError, match=match) as caught:
            yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    text = str(caught.value)
    assert caught.value.exit_code == 2
    assert text.isprintable() and len(text) < 1000, text
    assert time.process_time() - started < 10.0
    assert peak < limit_bytes, f"{peak} bytes were allocated"


HEADERS: list[tuple[str, Any, bytes, str]] = [
    ("no object", [], b"", "does not start with"),
    ("not JSON", b"{nope", b"", "cannot be read"),
    ("not UTF-8", b'{"\xff": 1}', b"", "cannot be read"),
    ("utf-16", '{"a": 1}'.encode("utf-16"), b"", "does not start with"),
    ("deep", b'{"a":' + b"[" * 200_000, b"", "nested too deeply|cannot be read"),
    ("deep objects", b'{"a":' * 100_000, b"", "nested too deeply|cannot be read"),
    ("huge number", b'{"a":{"dtype":"U8","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,0]}}', b"", "cannot be read"),
    ("trailing", b'{"a":1}x', b"", "cannot be read"),
    ("duplicate", b'{"a":1,"b":2,"a":3}', b"", "'a' is given twice"),
    ("duplicate key in entry", b'{"a":{"dtype":"U8","dtype":"F32"}}', b"", "'dtype' is given twice"),
    ("entry no object", {"a": 1}, b"", "must have exactly dtype"),
    ("entry incomplete", {"a": {"dtype": "F32", "shape": [2]}}, DATA, "must have exactly dtype"),
    ("entry with more", {"a": F32 | {"code": "x"}}, DATA, "must have exactly dtype"),
    ("unknown dtype", {"a": F32 | {"dtype": "F4"}}, DATA, "has dtype 'F4'"),
    ("dtype no text", {"a": F32 | {"dtype": ["F32"]}}, DATA, "has dtype"),
    ("shape no list", {"a": F32 | {"shape": 2}}, DATA, "has a shape"),
    ("shape negative", {"a": F32 | {"shape": [-2]}}, DATA, "has a shape"),
    ("shape twice negative", {"a": F32 | {"shape": [-1, -2]}}, DATA, "has a shape"),
    ("shape float", {"a": F32 | {"shape": [2.0]}}, DATA, "has a shape"),
    ("shape true", {"a": F32 | {"shape": [2, True]}}, DATA, "has a shape"),
    ("shape null", {"a": F32 | {"shape": [None]}}, DATA, "has a shape"),
    ("shape too deep", {"a": F32 | {"shape": [1] * 8 + [2]}}, DATA, "has a shape"),
    ("shape of millions", {"a": F32 | {"shape": [2] * 30_000}}, DATA, "has a shape"),
    ("shape overflow", {"a": F32 | {"shape": [2**32, 2**32]}}, DATA, "data_offsets span 8"),
    ("size too large", {"a": F32 | {"shape": [2**62]}}, DATA, "has a shape"),
    ("zero hides huge", {"a": entry("F32", [0, 2**60], 0, 0)}, b"", "has a shape"),
    ("offsets three", {"a": F32 | {"data_offsets": [0, 4, 8]}}, DATA, "two data_offsets"),
    ("offsets float", {"a": F32 | {"data_offsets": [0.0, 8.0]}}, DATA, "two data_offsets"),
    ("offsets negative", {"a": F32 | {"data_offsets": [-8, 0]}}, DATA, "data_offsets span"),
    ("offsets swapped", {"a": F32 | {"data_offsets": [8, 0]}}, DATA, "data_offsets span"),
    ("offsets too wide", {"a": F32 | {"data_offsets": [0, 9]}}, DATA + b"x", "data_offsets span 9"),
    ("petabytes", {"a": entry("F32", [2**40], 0, 2**42)}, DATA, "is truncated"),
    ("past the end", {"a": entry("F32", [3], 0, 12)}, DATA, "is truncated"),
    ("bytes left over", {"a": F32}, DATA + b"x", "1 bytes after its last tensor"),
    ("gap at the start", {"a": entry("F32", [1], 4, 8)}, DATA, "leaves a gap"),
    ("gap between", {"a": entry("U8", [1], 0, 1), "b": entry("U8", [1], 7, 8)}, DATA, "'b' leaves a gap"),
    ("overlap", {"a": F32, "b": entry("F32", [1], 4, 8)}, DATA, "'b' overlaps"),
    ("same place", {"a": F32, "b": F32}, DATA, "overlaps"),
    ("one inside another", {"a": F32, "b": entry("U8", [1], 3, 4)}, DATA, "overlaps"),
    ("empty in the middle", {"a": F32, "b": entry("U8", [0], 3, 3)}, DATA, "overlaps"),
    ("metadata no object", {"__metadata__": 3, "a": F32}, DATA, "__metadata__ must map"),
    ("metadata nested", {"__metadata__": {"x": {"y": "z"}}, "a": F32}, DATA, "__metadata__ must map"),
    ("escape codes in a name", {"\x1b[31mred\nline": F32}, DATA, "cannot be printed"),
    ("half a character in a name", b'{"\\ud800": 1}', b"", "cannot be printed"),
    ("endless name", {"a" * 100_000: 3}, b"", "must have exactly dtype"),
]


@pytest.mark.parametrize(("header", "data", "match"), [case[1:] for case in HEADERS], ids=[case[0] for case in HEADERS])
def test_a_wrong_header_is_refused(tmp_path: Path, header: Any, data: bytes, match: str) -> None:
    path = write_file(tmp_path / "x.safetensors", header, data)
    with refused(match, limit_bytes=30_000_000):
        Reader(path)


@pytest.mark.parametrize("claimed", [0, 1, MAX_JSON_BYTES + 1, 2**31, 2**63 - 1, 2**64 - 1])
def test_an_absurd_header_length_allocates_nothing(tmp_path: Path, claimed: int) -> None:
    path = write_file(tmp_path / "x.safetensors", {"a": F32}, DATA, header_bytes=claimed)
    with refused("header"):
        Reader(path)


def test_a_sparse_file_with_an_endless_header_is_refused_quickly(tmp_path: Path) -> None:
    path = write_file(tmp_path / "x.safetensors", b"{", header_bytes=MAX_JSON_BYTES)
    os.truncate(path, 2**40)
    with refused("cannot be read", limit_bytes=2**30):
        Reader(path)


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    tensors = {"a": torch.ones(3), "b": torch.ones(2, 2, dtype=torch.bfloat16), "c": torch.ones(1, dtype=torch.uint8)}
    whole = save(tensors)
    path = tmp_path / "x.safetensors"
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError) as caught:
            Reader(path)
        assert str(caught.value).isprintable()
    path.write_bytes(whole)
    assert Reader(path).tensors.keys() == tensors.keys()


@pytest.mark.parametrize(
    "name",
    ["../../x.safetensors", "/etc/x.safetensors", "sub/x.safetensors", "..\\x.safetensors", "C:x.safetensors",
     "x.bin", "", "..", "x\0.safetensors", "x\n.safetensors", 3, None, ["x.safetensors"], {"x": 1}],
)  # fmt: skip
def test_an_index_may_not_lead_outside(tmp_path: Path, name: Any) -> None:
    (tmp_path / "sub" / "model").mkdir(parents=True)
    for place in (tmp_path, tmp_path / "sub", tmp_path / "sub" / "model"):
        write_file(place / "x.safetensors", {"a": F32}, DATA)
    model = tmp_path / "sub" / "model"
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with refused("is not a plain file name"):
        Reader(model)


@pytest.mark.parametrize("index", ["", "[]", "{}", '{"weight_map": []}', '{"weight_map": {}}', "[" * 100_000, "\x00"])
def test_a_broken_index_is_refused(tmp_path: Path, index: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with refused("weight_map|JSON"):
        Reader(tmp_path)


def test_an_index_of_a_terabyte_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors.index.json"
    path.touch()
    os.truncate(path, 2**40)
    with refused("at most 100000000 are read"):
        Reader(tmp_path)


def test_a_pipe_or_a_directory_in_place_of_a_file_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.safetensors")
    with refused("is not a file"):
        Reader(tmp_path)
    with refused("does not exist|is not a file|holds no"):
        Reader(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors").mkdir()
    with refused("is not a file"):
        Reader(tmp_path)


def test_thousands_of_unknown_names_are_explained_quickly(tmp_path: Path) -> None:
    header = {f"model.layers.{i}.mlp.experts.{i}.up_proj.weihgt": entry("U8", [0], 0, 0) for i in range(20_000)}
    write_file(tmp_path / "model.safetensors", header)
    module = torch.nn.Module()
    names = {key.replace("weihgt", "weight"): torch.empty(0, dtype=torch.uint8) for key in header}
    module.state_dict = lambda *_, **__: names  # type: ignore[method-assign, assignment]
    with refused("20000 tensors are missing .* 20000 tensors are not expected", limit_bytes=200_000_000):
        load_weights(module, tmp_path)


# ---- fuzzing --------------------------------------------------------------------------------------------------------

numbers = st.one_of(st.integers(-2, 20), st.sampled_from([2**31, 2**63, 2**64, -(2**63), 1.5, None, True, "1"]))
entries = st.fixed_dictionaries({
    "dtype": st.sampled_from(["F32", "U8", "BF16", "F8_E4M3", "I64", "X"]),
    "shape": st.lists(numbers, max_size=3),
    "data_offsets": st.lists(numbers, min_size=2, max_size=2),
})  # fmt: skip


def agrees_with_the_library(content: bytes, path: Path) -> bool:
    """Read `content` both ways. What we accept, the safetensors library accepts and reads to the same bytes."""
    path.write_bytes(content)
    try:
        reader = Reader(path)
    except CheckpointError as error:
        assert str(error).isprintable() and len(str(error)) < 1000
        return False
    try:
        with safe_open(path, "pt") as other:
            assert set(other.keys()) == reader.tensors.keys()
            for name in reader.tensors:
                one, two = reader.read(name), other.get_tensor(name)
                assert (one.dtype, one.shape) == (two.dtype, two.shape)
                if one.numel():
                    assert torch.equal(one.reshape(-1).view(torch.uint8), two.reshape(-1).view(torch.uint8))
    except SafetensorError as error:
        raise AssertionError(f"we accept what the library refuses: {error}") from error
    return True


@settings(max_examples=150)
@given(
    header=st.dictionaries(st.text(max_size=4), st.one_of(entries, numbers), max_size=3), data=st.binary(max_size=20)
)
def test_no_header_is_misread(tmp_path_factory: pytest.TempPathFactory, header: dict[str, Any], data: bytes) -> None:
    agrees_with_the_library(file_bytes(header, data), tmp_path_factory.getbasetemp() / "fuzz.safetensors")


@settings(max_examples=300)
@given(
    position=st.integers(0, 10**6),
    change=st.binary(min_size=1, max_size=3),
    mode=st.sampled_from(["set", "insert", "cut"]),
)
def test_no_damage_to_a_good_file_is_misread(
    tmp_path_factory: pytest.TempPathFactory, position: int, change: bytes, mode: str
) -> None:
    good = save({"a": torch.ones(3), "b": torch.ones(2, 2, dtype=torch.int16)})
    header_end = 8 + int.from_bytes(good[:8], "little")
    at = position % header_end
    kept = at if mode == "insert" else at + len(change)
    content = good[:at] + (b"" if mode == "cut" else change) + good[kept:]
    agrees_with_the_library(content, tmp_path_factory.getbasetemp() / "fuzz.safetensors")


def test_the_fuzzer_accepts_a_good_file(tmp_path: Path) -> None:
    assert agrees_with_the_library(save({"a": torch.ones(3)}), tmp_path / "x.safetensors")
