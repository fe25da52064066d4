"""Who wins among several samples of one prompt, and when the others cannot change that any more.

Samples come to their end in any order, which depends on how busy the machine is. The result does not: among equals the
sample with the lowest number wins, and what is `wanted` keeps running until nothing that is still open can matter.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable

from fathom.batching.request import TokenLogprob
from fathom.errors import InputError

_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")
_WRAPPING = " \n\t*`$"


def normalised(text: str) -> str | None:
    """An answer as it is compared with others: what is in the last \\boxed{}, else all of it; without marks around it,
    without a closing full stop, spaces as single ones, in small letters of the usual width. None: it is empty."""
    boxed: list[str] = _BOXED.findall(text)
    plain = unicodedata.normalize("NFKC", boxed[-1] if boxed else text).casefold()
    plain = plain.strip(_WRAPPING).rstrip(".。").strip(_WRAPPING)
    return " ".join(plain.split()) or None


def mean_logprob(logprobs: Iterable[TokenLogprob], leaving_out: Collection[int] = ()) -> float | None:
    """Mean log-probability of a sample's tokens, markers apart (the engine may have set them); None without tokens."""
    values = [item.logprob for item in logprobs if item.token_id not in leaving_out]
    return sum(values) / len(values) if values else None


class Vote:
    """The vote of n samples. A sample without an answer does not vote."""

    def __init__(self, n: int) -> None:
        if n < 1:
            raise InputError(f"n is {n} samples; it must be at least 1.")
        self.n = n
        self._keys: dict[int, str | None] = {}

    def add(self, index: int, key: str | None) -> None:
        """Sample `index` is over; `key` is its answer, normalised."""
        if not 0 <= index < self.n or index in self._keys:
            raise InputError(f"sample {index} was counted already, or is none of 0 to {self.n - 1}.")
        self._keys[index] = key

    @property
    def counts(self) -> dict[str, int]:
        """Votes of each answer, the winner first; equals in the order of their first samples."""
        found: dict[str, int] = {}
        for index in sorted(self._keys):
            if (key := self._keys[index]) is not None:
                found[key] = found.get(key, 0) + 1
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    @property
    def winner(self) -> int | None:
        """The first sample with the answer that most gave; the first of all if none has an answer; None before any."""
        counts = self.counts
        if not counts:
            return min(self._keys, default=None)
        return self._first(next(iter(counts)))

    @property
    def decided(self) -> bool:
        """Whether the answer that leads has won, whatever those say that are not over."""
        counts = self.counts
        if not counts or not self._open:
            return not self._open
        (leader, most), *others = counts.items()
        nobody: tuple[str, int] = ("", 0)  # an answer that none has given yet
        return not any(
            votes + len(self._open) > most
            or (votes + len(self._open) == most and min(first, self._open[0]) < self._first(leader))
            for votes, first in [(n, self._first(key)) for key, n in others] + [(nobody[1], self.n)]
        )

    @property
    def wanted(self) -> tuple[int, ...]:
        """Samples that are not over and can still matter: all; once it is decided, those that might win it earlier."""
        if not self.decided:
            return self._open
        first = self.winner
        return tuple(index for index in self._open if first is not None and index < first)

    @property
    def _open(self) -> tuple[int, ...]:
        return tuple(index for index in range(self.n) if index not in self._keys)

    def _first(self, key: str) -> int:
        return min(index for index, found in self._keys.items() if found == key)


class Best:
    """The best of n samples by a score. target: a score that none can beat, so that one is enough."""

    def __init__(self, n: int, target: float = float("inf")) -> None:
        if n < 1:
            raise InputError(f"n is {n} samples; it must be at least 1.")
        self.n, self.target = n, target
        self._scores: dict[int, float] = {}

    def add(self, index: int, score: float | None) -> None:
        """Sample `index` is over; without a score it loses to all that have one."""
        if not 0 <= index < self.n or index in self._scores:
            raise InputError(f"sample {index} was counted already, or is none of 0 to {self.n - 1}.")
        self._scores[index] = float("-inf") if score is None else float(score)

    @property
    def winner(self) -> int | None:
        """The first sample with the highest score; None before any."""
        return min(self._scores, key=lambda index: (-self._scores[index], index), default=None)

    @property
    def decided(self) -> bool:
        """Whether no sample that is not over can do better."""
        winner = self.winner
        return len(self._scores) == self.n or (winner is not None and self._scores[winner] >= self.target)

    @property
    def wanted(self) -> tuple[int, ...]:
        """Samples that are not over and can still matter."""
        first, done = self.winner, self.decided
        open_ = [index for index in range(self.n) if index not in self._scores]
        return tuple(index for index in open_ if not done or (first is not None and index < first))
