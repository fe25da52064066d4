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
