"""The spill file: pages of latents that had to leave memory, one to a slot, all layers of a page in one piece.

The file loses its name as soon as it is open, so that what users wrote never outlives the process, however that ends.
A slot's SHA-256 stays in memory: a page that does not come back as it was written is lost, never used.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor

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

    def __init__(self, path: str | Path, num_bytes: int, cache: LatentCache) -> None:
        self.cache = cache
        self.page_bytes = cache.page_bytes
        self.num_slots = num_bytes // self.page_bytes
        if self.num_slots < 1:
            raise ConfigError(f"spill_bytes is {num_bytes}; it must be at least {self.page_bytes}, one page.")
        try:
            self._file = open(path, "x+b", buffering=0, opener=_private)  # noqa: SIM115 - as long as this object
            os.unlink(path)
        except FileExistsError as error:
            raise ConfigError(
                f"spill_path is {path}, which exists; name a new file, it is made and removed."
            ) from error
        except OSError as error:
            raise ConfigError(f"spill_path is {path}, which cannot be made ({error.strerror}).") from error
        self._digests: dict[int, bytes] = {}
        self._page = torch.empty(self.page_bytes, dtype=torch.uint8)
        self._bytes = self._page.numpy().data

    def write(self, page: int, slot: int) -> None:
        """Keep a page. If the disk fails the slot is damaged, which is found out when it is read."""
        for part, kept in self._parts(page):
            kept.copy_(part)
        self._digests[slot] = sha256(self._bytes).digest()
        try:
            written = os.pwrite(self._file.fileno(), self._bytes, slot * self.page_bytes)
        except OSError as error:
            log.warning("spill file: slot %d cannot be written (%s)", slot, error.strerror)
            written = 0
        if written != self.page_bytes:
            del self._digests[slot]

    def read(self, slot: int, page: int) -> bool:
        """Bring a page back; False, and the page untouched, if it is not what was written."""
        try:
            count = os.preadv(self._file.fileno(), [self._bytes], slot * self.page_bytes)
        except OSError as error:
            log.warning("spill file: slot %d cannot be read (%s)", slot, error.strerror)
            return False
        if count != self.page_bytes or sha256(self._bytes).digest() != self._digests.get(slot):
            log.warning("spill file: slot %d does not hold what was written; its page is computed again", slot)
            return False
        for part, kept in self._parts(page):
            part.copy_(kept)
        return True

    def _parts(self, page: int) -> Iterable[tuple[Tensor, Tensor]]:
        """Each tensor of the cache at `page`, with the part of the buffer that stands for it."""
        begin = 0
        for part in self.cache.page(page):
            end = begin + part.numel() * part.element_size()
            yield part, self._page[begin:end].view(part.dtype).view(part.shape)
            begin = end


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
