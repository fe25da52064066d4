"""A vocabulary in GGUF's words keeps every id, and refuses what llama.cpp would split otherwise."""

from __future__ import annotations

import json

import pytest

from fathom.errors import ConfigError
from fathom.tokenizer import Tokenizer, gguf_vocabulary, placeholder


def test_every_id_has_its_token_and_its_kind(tokenizer: Tokenizer) -> None:
    size = tokenizer.vocab_size
    keys = gguf_vocabulary(tokenizer, size + 2)
    tokens, kinds = keys["tokenizer.ggml.tokens"], keys["tokenizer.ggml.token_type"]
    assert tokens == [*(tokenizer.id_to_token(i) for i in range(size)), f"[PAD{size}]", f"[PAD{size + 1}]"]
    assert kinds == [3] * len(tokenizer.special) + [1] * (size - len(tokenizer.special)) + [5, 5]
    assert [keys[f"tokenizer.ggml.{name}_token_id"] for name in ("bos", "eos", "padding")] == [0, 1, 2]
    assert keys["tokenizer.ggml.add_bos_token"] is True
    assert keys["tokenizer.chat_template"] == tokenizer.settings["chat_template"]


def test_merges_are_written_in_order(tokenizer: Tokenizer) -> None:
    table = json.loads(tokenizer.files()["tokenizer.json"])
    merges = gguf_vocabulary(tokenizer, 320)["tokenizer.ggml.merges"]
    assert merges == [" ".join(pair) for pair in table["model"]["merges"]]
    assert len(gguf_vocabulary(placeholder(300), 300)["tokenizer.ggml.merges"]) == 1  # type: ignore[arg-type]


def test_added_tokens_that_are_plain_text_are_marked_so(foreign: Tokenizer) -> None:
    keys = gguf_vocabulary(foreign, foreign.vocab_size)
    assert keys["tokenizer.ggml.token_type"][-2:] == [4, 3]  # type: ignore[index]


def test_other_splits_are_refused(tokenizer: Tokenizer) -> None:
    table = json.loads(tokenizer.files()["tokenizer.json"])
    table["pre_tokenizer"]["pretokenizers"].pop(0)
    with pytest.raises(ConfigError, match="does not split text as DeepSeek-V3"):
        gguf_vocabulary(Tokenizer(json.dumps(table).encode()), 320)


def test_merges_of_digits_that_llama_cpp_would_apply_are_refused() -> None:
    threes = Tokenizer.train(["123 123 123"] * 9, 290, digits=3)
    table = json.loads(threes.files()["tokenizer.json"])
    assert gguf_vocabulary(threes, 290)
    table["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\p{N}{1,1}"
    with pytest.raises(ConfigError, match="other tokens"):
        gguf_vocabulary(Tokenizer(json.dumps(table).encode()), 290)


def test_more_tokens_than_rows_are_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(ConfigError, match="they do not match"):
        gguf_vocabulary(tokenizer, tokenizer.vocab_size - 1)
