"""Text to calibrate on, and the matrices of a checkpoint rounded for it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from random import Random

from fathom.checkpoint import Reader
from fathom.checkpoint.pack import Plain
from fathom.config import ModelConfig
from fathom.engine.calibrate import calibrate
from fathom.errors import ConfigError, InputError
from fathom.ops.packing import PackedMatrix
from fathom.think.dialogues import dialogues
from fathom.tokenizer import Tokenizer

log = logging.getLogger(__name__)

TOKENS = 16_384  # of text: four times as many bring nothing on fathom-nano
DOCUMENT_TOKENS = 512  # of a piece of a file, or of random tokens


def rounded_with_care(
    source: str | Path,
    group: int | None = None,
    *,
    text: str | Path | None = None,
    tokens: int = TOKENS,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, PackedMatrix]:
    """The 4-bit matrices of the checkpoint `source`, rounded for its calibration text, for `convert_packed`.

    Args: group: columns that share a scale. text: a file to calibrate on instead. progress: called with (layers, all).
    """
    config = ModelConfig.read(source)
    documents = calibration_text(Path(source), config, text, tokens)
    with Reader(source) as reader:
        return calibrate(Plain(reader, config), documents, group, progress)


def calibration_text(directory: Path, config: ModelConfig, text: str | Path | None, tokens: int) -> list[list[int]]:
    """Token ids of about so many tokens: the given file, or worked problems of the train split; random without both.

    Raises: InputError: the file cannot be read, holds no text, or there is no tokenizer for it.
    """
    if text is not None:
        return _pieces_of(Path(text), Tokenizer.load(directory))[: max(1, tokens // DOCUMENT_TOKENS)]
    why = "it has no tokenizer"
    if (directory / "tokenizer.json").is_file():
        try:
            given = dialogues(Tokenizer.load(directory), "train", tokens // 2, longest=config.max_position_embeddings)
            return [[*each.prompt, *each.answer] for each in given]
        except ConfigError as error:
            why = str(error)
    log.warning("calibration: random tokens (%s); --calibrate FILE would be better", why)
    rng = Random(0)
    return [rng.choices(range(config.vocab_size), k=DOCUMENT_TOKENS) for _ in range(tokens // DOCUMENT_TOKENS)]


def _pieces_of(file: Path, tokenizer: Tokenizer) -> list[list[int]]:
    """A file's text in pieces that are read each by itself."""
    try:
        ids = tokenizer.encode(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read as text ({error}); give a plain UTF-8 file.") from None
    if not ids:
        raise InputError(f"{file} holds no text; give some thousand words of what the model will read.")
    return [ids[begin : begin + DOCUMENT_TOKENS] for begin in range(0, len(ids), DOCUMENT_TOKENS)]
