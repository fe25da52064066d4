"""DeepSeek-V3's three splits of text into words, and a fast way to encode ASCII text cut by them.

The splits run one after another, each on the pieces of the one before: digits, CJK, then words, punctuation and spaces.
For ASCII text they are one regular expression, and words repeat: looking each up beats the general path five times.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

from tokenizers import Regex, models, pre_tokenizers

# The patterns of deepseek-ai/DeepSeek-V3's tokenizer.json; the first is \p{N}{1,3} there.
_CJK = "[一-龥぀-ゟ゠-ヿ]+"
_WORDS = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"""| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
)
_PUNCTUATION = r"!-/:-@\[-`{-~"


def pre_tokenizer(digits: int) -> pre_tokenizers.PreTokenizer:
    """The splits, and the bytes of each word as printable characters."""
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_digits(digits)), "isolated"),
            pre_tokenizers.Split(Regex(_CJK), "isolated"),
            pre_tokenizers.Split(Regex(_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def ascii_encoder(table: Mapping[str, Any], model: models.Model) -> Callable[[str], list[int]] | None:
    """An encoder of ASCII text for a tokenizer.json with these splits; None if it has others, or rewrites its text."""
    digits = digits_of(table)
    if digits is None:
        return None
    words = _ascii_words(digits)
    printable = str.maketrans({byte: chr(256 + n) for n, byte in enumerate([*range(0x21), 0x7F])})  # as ByteLevel

    @functools.lru_cache(maxsize=1 << 16)
    def ids_of(word: str) -> tuple[int, ...]:
        return tuple(token.id for token in model.tokenize(word.translate(printable)))

    def encode(text: str) -> list[int]:
        ids: list[int] = []
        for word in words(text):
            ids += ids_of(word)
        return ids

    return encode


def _digits(digits: int) -> str:
    return rf"\p{{N}}{{1,{digits}}}"


def digits_of(table: Mapping[str, Any]) -> int | None:
    """The longest run of digits, if the file splits as above and does nothing else to text."""
    steps = (table.get("pre_tokenizer") or {}).get("pretokenizers") or []
    splits = [(s["pattern"].get("Regex"), s["behavior"], s["invert"]) for s in steps if s["type"] == "Split"]
    plain = (
        table.get("normalizer") in (None, {"type": "Sequence", "normalizers": []})
        and table["model"].get("dropout") is None
    )
    last = steps[-1] if steps else {}
    bytes_last = last.get("type") == "ByteLevel" and not (last["use_regex"] or last["add_prefix_space"])
    if not (plain and bytes_last and len(steps) == 4):
        return None
    for digits in (1, 2, 3):
        if splits == [(pattern, "Isolated", False) for pattern in (_digits(digits), _CJK, _WORDS)]:
            return digits
    return None


def _ascii_words(digits: int) -> Callable[[str], list[str]]:
    """The three splits on ASCII text, as one: a digit ends a piece just as the end of the text does.

    The last branch is what no split matches: a run of control characters stays one word.
    """
    return re.compile(
        rf"[0-9]{{1,{digits}}}|[{_PUNCTUATION}][A-Za-z]+|[^\r\nA-Za-z0-9{_PUNCTUATION}]?[A-Za-z]+"
        rf"| ?[{_PUNCTUATION}]+[\r\n]*|\s*[\r\n]+|\s+(?![^\s0-9])|\s+|(?:[^\s!-~](?![A-Za-z]))+",
        re.ASCII,
    ).findall
