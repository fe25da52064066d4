"""The splits of DeepSeek-V3, and the fast path that must equal them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fathom.tokenizer import Tokenizer
from fathom.tokenizer.split import ascii_encoder, pre_tokenizer

CONTROLS = ["\x00\x00\x1c\x7f\x7fa \x00\x00 1\x00\x00 b  c\r\n\r\n  d"] * 9
TRAINED = {digits: Tokenizer.train([*CONTROLS, "ab, a_b 12345 <think>"] * 2, 320, digits) for digits in (1, 2, 3)}
ASCII = st.text(st.one_of(st.sampled_from(" \n\r\t\x0b\x0c\x1c\x00\x7f01aZ!_<"), st.characters(max_codepoint=127)))


@settings(max_examples=200)
@given(st.sampled_from([1, 2, 3]), ASCII)
def test_fast_path_equals_the_library(digits: int, text: str) -> None:
    tokenizer = TRAINED[digits]
    assert tokenizer._encode_ascii is not None
    assert tokenizer._encode_ascii(text) == tokenizer._plain.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize(("digits", "words"), [(1, ["1", "2", "3", "4"]), (3, ["123", "4"])])
def test_digits_are_split(digits: int, words: list[str]) -> None:
    assert [word for word, _ in pre_tokenizer(digits).pre_tokenize_str("1234")] == words


def test_punctuation_keeps_its_line_breaks() -> None:
    words = [word for word, _ in pre_tokenizer(3).pre_tokenize_str("Yes.\n\nNo 東京 go")]
    assert words == ["Yes", ".ĊĊ", "No", "Ġ", "æĿ±äº¬", "Ġgo"]


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": {"type": "Sequence", "normalizers": [{"type": "Lowercase"}]}},
        {"normalizer": {"type": "NFC"}},
        {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}},
        {"pre_tokenizer": None},
    ],
)
def test_other_files_have_no_fast_path(change: dict) -> None:
    tokenizer = TRAINED[1]
    table = json.loads(tokenizer._definition)
    assert ascii_encoder(table, tokenizer._plain.model) is not None
    assert ascii_encoder(table | change, tokenizer._plain.model) is None
