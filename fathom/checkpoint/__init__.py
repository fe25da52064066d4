"""Weights and training state on disk: sharded safetensors in and out, by slice, atomically.

Nothing here knows the model: names, shapes and dtypes come from a module's `state_dict()`, the file, or cost.
Must not import fathom.model, fathom.parallel or fathom.tokenizer. No pickle: a file is data, never code.
Read first: reader.py (what a file must be), then load.py (file -> module), writer.py (atomic save), state.py (resume),
packed.py (weights as the kernels read them).
"""

from fathom.checkpoint.fp8 import dequantize_fp8, quantize_fp8
from fathom.checkpoint.load import load_weights, mtp_layers
from fathom.checkpoint.pack import convert_packed, write_packed
from fathom.checkpoint.packed import load_packed, pack_state, refill, unpacked
from fathom.checkpoint.random import Drawn, random_sources
from fathom.checkpoint.reader import Reader, TensorInfo
from fathom.checkpoint.state import load_latest, save_state
from fathom.checkpoint.writer import Source, save_weights, verify_manifest, write_weights

__all__ = [
    "Drawn",
    "Reader",
    "Source",
    "TensorInfo",
    "convert_packed",
    "dequantize_fp8",
    "load_latest",
    "load_packed",
    "load_weights",
    "mtp_layers",
    "pack_state",
    "quantize_fp8",
    "random_sources",
    "refill",
    "save_state",
    "save_weights",
    "unpacked",
    "verify_manifest",
    "write_packed",
    "write_weights",
]
