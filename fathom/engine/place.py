"""Where a rank is in its work, for those who ask; and the one place where faults that were asked for happen.

A rank on this host also writes it into a page of memory that its leader sees, who can then tell where a rank was that
is killed or stopped.
"""

from __future__ import annotations

import logging
import mmap
import os
import signal
import struct
import threading
from contextlib import suppress
from tempfile import TemporaryFile
from time import monotonic, sleep

from fathom.batching.plan import Plan
from fathom.config.faults import Chances, Fault
from fathom.engine import orders
from fathom.engine.timeline import Timeline

log = logging.getLogger(__name__)

EXIT_CODE = 70
"""Of a rank that a fault ends in order."""
BOARD_BYTES = 4096
RECORD = struct.Struct("<qqd32s")  # step, layer, begun (time.monotonic, one clock for all of a host), op


class Place:
    """What a rank is doing. Attributes: timeline: what it did before."""

    def __init__(self) -> None:
        self.step = 0
        self.timeline = Timeline()
        self._token_ids: frozenset[int] = frozenset()
        self._board: mmap.mmap | None = None
        self._chances: Chances | None = None
        self._rank = 0
        self._op, self._layer, self._since_s = "start", -1, monotonic()

    def obey(self, order: orders.Load, rank: int) -> None:
        """Where to write it down, and which faults may strike from now on."""
        self._rank = rank
        if order.board is not None:
            self._board = mmap.mmap(order.board, BOARD_BYTES)
            os.close(order.board)
        if order.faults:
            self._chances = Chances(order.faults, rank)

    def begin(self, step: int, plan: Plan) -> None:
        """A step begins, in which this rank executes `plan`."""
        self.step = self.timeline.step = step
        if self._chances is not None:
            self._token_ids = frozenset(token for row in plan.rows for token in row.token_ids)
        self.note("compute")

    def note(self, op: str, layer: int = -1) -> bool:
        """It begins this. Returns: whether to spoil what it sends now; false unless a fault is due."""
        self._op, self._layer, self._since_s = op, layer, monotonic()
        self.timeline.begin(op, layer)
        if self._board is not None:
            RECORD.pack_into(self._board, 0, self.step, layer, self._since_s, op.encode())
        return self.strike(op, layer)

    def strike(self, op: str, layer: int = -1) -> bool:
        """Let faults that are due happen. Returns: whether to spoil what is sent now."""
        if self._chances is None:
            return False
        spoilt = False
        for fault in self._chances.due(op, layer, self.step, self._token_ids):
            log.warning("rank %d: fault: %s at step %d, %s", self._rank, fault.kind, self.step, op)
            spoilt |= suffer(fault)
        return spoilt

    @property
    def at(self) -> orders.At:
        return orders.At(self.step, self._op, self._layer, monotonic() - self._since_s)


def suffer(fault: Fault) -> bool:
    """Let it happen to this process. Returns: whether what is sent is to be spoilt."""
    match fault.kind:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "exit":
            os._exit(EXIT_CODE)
        case "raise":
            raise RuntimeError(f"fault: {fault}")
        case "memory":
            raise MemoryError(f"fault: {fault}")
        case "delay":
            sleep(fault.delay_s)
        case "drop":  # what follows on a stream cannot arrive before what is lost
            threading.Event().wait()
    return fault.kind == "corrupt"


class Board:
    """The page on which a rank of this host says where it is. Attributes: file: to be inherited by the rank."""

    def __init__(self) -> None:
        with TemporaryFile() as unnamed:
            self.file = os.dup(unnamed.fileno())
        os.ftruncate(self.file, BOARD_BYTES)
        self._page = mmap.mmap(self.file, BOARD_BYTES)

    @property
    def at(self) -> orders.At | None:
        """Where it was last; None if it never said."""
        try:
            step, layer, since_s, op = RECORD.unpack_from(self._page)
        except ValueError:  # closed
            return None
        name = op.rstrip(b"\0").decode(errors="replace")
        return orders.At(step, name, layer, monotonic() - since_s) if name else None

    def close(self) -> None:
        with suppress(OSError):
            os.close(self.file)
        self._page.close()
