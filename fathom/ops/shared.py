"""Numbers between processes of one host through memory that they share: what gloo does in 100 us takes 5.

room = make_room(size)          one process makes the memory; the others inherit its descriptor
Room(room, size, rank, ...)     each looks at it: gather, exchange
"""

from __future__ import annotations

import ctypes
import mmap
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from fathom.ops.dispatch import library

MOST_RANKS = 64
CAPACITY_BYTES = 1 << 20  # of a desk; longer messages take several turns
SPINS = 20_000  # about half a millisecond, where each process has a core of its own


class _Room(ctypes.Structure):
    """`room` of cpu/shared.c."""

    _fields_ = [
        ("memory", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("size", "rank", "capacity", "timeout_ns", "spins", "turn")),
    ]


def make_room(size: int, capacity: int = CAPACITY_BYTES) -> int | None:
    """The descriptor of memory for `size` processes; it has no name, so nothing stays behind. None without kernels."""
    found = library()
    if found is None or not 2 <= size <= MOST_RANKS:
        return None
    folder = "/dev/shm"  # noqa: S108 - a file without a name
    with tempfile.TemporaryFile(dir=folder if Path(folder).is_dir() else None, buffering=0) as file:
        os.ftruncate(file.fileno(), found.room_bytes(size, capacity))
        return os.dup(file.fileno())


class Room:
    """One process's place in a room.

    Args: timeout_s: the longest that it waits for the others [s]. cores: whether each process has one of its own.
    """

    def __init__(
        self, descriptor: int, size: int, rank: int, timeout_s: float, *, cores: bool, capacity: int = CAPACITY_BYTES
    ) -> None:
        found = library()
        assert found is not None, "a room is made by those who have kernels"
        self._calls = found.rooms
        self.size, self.rank, self.timeout_s = size, rank, timeout_s
        self._memory = mmap.mmap(descriptor, found.room_bytes(size, capacity))
        self._held = (ctypes.c_char * len(self._memory)).from_buffer(self._memory)
        self._room = _Room(
            ctypes.addressof(self._held), size, rank, capacity, int(timeout_s * 1e9), SPINS if cores else 50, 0
        )

    def gather(self, own: Tensor) -> Tensor:
        """Everybody's tensor, by rank [size, ...]. Raises: RuntimeError: somebody did not come."""
        own = own.contiguous()
        out = own.new_empty(self.size, *own.shape)
        self._must(self._calls.gather(self._room, own.data_ptr(), own.nbytes, out.data_ptr()))
        return out

    def exchange(self, to: Tensor, rows: Tensor, incoming: Sequence[int], outgoing: Sequence[int]) -> None:
        """Rows by receiver go out, rows by sender come in, `to` [rows, ...]. Raises: RuntimeError: as `gather`."""
        rows = rows.contiguous()
        into = to if to.is_contiguous() else torch.empty_like(to, memory_format=torch.contiguous_format)
        each = rows[0].nbytes if len(rows) else into[0].nbytes if len(into) else 0
        out, come = ((ctypes.c_int64 * self.size)(*(n * each for n in counts)) for counts in (outgoing, incoming))
        self._must(self._calls.exchange(self._room, rows.data_ptr(), out, into.data_ptr(), come))
        if into is not to:
            to.copy_(into)

    def give_up(self) -> None:
        """Let everybody who waits here, or comes to, hear that it is in vain; from any thread."""
        self._calls.give_up(self._room)

    def _must(self, code: int) -> None:
        if code == 1:
            raise RuntimeError(f"others did not come within {self.timeout_s:g} s")
        if code:
            raise RuntimeError("the group is given up")
