"""The vocabulary: text to token ids and back, exactly, byte by byte.

Plain text never becomes a control token: `encode("<think>")` gives the tokens of seven characters. Control tokens enter
a prompt as ids only (`tokenizer.special["<think>"]`), so no user can write one. Decoding joins the bytes of the tokens.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers

from fathom.errors import CheckpointError, ConfigError, RequestError
from fathom.tokenizer.encodings import BOS, ENCODINGS, END_THINK, EOS, PAD, SPECIAL_STRINGS, THINK, jinja_template
from fathom.tokenizer.split import ascii_encoder, pre_tokenizer
from fathom.tokenizer.stream import StreamDecoder

log = logging.getLogger(__name__)

_MARKER = re.compile(r"<[^<>\s]+>|\[[A-Z_]+\]")
_REPLACEMENT = "\ufffd".encode()


class Tokenizer:
    """A tokenizer.json with its tokenizer_config.json; immutable, safe to share between threads.

    Attributes: settings: the tokenizer_config.json as a mapping. special: control string -> id.
                fingerprint: sha256 of tokenizer.json, which names the vocabulary in a ledger or a cache key.
    """

    def __init__(self, definition: bytes, settings: Mapping[str, Any] | None = None) -> None:
        """Raises: ValueError, KeyError or TypeError: definition is not a tokenizer.json; `load` says so kindly."""
        table = json.loads(definition)
        self.settings: dict[str, Any] = dict(settings or {})
        self.fingerprint: str = hashlib.sha256(definition).hexdigest()
        self._definition = definition
        self._plain = _plain_encoder(table)
        self._ids: dict[str, int] = self._plain.get_vocab(with_added_tokens=True)
        self._added: dict[int, str] = {self._ids[t["content"]]: t["content"] for t in table["added_tokens"]}
        self.special: dict[str, int] = {t["content"]: t["id"] for t in table["added_tokens"] if _is_control(t)}
        if wrong := [s for s, i in self.special.items() if self._ids[s] != i]:
            raise ValueError(f"the id of {wrong[0]} is taken")
        self._special_ids = frozenset(self.special.values())
        self._forbidden = self._special_ids - {self._ids.get(_unknown(table["model"]))}
        only_control = len(self.special) == len(table["added_tokens"])
        self._encode_ascii = ascii_encoder(table, self._plain.model) if only_control else None
        self._token_to_bytes = _byte_reader(table)
        self.vocab_size: int = max(self._ids.values()) + 1
        self.bos_id: int | None = self._named("bos_token", BOS)
        self.eos_id: int | None = self._named("eos_token", EOS)
        self.pad_id: int | None = self._named("pad_token", PAD)
        self.think_id: int | None = self.special.get(THINK)
        self.end_think_id: int | None = self.special.get(END_THINK)

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        """The tokenizer in a directory, or of a tokenizer.json; its tokenizer_config.json is read if it is there.

        Raises: CheckpointError: a file is missing or damaged.
        """
        file = Path(path) / "tokenizer.json" if Path(path).is_dir() else Path(path)
        settings_file = file.with_name("tokenizer_config.json")
        settings = json.loads(_read(settings_file, dict, b"{}"))
        try:
            return cls(_read(file, dict), settings)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{file} is not a tokenizer ({error!r}); fetch or copy it again.") from error

    @classmethod
    def train(
        cls, texts: Iterable[str], vocab_size: int, digits: int = 3, chat_encoding: str = "deepseek-v3.1"
    ) -> Tokenizer:
        """A byte-level BPE learned from texts, split by DeepSeek-V3's rules; control tokens have the first ids.

        Args:   digits: longest run of digits in one token: 3 in DeepSeek-V3, 1 lets a small model do sums.
        Raises: ConfigError: vocab_size has no room for the 256 bytes and the control tokens.
        """
        smallest = len(SPECIAL_STRINGS) + 256
        if vocab_size < smallest:
            raise ConfigError(
                f"vocab_size is {vocab_size} tokens; it must be at least {smallest}"
                f" (256 bytes, {len(SPECIAL_STRINGS)} control tokens)."
            )
        if chat_encoding not in ENCODINGS:
            raise ConfigError(f"chat_encoding is {chat_encoding!r}; it must be one of {', '.join(ENCODINGS)}.")
        if digits not in (1, 2, 3):
            raise ConfigError(f"digits is {digits}; it must be 1, 2 or 3, the longest run of digits in one token.")
        learner = tokenizers.Tokenizer(models.BPE())
        learner.pre_tokenizer = pre_tokenizer(digits)
        learner.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[AddedToken(str(s), special=True, normalized=False) for s in SPECIAL_STRINGS],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        learner.train_from_iterator(_without_control(texts), trainer)
        tokenizer = cls(learner.to_str(pretty=True).encode(), _settings(chat_encoding))
        if tokenizer.vocab_size < vocab_size:
            log.warning("vocab_size: %d of %d tokens; the texts have no more pairs", tokenizer.vocab_size, vocab_size)
        return tokenizer

    def files(self) -> dict[str, bytes]:
        """tokenizer.json and tokenizer_config.json, which transformers reads too."""
        settings = json.dumps(self.settings, ensure_ascii=False, indent=2) + "\n"
        return {"tokenizer.json": self._definition, "tokenizer_config.json": settings.encode()}

    def save(self, directory: str | Path) -> None:
        """Writes its files."""
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.files().items():
            (folder / name).write_bytes(content)

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text; no BOS is added, no control token comes out.

        Raises: RequestError: the text has half a surrogate pair, or spells a control token that this (foreign)
                vocabulary can only write as that token.
        """
        if self._encode_ascii is not None and text.isascii():
            ids = self._encode_ascii(text)
        else:
            try:
                ids = self._plain.encode(text, add_special_tokens=False).ids
            except (TypeError, UnicodeEncodeError) as error:
                raise RequestError(f"text cannot be encoded ({error}); it must hold no lone surrogates.") from None
        if not self._forbidden.isdisjoint(ids):
            name = next(s for s, i in self.special.items() if i in self._forbidden.intersection(ids))
            raise RequestError(f"text contains {name!r}, a control token of this model; write it differently.")
        return ids

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        """`encode` of every text."""
        return [self.encode(text) for text in texts]

    def decode(self, ids: Iterable[int], *, skip_special: bool = False) -> str:
        """Text of the tokens; bytes that are no character, and ids without a token, show as U+FFFD."""
        return self._join(ids, skip_special).decode("utf-8", "replace")

    def stream(self, *, skip_special: bool = False) -> StreamDecoder:
        """A decoder for tokens that arrive one by one."""
        return StreamDecoder(lambda ids: self._join(ids, skip_special))

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token stands for, often not whole characters."""
        return self._bytes.get(token_id, _REPLACEMENT)

    def id_to_token(self, token_id: int) -> str | None:
        """The token as tokenizer.json writes it (Ġ for a space, ...), or None."""
        return self._tokens.get(token_id)

    def token_to_id(self, token: str) -> int | None:
        """The id of a token as tokenizer.json writes it, or None."""
        return self._ids.get(token)

    def split(self, text: str) -> list[str]:
        """The text cut at its control strings, which are pieces of their own; for text from a trusted template."""
        return [piece for piece in self._controls.split(text) if piece]

    def _join(self, ids: Iterable[int], skip_special: bool) -> bytes:
        get = self._bytes.get
        if skip_special:
            return b"".join([get(i, _REPLACEMENT) for i in ids if i not in self._special_ids])
        return b"".join([get(i, _REPLACEMENT) for i in ids])

    @cached_property
    def _controls(self) -> re.Pattern[str]:
        longest_first = sorted(self.special, key=len, reverse=True)
        return re.compile(f"({'|'.join(map(re.escape, longest_first)) or '(?!)'})")

    @cached_property
    def _tokens(self) -> dict[int, str]:
        return {i: token for token, i in self._ids.items()}

    @cached_property
    def _bytes(self) -> dict[int, bytes]:
        read, added = self._token_to_bytes, self._added
        return {i: added[i].encode() if i in added else read(token) for token, i in self._ids.items()}

    def _named(self, key: str, default: str) -> int | None:
        token = self.settings.get(key)
        token = token.get("content") if isinstance(token, dict) else token
        return self._ids.get(token or default)


def _read(file: Path, kind: type, default: bytes | None = None) -> bytes:
    """The bytes of a file that holds JSON of this kind."""
    try:
        text = file.read_bytes()
        if not isinstance(json.loads(text), kind):
            raise ValueError(f"it holds no {kind.__name__}")
        return text
    except FileNotFoundError:
        if default is not None:
            return default
        raise CheckpointError(f"{file} does not exist; name a directory with a tokenizer.json in it.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} is not readable JSON ({error}); fetch or copy it again.") from error


def _is_control(added: Mapping[str, Any]) -> bool:
    # DeepSeek's files mark <｜User｜> and <think> as not special, and hold plain letters as added tokens.
    return added["special"] or _MARKER.fullmatch(added["content"]) is not None


def _plain_encoder(table: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """An encoder that reads control strings as the characters they are."""
    added = [{**t, "special": True} if _is_control(t) else t for t in table["added_tokens"]]
    try:
        plain = tokenizers.Tokenizer.from_str(json.dumps({**table, "added_tokens": added}))
    except Exception as error:  # the library raises bare Exception
        raise ValueError(str(error)) from error
    plain.encode_special_tokens = True
    plain.no_truncation()
    plain.no_padding()
    return plain


def _unknown(model: Mapping[str, Any]) -> str:
    """The token for what the vocabulary cannot write; Unigram models name it by its place."""
    if isinstance(place := model.get("unk_id"), int):
        return str(model["vocab"][place][0])
    return str(model.get("unk_token"))


def _byte_reader(table: Mapping[str, Any]) -> Callable[[str], bytes]:
    """How a token of this vocabulary is written: as byte-level characters, or as sentencepiece does."""
    decoder = json.dumps(table.get("decoder"))
    if "ByteLevel" in decoder:
        alphabet = _byte_alphabet()
        return lambda token: bytes(alphabet[c] for c in token)
    if "Metaspace" in decoder or "ByteFallback" in decoder:
        return _sentencepiece_bytes
    raise ConfigError(f"tokenizer.json has decoder {decoder[:80]}; it must be ByteLevel, Metaspace or ByteFallback.")


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable character for each byte: itself if printable in Latin-1, else 256 and up in order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [b for b in range(256) if b not in set(printable)]
    return {chr(b): b for b in printable} | {chr(256 + n): b for n, b in enumerate(hidden)}


def _sentencepiece_bytes(token: str) -> bytes:
    if re.fullmatch(r"<0x[0-9A-F]{2}>", token):
        return bytes([int(token[3:5], 16)])
    return token.replace("▁", " ").encode()


def _without_control(texts: Iterable[str]) -> Iterator[str]:
    """The texts between control strings: no merge is spent on spelling one."""
    control = re.compile("|".join(map(re.escape, SPECIAL_STRINGS)))
    for text in texts:
        yield from filter(None, control.split(text))


def _settings(chat_encoding: str) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": str(BOS),
        "eos_token": str(EOS),
        "pad_token": str(PAD),
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
        "chat_encoding": chat_encoding,
        "chat_template": jinja_template(ENCODINGS[chat_encoding]),
    }
