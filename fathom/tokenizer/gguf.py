"""A vocabulary in the words of GGUF files, which llama.cpp and its family read."""

from __future__ import annotations

import json
import re

from fathom.errors import ConfigError
from fathom.tokenizer.bpe import Tokenizer
from fathom.tokenizer.encodings import BOS
from fathom.tokenizer.split import digits_of

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # tokenizer.ggml.token_type


def gguf_vocabulary(tokenizer: Tokenizer, vocab_size: int) -> dict[str, str | int | bool | list[str] | list[int]]:
    """The `tokenizer.` keys of a model with `vocab_size` rows of embedding; rows without a token are marked unused.

    Raises: ConfigError: the tokenizer does not split text as DeepSeek-V3 does, or has more tokens than rows.
    """
    table = json.loads(tokenizer.files()["tokenizer.json"])
    digits = digits_of(table)
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in table["model"].get("merges", ())]
    # llama.cpp has one pattern, for digits by threes; shorter runs come out of it too if no merge joins more of them.
    longer = re.compile(f"[0-9]{{{(digits or 0) + 1}}}")
    if digits is None or any(longer.search(pair.replace(" ", "")) for pair in merges):
        raise ConfigError("tokenizer.json does not split text as DeepSeek-V3's; llama.cpp would read other tokens.")
    if tokenizer.vocab_size > vocab_size:
        raise ConfigError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, the model {vocab_size}; they do not match."
        )
    added = {token["id"] for token in table["added_tokens"]}
    controls = set(tokenizer.special.values())
    tokens, kinds = [], []
    for token_id in range(vocab_size):
        token = tokenizer.id_to_token(token_id)
        tokens.append(f"[PAD{token_id}]" if token is None else token)
        given = USER_DEFINED if token_id in added else NORMAL
        kinds.append(UNUSED if token is None else CONTROL if token_id in controls else given)
    keys: dict[str, str | int | bool | list[str] | list[int]] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "deepseek-v3",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": kinds,
        # It refuses a vocabulary without merges; this one can never apply.
        "tokenizer.ggml.merges": merges or [f"{BOS} {BOS}"],
        "tokenizer.ggml.add_bos_token": tokenizer.bos_id is not None,
    }
    named = {"bos": tokenizer.bos_id, "eos": tokenizer.eos_id, "padding": tokenizer.pad_id}
    keys |= {f"tokenizer.ggml.{name}_token_id": token_id for name, token_id in named.items() if token_id is not None}
    if template := tokenizer.settings.get("chat_template"):
        keys["tokenizer.chat_template"] = template
    return keys
