"""A vocabulary of any size for models without a text to learn one from: bytes, control tokens, and filler.

Text is encoded byte by byte. Filler tokens are never encoded, but a model of random weights writes them, as numbers.
"""

from __future__ import annotations

import json

from fathom.errors import ConfigError
from fathom.tokenizer.bpe import Tokenizer
from fathom.tokenizer.encodings import SPECIAL_STRINGS


def placeholder(vocab_size: int) -> Tokenizer:
    """A byte-level tokenizer with exactly `vocab_size` tokens; ids 0 and 1 begin and end a text.

    Raises: ConfigError: vocab_size has no room for the 256 bytes and the control tokens.
    """
    smallest = len(SPECIAL_STRINGS) + 256
    if vocab_size < smallest:
        raise ConfigError(f"vocab_size is {vocab_size} tokens; it must be at least {smallest}.")
    bytes_only = Tokenizer.train((), smallest)
    table = json.loads(bytes_only.files()["tokenizer.json"])
    vocabulary = table["model"]["vocab"]
    vocabulary |= {f"Ġ{token}": token for token in range(smallest, vocab_size)}
    return Tokenizer(json.dumps(table, ensure_ascii=False).encode(), bytes_only.settings)
