"""A page of the latent cache as bytes: what lies in a slot of a file, and what travels to another engine."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from fathom.model import LatentCache


class PageBytes:
    """One buffer for the pages of one cache: all layers' latents, then all layers' rotated keys.

    `bytes` is the buffer [page_bytes]; `load` fills it from a page, `store` fills a page from it. Not thread-safe: who
    works beside another takes a buffer of its own.
    """

    def __init__(self, cache: LatentCache) -> None:
        self.cache = cache
        self._page = torch.empty(cache.page_bytes, dtype=torch.uint8)
        self.bytes: memoryview = self._page.numpy().data

    def load(self, page: int) -> None:
        for part, kept in self._parts(page):
            kept.copy_(part)

    def store(self, page: int) -> None:
        for part, kept in self._parts(page):
            part.copy_(kept)

    def _parts(self, page: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Each tensor of the cache at `page`, with the part of the buffer that stands for it."""
        begin = 0
        for part in self.cache.page(page):
            end = begin + part.numel() * part.element_size()
            yield part, self._page[begin:end].view(part.dtype).view(part.shape)
            begin = end


class PageLayers:
    """The layers of pages that one cache holds, where a whole page may have more: those of a stage of a pipeline.

    Args: first: where they begin in the whole page, of `layers`.
    """

    def __init__(self, cache: LatentCache, first: int, layers: int) -> None:
        self._cache, self._first, self._layers = cache, first, layers
        latent, rope = cache.page(0)
        self._sizes = latent[0].nbytes, rope[0].nbytes

    @property
    def page_bytes(self) -> int:
        """Of a whole page."""
        return sum(self._sizes) * self._layers

    def take(self, page: int) -> tuple[bytes, bytes]:
        """Their latents and their rotated keys. From any thread, as long as nobody writes into the page."""
        buffer = PageBytes(self._cache)
        buffer.load(page)
        cut = self._sizes[0] * len(self._cache.latent)
        return bytes(buffer.bytes[:cut]), bytes(buffer.bytes[cut:])

    def put(self, page: int, content: bytes) -> None:
        """Fill them from a whole page."""
        buffer, count, begin, parts = PageBytes(self._cache), len(self._cache.latent), 0, []
        for size in self._sizes:
            parts.append(content[begin + self._first * size : begin + (self._first + count) * size])
            begin += size * self._layers
        buffer.bytes[:] = b"".join(parts)
        buffer.store(page)
