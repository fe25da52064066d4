"""A folder of pages that outlives the process: what was computed once is found again after a restart.

    CACHE_DIR/<format>-<n>/pages    slots, as SpillFile has them
                           index    slot i: name and digest of its page, and when it was last used
                           about.json   the format in words

<format> stands for weights, arithmetic and the shape of a page, so another model's pages lie in another folder. The
digest covers it too, and the page's name: a record and a page that do not belong together, for whatever reason (half
written, torn by a power cut, copied from elsewhere), give a digest that differs, and the page is computed again. So
nothing is ever synced to the disk, and no order of writes matters.

A process locks the folder it uses; a second one with the same CACHE_DIR takes the next n. The files can be read by
their owner only. They hold latents of what users wrote, unencrypted: remove the folder to forget it.
"""

from __future__ import annotations

import fcntl
import logging
import os
from pathlib import Path
from struct import Struct

import msgspec

from fathom.batching.pages import PageFormat
from fathom.engine.spill import SpillFile, private
from fathom.errors import ConfigError
from fathom.model import LatentCache

log = logging.getLogger(__name__)

RECORD = Struct("<32s32sQ")  # name, digest, turn: counts uses, 0 for a slot that was never used
MAX_FOLDERS = 64  # processes that may share one CACHE_DIR


class KeptFile(SpillFile):
    """Slots for the pages of one cache that the next process with the same model finds again.

    Args:   directory: made if need be. num_bytes: the most that the pages of this process may take on the disk; what
            lies beyond is cut off.
    Raises: ConfigError: it cannot be used, or holds no page.
    """

    def __init__(self, directory: str | Path, num_bytes: int, cache: LatentCache, form: PageFormat) -> None:
        self._set_up(num_bytes, cache)
        self.key = form.key
        try:
            self.folder, self._index = _claim(Path(directory), form.key.hex()[:16])
            self._file = open(self.folder / "pages", "r+b", buffering=0, opener=_made)  # noqa: SIM115
            (self.folder / "about.json").write_bytes(msgspec.json.format(msgspec.json.encode(form)))
            self._kept = self._read_index()
        except OSError as error:
            raise ConfigError(
                f"cache_dir is {directory}, which cannot be used ({error.strerror}); name a folder on a local disk."
            ) from error
        log.info("cache folder %s: %d pages from before", self.folder, len(self._kept))

    def kept(self) -> list[tuple[int, bytes]]:
        return self._kept

    def close(self) -> None:
        """Let another process have the folder."""
        os.close(self._index)
        self._file.close()

    def _read_index(self) -> list[tuple[int, bytes]]:
        """What the folder holds, the least recently used first; not more than may lie in it now."""
        for descriptor, most in ((self._index, RECORD.size), (self._file.fileno(), self.page_bytes)):
            if os.fstat(descriptor).st_size > self.num_slots * most:
                os.truncate(descriptor, self.num_slots * most)
        size = os.fstat(self._index).st_size
        records = os.pread(self._index, size - size % RECORD.size, 0)
        found = [(turn, slot, name, digest) for slot, (name, digest, turn) in enumerate(RECORD.iter_unpack(records))]
        used = sorted(each for each in found if each[0])
        self._turn = used[-1][0] if used else 0
        self._written = {slot: (name, digest) for _, slot, name, digest in used}
        return [(slot, name) for _, slot, name, _ in used]

    def _note(self, slot: int, name: bytes, digest: bytes) -> None:
        self._turn += 1
        try:
            os.pwrite(self._index, RECORD.pack(name, digest, self._turn), slot * RECORD.size)
        except OSError as error:
            log.warning("cache folder: the record of slot %d cannot be written (%s)", slot, error.strerror)


def _claim(directory: Path, name: str) -> tuple[Path, int]:
    """A folder for this process alone, and its open index, whose lock ends with the process."""
    for number in range(MAX_FOLDERS):
        folder = directory / f"{name}-{number}"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        index = os.open(folder / "index", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(index, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(index)
            continue
        return folder, index
    raise ConfigError(f"cache_dir is {directory}, which {MAX_FOLDERS} processes use already; name another folder.")


def _made(path: str, flags: int) -> int:
    return private(path, flags | os.O_CREAT)
