"""Pages that leave this engine for another one, and pages that come from there.

A full page is named by all tokens up to its end (batching/pages.py), so a page from elsewhere is just one that a later
request finds in its prefix cache. Whatever goes wrong, a page that is missing is computed: no text depends on it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from fathom.batching.pages import PageFormat, page_names, root_hash
from fathom.engine.machine import kind
from fathom.engine.pagebytes import PageBytes
from fathom.engine.replay import config_digest, probe
from fathom.errors import ConfigError, EngineError
from fathom.model import LatentCache, Model

if TYPE_CHECKING:
    from fathom.engine.engine import Engine


def page_format(model: Model, cache: LatentCache) -> PageFormat:
    """What the bytes of this cache's pages mean. It takes a forward of a few tokens."""
    return PageFormat(
        config=config_digest(model.config),
        probe=probe(model),
        kind=kind(model),
        numerics=model.numerics,
        dtype=str(cache.latent.dtype).removeprefix("torch."),
        layers=len(cache.latent),
        page_tokens=cache.page_tokens,
        page_bytes=cache.page_bytes,
    )


class PageStore:
    """An engine's pages by name. For the engine's own thread, between its steps; `read` and `form` for any thread.

    Raises: ConfigError: the engine keeps a step log, whose replay would not know pages from elsewhere.
    """

    def __init__(self, engine: Engine) -> None:
        if engine.config.record:
            raise ConfigError(
                f"record is {engine.config.record}; an engine that keeps a step log cannot take pages from others."
            )
        self._engine = engine
        self._tables, self._pool = engine.scheduler.tables, engine.scheduler.pool
        self._arriving = PageBytes(engine.cache)
        self.exported = self.imported = 0

    @cached_property
    def form(self) -> PageFormat:
        return page_format(self._engine.model, self._engine.cache)

    @property
    def num_pages(self) -> int:
        return self._pool.num_pages

    @property
    def room(self) -> int:
        """Pages that can be taken in without driving out what was taken in before."""
        return self._pool.available

    @property
    def starving(self) -> bool:
        """Whether requests cannot begin although none runs: pages held for others are what they lack."""
        return self._engine.scheduler.starved

    def names(self, token_ids: Sequence[int], salt: str = "") -> list[bytes]:
        """Names of the full pages of a text; none if it holds what is no token."""
        try:
            return page_names(token_ids, self._tables.page_tokens, root_hash(salt, self._tables.numerics))
        except struct.error:
            return []  # the engine refuses it, and says why

    def missing(self, names: Iterable[bytes]) -> list[bytes]:
        """Those that lie neither in memory nor in a file."""
        return [name for name in names if not self._pool.match((name,)) and name not in self._tables.spill]

    def hold(self, names: Sequence[bytes]) -> tuple[int, ...]:
        """The pages of the longest prefix of `names` in memory, held until `release`: nobody writes into them."""
        pages = self._pool.match(names)
        self._pool.hold(pages)
        return tuple(pages)

    def release(self, pages: Sequence[int]) -> None:
        self._pool.release(pages)

    def read(self, page: int) -> bytes:
        """The content of a page [page_bytes]. What it is worth is for the caller to know: is the page still held?"""
        buffer = PageBytes(self._engine.cache)
        buffer.load(page)
        self.exported += 1
        return bytes(buffer.bytes)

    def take_in(self, name: bytes, content: bytes) -> bool:
        """Publish a page from elsewhere, for whoever asks for its name next; False: there is no room.

        Raises: EngineError: it is not the size of a page; nothing was copied.
        """
        if len(content) != self.form.page_bytes:
            raise EngineError(f"the page has {len(content)} bytes; it must have {self.form.page_bytes}.")
        if self._pool.match((name,)):
            return True
        if not self._pool.available:
            return False
        answered = not (self._tables.spills or self._tables.moved)
        page = self._pool.allocate()
        if answered:  # else the failed plan's moves are undone anyway, this one with them
            self._engine.runner.write_spills(self._tables.spills, self._tables.spill_names)
            self._tables.settle()
        self._arriving.bytes[:] = content
        self._arriving.store(page)
        self._tables.offer(page, name)
        self._pool.release((page,))
        self.imported += 1
        return True

    def refresh(self, names: Sequence[bytes]) -> None:
        """Have this prefix count as used just now, its first pages last: they are of use to the most."""
        self.release(self.hold(names))
