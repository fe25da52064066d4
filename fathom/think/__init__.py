"""Test-time compute: budgets, samples and votes, the best of several, revision; what it costs, and what it brings.

    steering.py   how much a reply may think, and how it is told          votes.py     who wins, and when that is sure
    account.py    tokens, seconds, FLOPs, latents held, money             thinker.py   all of it over an LLM

The first three are plain Python, for the front of the server too. Drives an Engine; must not import serve, plan or
posttrain. Read first: thinker.py, evaluate.py.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fathom.think.account import Account, Prices
    from fathom.think.thinker import Outcome, Thinker
    from fathom.think.votes import Best, Vote, normalised

__all__ = ["Account", "Best", "Outcome", "Prices", "Thinker", "Vote", "normalised"]

_HOMES = {"Account": "account", "Prices": "account", "Outcome": "thinker", "Thinker": "thinker"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'fathom.think' has no attribute {name!r}")
    return getattr(importlib.import_module(f"fathom.think.{_HOMES.get(name, 'votes')}"), name)
