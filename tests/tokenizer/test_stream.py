"""Streaming never shows half a character, and shows exactly what a whole decode shows."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from fathom.tokenizer import Tokenizer
from tests.tokenizer.conftest import TEXTS

TOKENIZER = Tokenizer.train(TEXTS, 320, digits=1)
IDS = st.lists(st.integers(0, TOKENIZER.vocab_size + 3), max_size=40)
BYTE = {TOKENIZER.token_bytes(i): i for i in range(TOKENIZER.vocab_size)}


def _bytes(data: bytes) -> list[int]:
    return [BYTE[bytes([b])] for b in data]


@settings(max_examples=150)
@given(st.lists(IDS, max_size=5))
def test_pieces_join_to_the_whole_decode(chunks: list[list[int]]) -> None:
    stream = TOKENIZER.stream()
    pieces = [stream.push(chunk) for chunk in chunks] + [stream.flush()]
    assert "".join(pieces) == TOKENIZER.decode([i for chunk in chunks for i in chunk])


@settings(max_examples=150)
@given(st.text(max_size=20), st.binary(max_size=6))
def test_bytes_one_by_one_give_whole_characters(text: str, junk: bytes) -> None:
    stream = TOKENIZER.stream()
    ids = _bytes(text.encode() + junk)
    pieces = [stream.push([i]) for i in ids]
    assert "".join([*pieces, stream.flush()]) == (text.encode() + junk).decode("utf-8", "replace")
    if "\ufffd" not in text:
        assert "\ufffd" not in "".join(pieces[: len(text.encode())])


def test_a_character_waits_for_its_last_byte() -> None:
    stream = TOKENIZER.stream()
    assert [stream.push([i]) for i in _bytes("東".encode())] == ["", "", "東"]


def test_flush_shows_what_is_left_once() -> None:
    stream = TOKENIZER.stream()
    assert stream.push(_bytes("東".encode()[:2])) == ""
    assert stream.flush() == "\ufffd"
    assert stream.flush() == ""
    assert stream.push(_bytes(b"a")) == "a"


def test_a_lone_continuation_byte_shows_at_once() -> None:
    assert TOKENIZER.stream().push(_bytes(b"\x80")) == "\ufffd"


def test_special_tokens_can_be_skipped() -> None:
    ids = [*TOKENIZER.encode("a"), TOKENIZER.eos_id, *TOKENIZER.encode("b")]
    assert TOKENIZER.stream(skip_special=True).push(ids) == TOKENIZER.decode(ids, skip_special=True) == "ab"
