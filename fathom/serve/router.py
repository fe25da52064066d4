"""Which replica takes a request: the one where it costs the fewest tokens. A pure policy, without clock or process.

A request costs a replica what is already due there, plus what of its own prompt the replica has not read lately. A long
common prefix so draws a conversation back to where its pages are, as long as the others are not idle for it. A session
sticks to its replica, until that one has far more to do than another.

The memory of who read what is bounded; it is a guess at each replica's cache, and being wrong costs time, not text.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from fathom.batching.pages import page_hash, root_hash
from fathom.errors import ConfigError

SMOOTHING = 0.02  # of a reply's length in the mean: it follows about the last fifty


@dataclass(frozen=True)
class RouterConfig:
    """Fields: page_tokens: prefixes are compared in pages of so many. max_pages, max_sessions: how much is remembered.

    max_imbalance_tokens: what its replica may have due beyond the least loaded one before a session leaves it.
    expected_output_tokens: the length of a reply, until some have been seen.
    """

    page_tokens: int = 64
    max_pages: int = 65_536
    max_sessions: int = 16_384
    max_imbalance_tokens: int = 16_384
    expected_output_tokens: int = 256

    def __post_init__(self) -> None:
        for name in ("page_tokens", "max_pages", "max_sessions", "expected_output_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"router.{name} is {getattr(self, name)}; it must be at least 1.")
        if self.max_imbalance_tokens < 0:
            raise ConfigError(f"router.max_imbalance_tokens is {self.max_imbalance_tokens}; it must be at least 0.")


class Router:
    """Fields: requests: routed so far. hits: those whose prompt began there before. pinned: those with a session."""

    def __init__(self, config: RouterConfig | None = None) -> None:
        self.config = config or RouterConfig()
        self.requests = self.hits = self.pinned = 0
        self._readers: OrderedDict[bytes, str] = OrderedDict()  # page -> who read it last
        self._sessions: OrderedDict[str, str] = OrderedDict()
        self._turns: dict[str, int] = {}  # who was chosen last, to take turns where all are alike
        self._mean = float(self.config.expected_output_tokens)

    def choose(self, prompt: Sequence[int], loads: Mapping[str, int], *, session: str = "", salt: str = "") -> str:
        """The replica that shall read this prompt.

        Args: loads: tokens due on each replica that can be chosen; at least one. salt: parts caches, see Request.
        """
        pages = list(self._pages(prompt, salt))
        read = self._read(pages)
        pinned = self._sessions.get(session, "")
        if pinned in loads and loads[pinned] - min(loads.values()) <= self.config.max_imbalance_tokens:
            chosen = pinned
            self.pinned += 1
        else:
            chosen = min(loads, key=lambda name: (loads[name] - read.get(name, 0), self._turns.get(name, 0), name))
        self.requests += 1
        self.hits += chosen in read
        self._turns[chosen] = self.requests
        self._remember(pages, chosen, session)
        return chosen

    def expected(self, max_tokens: int, emitted: int = 0) -> int:
        """Tokens that a reply is likely to have still before it; at least 1."""
        return max(1, min(max_tokens, round(self._mean)) - emitted)

    def ended(self, output_tokens: int) -> None:
        """A reply came to its end after so many tokens."""
        self._mean += SMOOTHING * (output_tokens - self._mean)

    def forget(self, replica: str) -> None:
        """Its cache is gone. Its sessions stay: they have to go somewhere."""
        for page in [page for page, reader in self._readers.items() if reader == replica]:
            del self._readers[page]

    def _pages(self, prompt: Sequence[int], salt: str) -> Iterator[bytes]:
        """Names of the prompt's full pages, each with all that comes before it."""
        name, size = root_hash(salt), self.config.page_tokens
        for start in range(0, len(prompt) - size + 1, size):
            name = page_hash(name, prompt[start : start + size])
            yield name

    def _read(self, pages: Iterable[bytes]) -> dict[str, int]:
        """Tokens of the prompt that each replica has read, as far as is known."""
        read: dict[str, int] = {}
        for index, page in enumerate(pages, 1):
            if page in self._readers:
                read[self._readers[page]] = index * self.config.page_tokens
        return read

    def _remember(self, pages: Iterable[bytes], replica: str, session: str) -> None:
        for page in pages:
            self._readers[page] = replica
            self._readers.move_to_end(page)
        while len(self._readers) > self.config.max_pages:
            self._readers.popitem(last=False)
        if session:
            self._sessions[session] = replica
            self._sessions.move_to_end(session)
            if len(self._sessions) > self.config.max_sessions:
                self._sessions.popitem(last=False)
