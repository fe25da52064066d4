"""Text <-> token ids: byte-level BPE by the `tokenizers` library, a streaming decoder, DeepSeek's chat encodings.

Must not import torch, transformers or any room above config: the server's front process imports this.
Read first: bpe.py (Tokenizer), then encodings.py and chat.py (a conversation as tokens).
"""

from fathom.tokenizer.bpe import Tokenizer
from fathom.tokenizer.chat import encode_chat, render_chat
from fathom.tokenizer.encodings import ENCODINGS
from fathom.tokenizer.gguf import gguf_vocabulary
from fathom.tokenizer.placeholder import placeholder
from fathom.tokenizer.stream import StreamDecoder

__all__ = ["ENCODINGS", "StreamDecoder", "Tokenizer", "encode_chat", "gguf_vocabulary", "placeholder", "render_chat"]
