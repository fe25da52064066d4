"""Pages that leave this engine for another one, and pages that come from there.

A full page is named by all tokens up to its end (batching/pages.py), so a page from elsewhere is just one that a later
request finds in its prefix cache. Whatever goes wrong, a page that is missing is computed: no text depends on it.
"""

from __future__ import annotations

from fathom.batching.pages import PageFormat
from fathom.engine.machine import kind
from fathom.engine.replay import config_digest, probe
from fathom.model import LatentCache, Model


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
