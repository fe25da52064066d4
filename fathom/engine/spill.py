"""A file of pages beside the memory, one page to a slot, all its layers in one piece.

SpillFile is for one process: it loses its name as soon as it is open, so that what users wrote never outlives the
process, however that ends. engine/kept.py has the kind that a later process finds again. Either way a page that does
not come back as it was written is lost, never used: the digest of each slot stays in memory.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from io import FileIO
from pathlib import Path

from fathom.batching.pages import content_digest
from fathom.engine.pagebytes import PageBytes
from fathom.errors import ConfigError, EngineError
from fathom.model import LatentCache

log = logging.getLogger(__name__)


class LostPages(EngineError):
    """Slots of the spill file could not be read back; the plan that reads them is void."""

    def __init__(self, slots: Iterable[int]) -> None:
        self.slots = tuple(slots)
        super().__init__(f"slots {self.slots} of the spill file are damaged; their pages must be computed again.")


class SpillFile:
    """Slots for the pages of one cache.

    Args:   path: a name that is still free, in a directory of a fast disk. num_bytes: the most the file may hold.
    Raises: ConfigError: the file cannot be made, or holds no page.
    """

    key = b""  # of the format of its pages: this process has only one

    def __init__(self, path: str | Path, num_bytes: int, cache: LatentCache) -> None:
        self._set_up(num_bytes, cache)
        try:
            self._file: FileIO = open(path, "x+b", buffering=0, opener=private)  # noqa: SIM115 - lasts as we do
            os.unlink(path)
        except FileExistsError as error:
            raise ConfigError(
                f"spill_path is {path}, which exists; name a new file, it is made and removed."
            ) from error
        except OSError as error:
            raise ConfigError(f"spill_path is {path}, which cannot be made ({error.strerror}).") from error

    def _set_up(self, num_bytes: int, cache: LatentCache) -> None:
        self.page_bytes = cache.page_bytes
        self.num_slots = num_bytes // self.page_bytes
        if self.num_slots < 1:
            raise ConfigError(f"spill_bytes is {num_bytes}; it must be at least {self.page_bytes}, one page.")
        self._written: dict[int, tuple[bytes, bytes]] = {}  # slot -> name and digest
        self._page = PageBytes(cache)

    def kept(self) -> list[tuple[int, bytes]]:
        """(slot, name) of what is found from an earlier process, the least recently used first."""
        return []

    def write(self, page: int, slot: int, name: bytes = b"") -> None:
        """Keep a page. If the disk fails the slot is damaged, which is found out when it is read."""
        self._page.load(page)
        record = (name, content_digest(self.key, name, self._page.bytes))
        self._written[slot] = record
        try:
            if os.pwrite(self._file.fileno(), self._page.bytes, slot * self.page_bytes) == self.page_bytes:
                self._note(slot, *record)
                return
        except OSError as error:
            log.warning("spill file: slot %d cannot be written (%s)", slot, error.strerror)
        del self._written[slot]

    def read(self, slot: int, page: int) -> bool:
        """Bring a page back; False, and the page untouched, if it is not what was written."""
        try:
            count = os.preadv(self._file.fileno(), [self._page.bytes], slot * self.page_bytes)
        except OSError as error:
            log.warning("spill file: slot %d cannot be read (%s)", slot, error.strerror)
            return False
        name, digest = self._written.get(slot, (b"", b""))
        if count != self.page_bytes or content_digest(self.key, name, self._page.bytes) != digest:
            log.warning("spill file: slot %d does not hold what was written; its page is computed again", slot)
            return False
        self._page.store(page)
        self._note(slot, name, digest)
        return True

    def _note(self, slot: int, name: bytes, digest: bytes) -> None:
        """A slot was written or read, both in full. Nobody else needs to know."""


def private(path: str, flags: int) -> int:
    """Open a file that only its owner may read."""
    return os.open(path, flags, 0o600)
