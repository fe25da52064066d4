"""kernels.h, field by field, for ctypes. Whoever changes a struct changes both and raises ABI_VERSION."""

from __future__ import annotations

import ctypes
from typing import Any

ABI_VERSION = 5  # select.c holds the same number

_P, _L, _F = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
_I = ctypes.c_int


class Matrix(ctypes.Structure):
    _fields_ = [(name, _L) for name in ("kind", "rows", "columns", "group")] + [("data", _P), ("scale", _P)]


class Mlp(ctypes.Structure):
    _fields_ = [(name, Matrix) for name in ("gate", "up", "down")]


class Layer(ctypes.Structure):
    _fields_ = [
        *((name, _P) for name in ("input_norm", "q_norm", "kv_norm", "post_norm")),
        *((name, Matrix) for name in ("q_a", "kv_a", "o")),
        *((name, ctypes.POINTER(Matrix)) for name in ("q_b", "k_b", "v_b")),
        ("router", Matrix), ("bias", _P), ("experts", ctypes.POINTER(Mlp)), ("shared", Mlp),
        *((name, _P) for name in ("embedding_norm", "hidden_norm", "last_norm")),
        ("join", Matrix),
    ]  # fmt: skip


class Arrivals(ctypes.Structure):
    _fields_ = [
        ("rows", _P), ("stride", _L), ("most", _L), ("expert", _P), ("row", _P), ("tokens", _L), ("pairs", _L)
    ]  # fmt: skip


COLUMNS = ctypes.CFUNCTYPE(_I, _P, _L, _L, _P)
ROWS = ctypes.CFUNCTYPE(_I, _P, _L, _L)
DISPATCH = ctypes.CFUNCTYPE(_I, _L, _P, _L, _L, _P, ctypes.POINTER(Arrivals))
COMBINE = ctypes.CFUNCTYPE(_I, _P, _P, _L)


class Peers(ctypes.Structure):
    _fields_ = [
        *((name, _L) for name in ("size", "rank", "travels")),
        *((name, ctypes.POINTER(_L)) for name in ("heads", "hidden", "inner", "vocabulary")),
        ("columns", COLUMNS), ("rows", ROWS), ("dispatch", DISPATCH), ("combine", COMBINE),
    ]  # fmt: skip


class Model(ctypes.Structure):
    _fields_ = [
        *((name, _L) for name in (
            "hidden", "heads", "nope", "rope", "value", "latent", "q_rank", "vocabulary", "layers", "modules",
            "begins", "ends", "all_heads", "experts", "held", "top_k", "groups", "top_groups", "best_two", "softmax",
            "normalise",
            "inner", "expert_inner", "table_positions", "embedding_kind",
        )),
        *((name, _F) for name in ("scaling", "eps", "scale")),
        ("layer", ctypes.POINTER(Layer)),
        *((name, _P) for name in ("embedding", "cosines", "sines", "last_norm")),
        ("head", Matrix), ("peers", ctypes.POINTER(Peers)),
    ]  # fmt: skip


class Cache(ctypes.Structure):
    _fields_ = [("latent", _P), ("rope", _P), ("kind", _L), ("pages", _L), ("page_tokens", _L)]


class Batch(ctypes.Structure):
    _fields_ = [
        *((name, _L) for name in ("tokens", "sequences", "table")),
        *((name, _P) for name in ("positions", "lengths", "pages")),
    ]


class Call(ctypes.Structure):
    _fields_ = [("module", _L), *((name, _P) for name in ("ids", "before", "hidden", "chosen")), ("asked", _L),
        *((name, _P) for name in ("rows", "logits", "best", "highest")), ("arrivals", _L),
    ]  # fmt: skip


SIGNATURES: dict[str, Any] = {  # name -> result and arguments, in the order of `kernels` in kernels.h
    "space": (_L, ctypes.POINTER(Model), _L, _L, _L),
    "forward": (_I, ctypes.POINTER(Model), ctypes.POINTER(Cache), ctypes.POINTER(Batch), ctypes.POINTER(Call), _P, _P),
    "draft": (_I, *map(ctypes.POINTER, (Model, Cache, Batch, Call, Batch, Call)), _L, _P, _P),
    "logits": (_I, ctypes.POINTER(Model), _P, _L, _P, _P, _P),
    "product": (_I, ctypes.POINTER(Matrix), _P, _L, _P, _P),
}


class Kernels(ctypes.Structure):
    """A variant's name and its functions. Calls release the GIL."""

    _fields_ = [("name", ctypes.c_char_p), *((name, ctypes.CFUNCTYPE(*types)) for name, types in SIGNATURES.items())]
