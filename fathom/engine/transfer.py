"""Pages that leave this engine for another one, and pages that come from there.

A full page is named by all tokens up to its end (batching/pages.py), so a page from elsewhere is just one that a later
request finds in its prefix cache. Whatever goes wrong, a page that is missing is computed: no text depends on it.

Content is that of a single process, also where a crew divides it, so that layouts can differ on both sides. Each lane
of a crew has pages and names of its own; here they are numbered through, lane after lane.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from fathom.batching.pages import PageFormat, page_names, root_hash
from fathom.batching.request import Request
from fathom.engine.machine import kind
from fathom.engine.pagebytes import PageBytes
from fathom.engine.replay import config_digest, probe
from fathom.errors import ConfigError, EngineError
from fathom.model import LatentCache, Model

if TYPE_CHECKING:
    from fathom.engine.crew import Crew
    from fathom.engine.engine import Engine


def page_format(model: Model, cache: LatentCache) -> PageFormat:
    """What the bytes of this cache's pages mean. It takes a forward of a few tokens."""
    return _format(model, cache, probe(model), len(cache.latent), cache.page_bytes)


def crew_format(crew: Crew, cache: LatentCache, *, mtp: bool) -> PageFormat:
    """The same for pages over all layers, of which the leader's cache may have some only."""
    config = crew.model.config
    layers = config.num_hidden_layers + (config.num_nextn_predict_layers if mtp else 0)
    return _format(crew.model, cache, crew.probe(), layers, cache.page_bytes // len(cache.latent) * layers)


def _format(model: Model, cache: LatentCache, digest: str, layers: int, page_bytes: int) -> PageFormat:
    return PageFormat(
        config=config_digest(model.config),
        probe=digest,
        kind=kind(model),
        numerics=model.numerics,
        dtype=str(cache.latent.dtype).removeprefix("torch."),
        layers=layers,
        page_tokens=cache.page_tokens,
        page_bytes=page_bytes,
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
        self._engine, self._lanes = engine, engine.lanes
        self._tables = [lane.scheduler.tables for lane in engine.lanes.lanes]
        self._each = self._tables[0].pool.num_pages
        self._crew_pages = None if engine.crew is None else engine.crew.pages
        self._arriving = PageBytes(engine.cache)
        self.exported = self.imported = 0

    @cached_property
    def form(self) -> PageFormat:
        engine = self._engine
        if engine.crew is not None:
            return crew_format(engine.crew, engine.cache, mtp=engine.mtp)
        return page_format(engine.model, engine.cache)

    @property
    def num_pages(self) -> int:
        return self._each * len(self._tables)

    @property
    def room(self) -> int:
        """Pages that can be taken in, in any lane, without driving out what was taken in before."""
        return min(tables.pool.available for tables in self._tables)

    @property
    def starving(self) -> bool:
        """Whether requests cannot begin although none runs: pages held for others are what they lack."""
        return any(lane.scheduler.starved for lane in self._lanes.lanes)

    def place(self, request: Request) -> int:
        """Where the pages of a request are to lie, until it is added or forgotten."""
        return self._lanes.reserve(request)

    def forget(self, request_id: str) -> None:
        """It is not going to be added."""
        self._lanes.forget(request_id)

    def names(self, token_ids: Sequence[int], salt: str = "") -> list[bytes]:
        """Names of the full pages of a text; none if it holds what is no token."""
        try:
            return page_names(token_ids, self._tables[0].page_tokens, root_hash(salt, self._tables[0].numerics))
        except struct.error:
            return []  # the engine refuses it, and says why

    def missing(self, names: Iterable[bytes], place: int = 0) -> list[bytes]:
        """Those that lie neither in memory nor in a file."""
        tables = self._tables[place]
        return [name for name in names if not tables.pool.match((name,)) and name not in tables.spill]

    def hold(self, names: Sequence[bytes]) -> tuple[int, ...]:
        """The pages of the longest prefix of `names` in memory, held until `release`: nobody writes into them."""
        found = [tables.pool.match(names) for tables in self._tables]
        lane = max(range(len(found)), key=lambda lane: len(found[lane]))
        self._tables[lane].pool.hold(found[lane])
        return tuple(lane * self._each + page for page in found[lane])

    def release(self, pages: Sequence[int]) -> None:
        for page in pages:
            self._tables[page // self._each].pool.release((page % self._each,))

    def read(self, page: int) -> bytes:
        """The content of a page [page_bytes]. What it is worth is for the caller to know: is the page still held?

        Raises: WorkerError: a rank of the crew does not answer.
        """
        lane, page = divmod(page, self._each)
        self.exported += 1
        if self._crew_pages is not None:
            return self._crew_pages.read(lane, page)
        buffer = PageBytes(self._engine.cache)
        buffer.load(page)
        return bytes(buffer.bytes)

    def take_in(self, name: bytes, content: bytes, place: int = 0) -> bool:
        """Publish a page from elsewhere, for whoever asks for its name next; False: there is no room.

        Raises: EngineError: it is not the size of a page; nothing was copied.
        """
        if len(content) != self.form.page_bytes:
            raise EngineError(f"the page has {len(content)} bytes; it must have {self.form.page_bytes}.")
        tables = self._tables[place]
        if tables.pool.match((name,)):
            return True
        if not tables.pool.available:
            return False
        answered = not (tables.spills or tables.moved)
        page = tables.pool.allocate()
        if answered:  # else the failed plan's moves are undone anyway, this one with them
            self._engine.runner.write_spills(tables.spills, tables.spill_names)
            tables.settle()
        if self._crew_pages is not None:
            self._crew_pages.write(place, page, content)
        else:
            self._arriving.bytes[:] = content
            self._arriving.store(page)
        tables.offer(page, name)
        tables.pool.release((page,))
        self.imported += 1
        return True

    def refresh(self, names: Sequence[bytes]) -> None:
        """Have this prefix count as used just now, its first pages last: they are of use to the most."""
        self.release(self.hold(names))
