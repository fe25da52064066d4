"""`fathom convert --bits`: what it writes, what it says, and which options contradict each other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fathom.checkpoint import Reader
from fathom.cli import main
from fathom.config import ModelConfig, Packed

UP = "model.layers.0.mlp.up_proj.weight"


@pytest.mark.parametrize(("bits", "dtype"), [(16, "bfloat16"), (8, "int8"), (4, "uint8")])
def test_weights_are_packed_at_the_bits_asked_for(
    tiny_model: Path, tmp_path: Path, bits: int, dtype: str, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "p"
    assert main(["convert", str(tiny_model), str(target), "--bits", str(bits), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["bits"] == bits and bits < printed["bits_per_weight"] < 2.5 * bits
    assert printed["bytes"] == sum(info.bytes for info in Reader(target).tensors.values())
    assert str(Reader(target).tensors[UP].dtype) == f"torch.{dtype}"
    assert ModelConfig.read(target).packed == Packed(bits)
    assert (target / "tokenizer.json").is_file()


def test_rounding_with_care_is_the_default_of_4_bits(tiny_model: Path, tmp_path: Path) -> None:
    values = {}
    (tmp_path / "file").write_text("What is two plus two? The answer is four. " * 40)
    for name, options in {
        "default": [], "nearest": ["--rounding", "nearest"], "text": ["--calibrate", str(tmp_path / "file")],
    }.items():  # fmt: skip
        assert main(["convert", str(tiny_model), str(tmp_path / name), "--bits", "4", "--group", "64", *options]) == 0
        values[name] = Reader(tmp_path / name).read(UP)
    assert len({value.numpy().tobytes() for value in values.values()}) == 3


def test_the_report_says_what_it_cost(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "p"
    assert main(["convert", str(tiny_model), str(target), "--bits", "8", "--report", "--json"]) == 0
    quality = json.loads(capsys.readouterr().out)["quality"]
    assert quality["tokens"] >= 20_000 and quality["agreement"] > 0.9 and 0 < quality["divergence"] < 0.1
    assert main(["convert", str(tiny_model), str(target), "--bits", "16"]) == 0
    assert "bits per weight, scales and padding included" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (["--group", "64"], "add --bits"),
        (["--rounding", "nearest"], "add --bits"),
        (["--calibrate", "x"], "add --bits"),
        (["--bits", "8", "--fp8"], "takes neither"),
        (["--bits", "8", "--dtype", "bf16"], "takes neither"),
        (["--bits", "16", "--group", "64"], "need no scales"),
        (["--bits", "8", "--rounding", "error-aware"], "for --bits 4"),
        (["--bits", "8", "--calibrate", "x"], "for --bits 4"),
        (["--bits", "4", "--rounding", "nearest", "--calibrate", "x"], "leave one of the two out"),
        (["--bits", "3"], "invalid choice"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    tiny_model: Path, tmp_path: Path, options: list[str], match: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", str(tiny_model), str(tmp_path / "p"), *options]) == 2
    assert match in capsys.readouterr().err
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize("options", [[], ["--dtype", "bf16"], ["--fp8"], ["--bits", "8"]])
def test_packed_weights_are_not_converted_again(
    tiny_model: Path, tmp_path: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    packed = str(tmp_path / "p")
    assert main(["convert", str(tiny_model), packed, "--bits", "8"]) == 0
    assert main(["convert", packed, str(tmp_path / "again"), *options]) == 2
    assert "is packed already; convert the checkpoint that it was made from" in capsys.readouterr().err
    assert not (tmp_path / "again").exists()


def test_a_gguf_file_of_packed_weights_has_their_type(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packed, file = str(tmp_path / "p"), str(tmp_path / "p.gguf")
    assert main(["convert", str(tiny_model), packed, "--bits", "8"]) == 0
    assert main(["convert", packed, "--gguf", file, "--gguf-type", "bf16"]) == 2
    assert "Leave --gguf-type out" in capsys.readouterr().err
    assert main(["convert", packed, "--gguf", file, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["gguf"]["type"] == "q8_0"


@pytest.mark.parametrize("options", [["--bits", "8"], ["--report"]])
def test_a_target_is_needed(tiny_model: Path, tmp_path: Path, options: list[str]) -> None:
    assert main(["convert", str(tiny_model), "--gguf", str(tmp_path / "x.gguf"), *options]) == 2
