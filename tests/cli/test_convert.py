"""`fathom convert` writes a checkpoint, reports it, and turns bad input into one line and exit code 2."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from fathom.checkpoint import Reader, save_weights
from fathom.cli import main


@pytest.fixture
def source(tmp_path: Path) -> Path:
    tensors = {"model.layers.0.mlp.up_proj.weight": torch.ones(130, 4), "model.norm.weight": torch.ones(4)}
    save_weights(tmp_path / "src", tensors, {"torch_dtype": "float32"})
    return tmp_path / "src"


def test_json_reports_what_was_written(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "dst"
    assert main(["convert", str(source), str(target), "--fp8", "--dtype", "bf16", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed.pop("seconds") >= 0
    size = 130 * 4 + 2 * 4 + 4 * 2
    assert printed == {"source": str(source), "target": str(target), "tensors": 3, "bytes": size, "files": 1}
    assert {name: info.dtype for name, info in Reader(target).tensors.items()} == {
        "model.layers.0.mlp.up_proj.weight": torch.float8_e4m3fn,
        "model.layers.0.mlp.up_proj.weight_scale_inv": torch.float32,
        "model.norm.weight": torch.bfloat16,
    }


def test_the_shard_size_is_obeyed(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", str(source), str(tmp_path / "dst"), "--max-shard-gb", "1e-6"]) == 0
    assert "2 tensors, 2,096 bytes in 2 files" in capsys.readouterr().out


@pytest.mark.parametrize("size", ["0", "-1", "nan", "inf"])
def test_a_senseless_shard_size_is_refused(
    source: Path, tmp_path: Path, size: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", str(source), str(tmp_path / "dst"), f"--max-shard-gb={size}"]) == 2
    assert "--max-shard-gb is" in capsys.readouterr().err


def test_a_damaged_source_is_one_line_and_exit_code_2(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = source / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert main(["convert", str(source), str(tmp_path / "dst"), "--json"]) == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1 and "is truncated" in printed.err
    assert "is truncated" in json.loads(printed.out)["error"]["message"]
    assert not (tmp_path / "dst").exists()


def test_a_gguf_file_needs_no_target(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "tiny.gguf"
    assert main(["convert", str(tiny_model), "--gguf", str(file), "--gguf-type", "f32", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["gguf"].keys() == {"file", "type", "tensors", "bytes"} and "target" not in printed
    assert printed["gguf"]["bytes"] <= file.stat().st_size
    assert main(["convert", str(tiny_model), str(tmp_path / "dst"), "--gguf", str(file)]) == 0
    assert capsys.readouterr().out.count("\n") == 2 and (tmp_path / "dst" / "config.json").is_file()


def test_the_shipped_model_goes_by_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", "nano", str(tmp_path / "dst"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["source"] == "nano"
    assert (tmp_path / "dst" / "config.json").is_file()


def test_nowhere_to_write_is_refused(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", str(source)]) == 2
    assert "DST is missing" in capsys.readouterr().err


def test_a_missing_library_names_the_extra(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert main(["convert", str(tiny_model), "--gguf", str(tmp_path / "x.gguf")]) == 2
    assert "pip install 'fathom-llm[peers]'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
