"""What kernels ask of other processes, as tensors: four functions in C's terms around an ops.packed.Peers."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from time import perf_counter
from typing import Any
from weakref import WeakMethod

import torch
from torch import Tensor

from fathom.layout import Shard
from fathom.layout.rows import bounds
from fathom.ops.cpu import structs
from fathom.ops.packed import Peers


class Exchange:
    """The callbacks of one model, and the struct that names them.

    An exception cannot pass through C: it is kept in `error`, and the forward ends with PEERS_FAILED. spent_s: time in
    which others were asked, the wait for those who come later included [s].
    """

    def __init__(self, peers: Peers, shard: Shard) -> None:
        self.peers = peers
        self.error: BaseException | None = None
        self.spent_s = 0.0
        self._hidden, self._top_k = shard.config.hidden_size, shard.config.num_experts_per_tok
        heads = tuple(head * shard.config.v_head_dim for head in bounds(shard, "heads"))
        divided = [heads, *(bounds(shard, along) for along in ("hidden", "inner", "vocabulary"))]
        arrays = [(ctypes.c_int64 * len(places))(*places) for places in divided]
        self._places = {ctypes.addressof(array): places for array, places in zip(arrays, divided, strict=True)}
        callbacks = (
            structs.COLUMNS(_weak(self._columns)), structs.ROWS(_weak(self._rows)),
            structs.DISPATCH(_weak(self._dispatch)), structs.COMBINE(_weak(self._combine)),
        )  # fmt: skip
        self._held = arrays, callbacks  # what the struct points to
        pointers = [ctypes.cast(array, ctypes.POINTER(ctypes.c_int64)) for array in arrays]
        travels = shard.ep_size > 1
        self.struct = structs.Peers(shard.tp_size, shard.tp_rank, travels, *pointers, *callbacks)

    def _columns(self, rows: int, count: int, stride: int, begin: int) -> int:
        return self._try(lambda: self.peers.columns(_floats(rows, count, stride), self._places[begin]))

    def _rows(self, rows: int, count: int, stride: int) -> int:
        return self._try(lambda: self.peers.rows(_floats(rows, count, stride)[:, : self._hidden]))

    def _dispatch(self, layer: int, rows: int, count: int, stride: int, ids: int, to: Any) -> int:
        def work() -> None:
            came = to.contents
            chosen = _view(ids, count * self._top_k, torch.int64).view(count, self._top_k)
            sent = _floats(rows, count, stride)[:, : self._hidden]
            room = _floats(came.rows, came.most, came.stride)[:, : self._hidden]
            expert, row, came.tokens = self.peers.dispatch(layer, sent, chosen, room)
            came.pairs = len(expert)
            _view(came.expert, came.pairs, torch.int64).copy_(expert)
            _view(came.row, came.pairs, torch.int64).copy_(row)

        return self._try(work)

    def _combine(self, theirs: int, ours: int, stride: int) -> int:
        def work() -> None:
            given, due = self.peers.pairs
            results = _floats(theirs, given, stride)[:, : self._hidden]
            self.peers.combine(results, _floats(ours, due, stride)[:, : self._hidden])

        return self._try(work)

    def begin(self, tokens: int) -> int:
        """As Peers.begin."""
        started_s = perf_counter()
        most = self.peers.begin(tokens)
        self.spent_s += perf_counter() - started_s
        return most

    def _try(self, work: Callable[[], None]) -> int:
        started_s = perf_counter()
        try:
            work()
        except BaseException as error:
            self.error = error
            return 1
        finally:
            self.spent_s += perf_counter() - started_s
        return 0


def _weak(method: Callable[..., int]) -> Callable[..., int]:
    """The method, held by a callback without a cycle: a model that is let go gives its memory back at once."""
    found = WeakMethod(method)

    def call(*arguments: Any) -> int:
        held = found()
        assert held is not None, "who runs a forward holds the exchange"
        return held(*arguments)

    return call


def _view(address: int, count: int, dtype: torch.dtype) -> Tensor:
    """Memory of C's as a tensor."""
    if not count:
        return torch.empty(0, dtype=dtype)
    held = (ctypes.c_char * (count * dtype.itemsize)).from_address(address)
    return torch.frombuffer(held, dtype=dtype)


def _floats(address: int, rows: int, stride: int) -> Tensor:
    return _view(address, rows * stride, torch.float32).view(rows, stride)
