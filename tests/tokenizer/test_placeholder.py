"""The placeholder vocabulary has the asked size and writes any text, byte by byte."""

from __future__ import annotations

import pytest

from fathom.errors import ConfigError
from fathom.tokenizer import Tokenizer, encode_chat, placeholder


def test_every_id_has_a_token_and_text_survives() -> None:
    tokenizer = placeholder(1000)
    assert tokenizer.vocab_size == 1000
    assert (tokenizer.bos_id, tokenizer.eos_id) == (0, 1)
    text = "naïve 東京 999 <think>"
    ids = tokenizer.encode(text)
    assert len(ids) == len(text.encode()) and tokenizer.decode(ids) == text
    assert tokenizer.decode([998, 999]) == " 998 999"


def test_it_is_a_tokenizer_file_like_any_other(tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = tmp_path_factory.mktemp("placeholder")
    made = placeholder(512)
    made.save(directory)
    again = Tokenizer.load(directory)
    assert again.fingerprint == made.fingerprint == placeholder(512).fingerprint
    assert len(encode_chat(again, [{"role": "user", "content": "hi"}], thinking=False)) == 6


def test_a_vocabulary_without_room_for_bytes_is_refused() -> None:
    with pytest.raises(ConfigError, match="vocab_size is 100 tokens"):
        placeholder(100)
