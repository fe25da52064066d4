"""`fathom init` makes a model that the engine runs, and says why when it cannot."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from fathom.batching.request import SamplingParams
from fathom.checkpoint import verify_manifest
from fathom.cli import main
from fathom.cli.init import architecture
from fathom.config import SHAPES, ModelConfig, preset
from fathom.cost import checkpoint_bytes, checkpoint_tensors
from fathom.engine import LLM
from tests.engine.tiny import CONFIG


@pytest.fixture
def shape(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(replace(CONFIG, vocab_size=300).to_dict()))
    return tmp_path / "config.json"


def test_the_model_generates(shape: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "made"
    assert main(["init", str(shape), str(target), "--random", "--seed", "3", "--dtype", "fp32", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    config = ModelConfig.read(target)
    assert printed.pop("seconds") >= 0
    assert printed == {
        "shape": str(shape), "target": str(target), "seed": 3,
        "tensors": checkpoint_tensors(config), "bytes": checkpoint_bytes(config),
    }  # fmt: skip
    verify_manifest(target)
    params = SamplingParams(max_tokens=4, temperature=0.0, ignore_eos=True)
    one, two = (LLM(target).generate("Hello", params)[0].token_ids for _ in range(2))
    assert len(one) == 4 and one == two


@pytest.mark.parametrize("bits", [16, 8, 4])
def test_packed_it_is_what_converting_gives(
    shape: Path, tmp_path: Path, bits: int, capsys: pytest.CaptureFixture[str]
) -> None:
    made, plain, packed = (str(tmp_path / name) for name in ("made", "plain", "packed"))
    begun = ["init", str(shape), "--random", "--seed", "5"]
    assert main([*begun, made, "--bits", str(bits), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert main([*begun, plain]) == 0
    nearest = ["--rounding", "nearest"] if bits == 4 else []
    assert main(["convert", plain, packed, "--bits", str(bits), *nearest, "--json"]) == 0
    counted = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert all(printed[key] == counted[key] for key in ("bits", "tensors", "bytes"))
    names = {path.name for path in Path(packed).iterdir()} - {"manifest.json"}  # lists them in the folder's order
    assert names | {"manifest.json"} == {path.name for path in Path(made).iterdir()}
    assert all((Path(made) / name).read_bytes() == (Path(packed) / name).read_bytes() for name in names)
    verify_manifest(made)
    params = SamplingParams(max_tokens=4, temperature=0.0, ignore_eos=True)
    assert len(LLM(made).generate("Hello", params)[0].token_ids) == 4


def test_names_are_those_of_the_shapes_first() -> None:
    assert architecture("nano", "bfloat16") == SHAPES["nano"] != preset("nano")
    v3 = architecture("deepseek-v3", "float32")
    assert v3.quantization_config is None and v3.torch_dtype == "float32" and v3.eos_token_id == 1


def test_without_random_it_says_what_to_add(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "nano", str(tmp_path / "made")]) == 2
    assert "add --random" in capsys.readouterr().err


def test_an_unknown_shape_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "huge", str(tmp_path / "made"), "--random"]) == 2
    assert "huge does not exist" in capsys.readouterr().err
    assert not (tmp_path / "made").exists()
