"""What a worker tells of its engine: its counts now and then, and what it shows of itself when asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from fathom.errors import ConfigError
from fathom.serve import messages
from fathom.serve.exchange import PageExchange


class Shown(Protocol):
    """What an engine shows (see engine/seeing.py)."""

    def experts(self) -> Mapping[str, Any]: ...

    def trace(self, *, name: str, first_pid: int) -> bytes: ...

    def rebalance(self) -> None: ...

    def figures(self) -> Mapping[str, Any]: ...


class Told(Protocol):
    """What is told of an engine."""

    @property
    def seeing(self) -> Shown: ...

    def stats(self) -> Any: ...


def stats(engine: Told, exchange: PageExchange | None) -> messages.Stats:
    """The counts of an engine, of all its lanes, and of what it has to do with other workers."""
    counts = engine.stats()
    names = [name for name in messages.Stats.__struct_fields__ if hasattr(counts, name)]
    figures = dict(engine.seeing.figures())
    experts = figures.pop("experts", None)
    return messages.Stats(
        **{name: getattr(counts, name) for name in names}
        | figures
        | {"experts": None if experts is None else messages.Experts(**experts)}
        | ({} if exchange is None else exchange.stats())
    )


def seen(engine: Told, asked: messages.Look | messages.Rebalance) -> messages.Seen:
    """What somebody asked to see, or what became of the wish for a rebalance."""
    try:
        if isinstance(asked, messages.Rebalance):
            engine.seeing.rebalance()
            return messages.Seen(asked.number)
        if asked.what == "experts":
            return messages.Seen(asked.number, msgspec.json.encode(engine.seeing.experts()))
        return messages.Seen(asked.number, engine.seeing.trace(name=asked.name, first_pid=asked.first_pid))
    except ConfigError as error:
        return messages.Seen(asked.number, error=str(error))
