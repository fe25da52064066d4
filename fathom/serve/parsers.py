"""Token ids in, text out: which part is thinking, which part is the answer, and where a stop string cuts it.

Two small state machines, no regular expressions, linear in the tokens:

    SegmentParser   decides by token id, so text that merely looks like `</think>` never ends the thinking
    StopFilter      holds back what may yet become a stop string, so no client ever sees half of one
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from fathom.tokenizer import Tokenizer


@dataclass
class Piece:
    """Text that became certain: thinking, answer, or (around `</think>`) both; and which of the tokens wrote it."""

    reasoning: str = ""
    content: str = ""
    reasoning_at: list[int] = field(default_factory=list)
    content_at: list[int] = field(default_factory=list)


class SegmentParser:
    """Split generated tokens into thinking and answer, and turn each part into text on its own.

    A token belongs to exactly one part; the two markers themselves to none, so that a thought is as long as its budget
    says.
    """

    def __init__(self, tokenizer: Tokenizer, *, thinking: bool, split: bool = True) -> None:
        self._tokenizer = tokenizer
        self._split = split and tokenizer.end_think_id is not None
        self._hidden = frozenset(tokenizer.special.values())
        self._stream = tokenizer.stream()
        self.thinking = thinking and self._split
        self.reasoning_tokens = 0
        self.content_tokens = 0
        self._thought = self.thinking
        self._trim = False

    def push(self, token_ids: Sequence[int]) -> Piece:
        """The text these tokens make certain."""
        piece = Piece()
        for index, token in enumerate(token_ids):
            if self._split and self._turn(token, piece):
                continue
            text = "" if token in self._hidden else self._stream.push([token])
            if self.thinking:
                self.reasoning_tokens += 1
                piece.reasoning += text
            else:
                self.content_tokens += 1
                piece.content += self._trimmed(text)
            if token not in self._hidden:
                (piece.reasoning_at if self.thinking else piece.content_at).append(index)
        return piece

    def flush(self) -> Piece:
        """Whatever an unfinished character still held back."""
        rest = self._stream.flush()
        return Piece(reasoning=rest) if self.thinking else Piece(content=self._trimmed(rest))

    def _turn(self, token: int, piece: Piece) -> bool:
        """Switch sides when `token` is a marker; False when it is an ordinary token."""
        if self.thinking and token == self._tokenizer.end_think_id:
            piece.reasoning += self._stream.flush()
            self._stream = self._tokenizer.stream()
            self.thinking, self._trim = False, True
            return True
        if not self._thought and self.content_tokens == 0 and token == self._tokenizer.think_id:
            self.thinking = self._thought = True
            return True
        return False

    def _trimmed(self, text: str) -> str:
        """Drop the blank lines a model puts between its thinking and its answer."""
        if not self._trim or not text:
            return text
        text = text.lstrip("\r\n")
        self._trim = not text
        return text


class StopFilter:
    """Pass text through until one of `stops` appears; the stop string itself, and any part of it, stays inside."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """The text that can no longer become part of a stop string."""
        if self.stopped:
            return ""
        if not self._stops:
            return text
        self._held += text
        found = [at for at in (self._held.find(stop) for stop in self._stops) if at >= 0]
        if found:
            self.stopped = True
            return self._release(min(found), drop=True)
        return self._release(len(self._held) - self._undecided())

    def flush(self) -> str:
        """The rest, once no more text can come."""
        return self._release(len(self._held))

    def _undecided(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        longest = max(map(len, self._stops)) - 1
        for size in range(min(longest, len(self._held)), 0, -1):
            tail = self._held[-size:]
            if any(stop.startswith(tail) for stop in self._stops):
                return size
        return 0

    def _release(self, size: int, *, drop: bool = False) -> str:
        text, self._held = self._held[:size], "" if drop else self._held[size:]
        return text
