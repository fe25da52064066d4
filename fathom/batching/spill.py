"""Which content lies in which slot of a file: pages evicted from memory, or kept from it, to be found again by name.

Bookkeeping only; the bytes are engine/spill.py's. A slot's content counts from the moment its writing is planned, and
is forgotten again should that plan go unanswered (`cancel`). The slot unused for longest is given away, but never one
that the same plan reads. Every operation takes constant time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from fathom.errors import ConfigError


class SpillIndex:
    """Names and slots of a file. Without slots it finds nothing and takes nothing."""

    def __init__(self, num_slots: int = 0) -> None:
        if num_slots < 0:
            raise ConfigError(f"spill_slots is {num_slots}; it must be at least 0.")
        self.spilled = 0
        self.restored = 0
        self.lost = 0
        self._num_slots = num_slots
        self._begun = 0  # slots from here on were never used: a file may have more of them than a list should
        self._free: list[int] = []
        self._slot_of: OrderedDict[bytes, int] = OrderedDict()  # least recently used first
        self._name_of: dict[int, bytes] = {}
        self._written: list[int] = []  # by the plan under way
        self._read: set[int] = set()

    def __len__(self) -> int:
        return len(self._slot_of)

    def __contains__(self, name: bytes) -> bool:
        return name in self._slot_of

    def write(self, name: bytes) -> int | None:
        """The slot to write `name` into; None if it lies there already, or no slot can be given away now."""
        if name in self._slot_of:
            self._slot_of.move_to_end(name)
            return None
        if self._free:
            slot = self._free.pop()
        elif self._begun < self._num_slots:
            slot, self._begun = self._begun, self._begun + 1
        elif self._slot_of and next(iter(self._slot_of.values())) not in self._read:
            # reading makes a slot the most recent: if the first is read by this plan, this plan has used all others
            _, slot = self._slot_of.popitem(last=False)
        else:
            return None
        self._slot_of[name] = slot
        self._name_of[slot] = name
        self._written.append(slot)
        return slot

    def read(self, name: bytes) -> int:
        """The slot to read `name` from, which it is known to be in; the content stays there."""
        slot = self._slot_of[name]
        self._slot_of.move_to_end(name)
        self._read.add(slot)
        return slot

    def adopt(self, kept: Iterable[tuple[int, bytes]]) -> None:
        """Begin with what a file holds from before: (slot, name), the least recently used first."""
        for slot, name in kept:
            old = self._slot_of.pop(name, None)
            if old is not None:
                del self._name_of[old]
            self._slot_of[name] = slot
            self._name_of[slot] = name
        self._begun = max(self._name_of, default=-1) + 1
        self._free = [slot for slot in range(self._begun) if slot not in self._name_of]

    def settle(self) -> None:
        """The plan was executed."""
        self.spilled += len(self._written)
        self.restored += len(self._read)
        self._written, self._read = [], set()

    def cancel(self) -> None:
        """The plan was perhaps not executed: what it wrote is not to be relied upon."""
        self._forget(self._written)
        self._written, self._read = [], set()

    def lose(self, slots: Iterable[int]) -> None:
        """These slots could not be read back."""
        self.lost += self._forget(slots)

    def _forget(self, slots: Iterable[int]) -> int:
        known = [slot for slot in set(slots) if slot in self._name_of]
        for slot in known:
            del self._slot_of[self._name_of.pop(slot)]
            self._free.append(slot)
        return len(known)
