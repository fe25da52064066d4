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
