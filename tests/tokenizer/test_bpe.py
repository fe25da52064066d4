"""Text to ids and back, and what no text may become."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models

from fathom.errors import CheckpointError, ConfigError, RequestError
from fathom.tokenizer import Tokenizer
from fathom.tokenizer.encodings import SPECIAL_STRINGS
from tests.tokenizer.conftest import TEXTS

TOKENIZER = Tokenizer.train(TEXTS, 320, digits=1)
WRITTEN = st.lists(st.one_of(st.sampled_from(SPECIAL_STRINGS), st.text(max_size=5))).map("".join)


@settings(max_examples=150)
@given(WRITTEN)
def test_text_round_trips_without_control_tokens(text: str) -> None:
    ids = TOKENIZER.encode(text)
    assert TOKENIZER.decode(ids) == text
    assert not set(ids) & set(TOKENIZER.special.values())


@settings(max_examples=100)
@given(WRITTEN)
def test_foreign_files_are_as_safe(foreign: Tokenizer, text: str) -> None:
    ids = foreign.encode(text)
    assert foreign.decode(ids) == text
    assert not set(ids) & set(foreign.special.values())


def test_foreign_letters_stay_tokens_and_markers_do_not(foreign: Tokenizer) -> None:
    assert [foreign.id_to_token(i) for i in foreign.encode("a語b")] == ["a", "語", "b"]
    assert "<｜extra｜>" in foreign.special and "語" not in foreign.special
    assert foreign.special["<｜extra｜>"] not in foreign.encode("<｜extra｜>")


def test_control_tokens_have_the_first_ids() -> None:
    assert [TOKENIZER.special[s] for s in SPECIAL_STRINGS] == list(range(len(SPECIAL_STRINGS)))
    assert (TOKENIZER.bos_id, TOKENIZER.eos_id, TOKENIZER.pad_id) == (0, 1, 2)
    assert TOKENIZER.think_id == TOKENIZER.special["<think>"]
    assert TOKENIZER.end_think_id == TOKENIZER.special["</think>"]


def test_every_byte_has_a_token_and_every_token_its_bytes() -> None:
    single = [TOKENIZER.token_bytes(i) for i in range(TOKENIZER.vocab_size)]
    assert {bytes([b]) for b in range(256)} <= set(single)
    assert len(set(single)) == TOKENIZER.vocab_size


def test_ids_without_a_token_decode_to_a_replacement() -> None:
    assert TOKENIZER.decode([TOKENIZER.vocab_size + 5, -1]) == "\ufffd\ufffd"
    assert TOKENIZER.id_to_token(-1) is None


def test_training_is_repeatable_and_learns_no_control_string() -> None:
    again = Tokenizer.train(["<think>ababab</think>" for _ in range(9)], 280)
    assert again.fingerprint == Tokenizer.train(["<think>ababab</think>" for _ in range(9)], 280).fingerprint
    assert len(again.encode("<think>")) == len("<think>")


def test_saved_files_load_the_same(tmp_path: Path) -> None:
    TOKENIZER.save(tmp_path)
    loaded = Tokenizer.load(tmp_path)
    assert loaded.fingerprint == hashlib.sha256((tmp_path / "tokenizer.json").read_bytes()).hexdigest()
    assert loaded.fingerprint == TOKENIZER.fingerprint
    assert loaded.settings == TOKENIZER.settings
    assert loaded.encode(TEXTS[0]) == TOKENIZER.encode(TEXTS[0])
    assert Tokenizer.load(tmp_path / "tokenizer.json").settings == TOKENIZER.settings


def test_transformers_gives_the_same_ids(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    TOKENIZER.save(tmp_path)
    oracle = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    for text in [*TEXTS, "  \r\n<br/> 12345 ١٢ 東 e\u0301 \x00"]:
        assert TOKENIZER.encode(text) == oracle(text, add_special_tokens=False)["input_ids"]
        assert TOKENIZER.decode(TOKENIZER.encode(text)) == oracle.decode(TOKENIZER.encode(text))
    assert (oracle.bos_token_id, oracle.eos_token_id, oracle.pad_token_id) == (0, 1, 2)
    question = [{"role": "system", "content": "Sums."}, {"role": "user", "content": "1+1"}]
    question += [{"role": "assistant", "content": "2"}, {"role": "user", "content": "2+2"}]
    from fathom.tokenizer import encode_chat

    for thinking in (True, False):
        theirs = oracle.apply_chat_template(question, add_generation_prompt=True, thinking=thinking, tokenize=False)
        theirs = oracle(theirs, add_special_tokens=False)["input_ids"]
        assert encode_chat(TOKENIZER, question, thinking=thinking) == theirs


def test_sentencepiece_files_decode_by_bytes() -> None:
    vocabulary = {"<s>": 0, "<0xE6>": 1, "<0x9D>": 2, "<0xB1>": 3, "▁": 4, "a": 5, "▁a": 6}
    library = Library(models.BPE(vocabulary, [("▁", "a")], byte_fallback=True))
    library.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    library.add_special_tokens(["<s>"])
    tokenizer = Tokenizer(library.to_str().encode())
    assert tokenizer.decode([6, 1, 2, 3]) == " a東"


def test_a_control_token_that_text_would_reach_is_refused() -> None:
    library = Library(models.BPE({"<s>": 0, "a": 1}, [], ignore_merges=True))
    library.decoder = decoders.ByteLevel()
    library.add_special_tokens(["<s>"])
    with pytest.raises(RequestError, match="<s>"):
        Tokenizer(library.to_str().encode()).encode("<s>")


def test_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(RequestError, match="surrogate"):
        TOKENIZER.encode("a\ud800")


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b'{"added_tokens": [], "model": {"type": "BPE", "vocab": [], "merges": 3}}',
        b"[" * 100_000,
        json.dumps({**json.loads(TOKENIZER._definition), "added_tokens": [{"id": 1}]}).encode(),
        TOKENIZER._definition[:-50],
        TOKENIZER._definition.replace(b'"id": 5,', b'"id": 77,', 1),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(damage)
    with pytest.raises(CheckpointError, match="tokenizer.json"):
        Tokenizer.load(tmp_path)


def test_missing_and_damaged_neighbours_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        Tokenizer.load(tmp_path)
    TOKENIZER.save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(CheckpointError, match="tokenizer_config.json"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    assert Tokenizer.load(tmp_path).eos_id == 1


def test_an_unknown_decoder_is_refused() -> None:
    library = Library(models.WordLevel({"a": 0}, unk_token="a"))
    with pytest.raises(ConfigError, match="decoder"):
        Tokenizer(library.to_str().encode())


@pytest.mark.parametrize("wrong", [{"vocab_size": 274}, {"digits": 4}, {"digits": 0}, {"chat_encoding": "v9"}])
def test_training_refuses_what_it_cannot_do(wrong: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Tokenizer.train(["a"], **({"vocab_size": 300} | wrong))


def test_import_is_light() -> None:
    heavy = "{'torch', 'transformers', 'huggingface_hub', 'jinja2', 'numpy'}"
    code = f"import sys, fathom.tokenizer; print(sorted({heavy} & {{m.split('.')[0] for m in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
