"""Calibration text comes from a file, from worked problems, or from chance where there is neither, which is said."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest

from fathom.config import ModelConfig
from fathom.errors import InputError
from fathom.think import calibration
from fathom.think.calibration import calibration_text, rounded_with_care
from fathom.think.dialogues import dialogues
from fathom.tokenizer import Tokenizer


def test_worked_problems_of_the_train_split_by_default(tiny_model: Path) -> None:
    found = calibration_text(tiny_model, ModelConfig.read(tiny_model), None, 600)
    assert found == [[*d.prompt, *d.answer] for d in dialogues(Tokenizer.load(tiny_model), "train", 300)]


def test_a_file_is_read_in_pieces(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "DOCUMENT_TOKENS", 10)
    (tmp_path / "text").write_text("What is two plus two? " * 20)
    found = calibration_text(tiny_model, ModelConfig.read(tiny_model), tmp_path / "text", 50)
    assert [len(piece) for piece in found] == [10] * 5
    assert Tokenizer.load(tiny_model).decode(found[0]).startswith("What is")


@pytest.mark.parametrize(
    ("content", "match"), [(None, "cannot be read"), (b"\xff", "cannot be read"), (b"", "no text")]
)
def test_a_file_that_is_no_text_is_refused(tiny_model: Path, tmp_path: Path, content: bytes | None, match: str) -> None:
    if content is not None:
        (tmp_path / "text").write_bytes(content)
    with pytest.raises(InputError, match=match):
        calibration_text(tiny_model, ModelConfig.read(tiny_model), tmp_path / "text", 50)


def test_random_tokens_without_a_tokenizer_and_a_word_about_it(
    tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(tiny_model, tmp_path / "m", ignore=shutil.ignore_patterns("tokenizer*"))
    config = ModelConfig.read(tmp_path / "m")
    with caplog.at_level(logging.WARNING):
        found = calibration_text(tmp_path / "m", config, None, 2048)
    assert sum(map(len, found)) == 2048 and max(max(piece) for piece in found) < config.vocab_size
    assert "random tokens" in caplog.text


def test_what_comes_back_is_what_convert_takes(tiny_model: Path) -> None:
    made = rounded_with_care(tiny_model, 64, tokens=400)
    assert "model.layers.0.mlp.down_proj.weight" in made
    assert {matrix.kind for matrix in made.values()} == {"i4"}
