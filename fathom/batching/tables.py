"""Page tables: which pages each sequence holds, what it may share, and what must be moved before the next step.

A sequence begins with the pages that hold its first tokens already: in memory, else in the spill file, from which they
are read back into fresh pages. Siblings of one prompt share all its pages, the last, partly filled one included; who
writes into that one first gets a copy, until the last holder has it alone.

The moves of a plan are executed before its forward, in this order: spills (page -> slot), copies (page -> page),
restores (slot -> page). A page given up is so read before anything is written into it. All of them count only once the
plan is answered: `moved` names the sequences that are to be undone if it is not.
"""

from __future__ import annotations

from collections.abc import Iterable

from fathom.batching.pages import PagePool, page_hash, page_names, root_hash
from fathom.batching.request import Request, Sequence
from fathom.batching.spill import SpillIndex


class PageTables:
    """The pages of all sequences. It knows no order among them: who gets the pages is the scheduler's choice."""

    def __init__(self, num_pages: int, page_tokens: int, *, spill_slots: int = 0, numerics: str = "") -> None:
        self.page_tokens = page_tokens
        self.numerics = numerics
        self.pool = PagePool(num_pages, self._spill)
        self.spill = SpillIndex(spill_slots)
        self.copied = 0
        self.spills: list[tuple[int, int]] = []
        self.spill_names: list[bytes] = []
        self.copies: list[tuple[int, int]] = []
        self.restores: list[tuple[int, int]] = []
        self.moved: dict[Sequence, None] = {}  # in order: a set of objects has none that could be replayed
        self.unread: set[int] = set()  # offered pages of texts that MTP has not seen in full
        self._keeps = False  # whether all pages should come to lie in the file
        self._unsaved: dict[bytes, None] = {}  # names of published pages that may not, the oldest first

    def keep(self, kept: Iterable[tuple[int, bytes]]) -> None:
        """The file outlives the process, and holds this from before: (slot, name), the least recently used first."""
        self.spill.adopt(kept)
        self._keeps = True

    def pages_for(self, tokens: int) -> int:
        return -(-tokens // self.page_tokens)

    # -- content that exists already -------------------------------------------------------------------------------

    def match(self, sequence: Sequence) -> list[int]:
        """Pages in memory with what `sequence` must compute next; they are only found, not held."""
        return self.pool.match(self._name(sequence, index) for index in self._wanted(sequence))

    def known_tokens(self, request: Request) -> int:
        """Leading tokens of a prompt whose pages are in memory."""
        parent, tokens, size = root_hash(request.cache_salt, self.numerics), request.prompt_token_ids, self.page_tokens
        for begin in range(0, len(tokens) - size, size):
            parent = page_hash(parent, tokens[begin : begin + size])
            if not self.pool.match((parent,)):
                return begin
        return max(0, len(tokens) - 1) // size * size

    def reuse(self, sequence: Sequence, restorable: float) -> tuple[int, bool]:
        """Take over pages whose content exists, as long as they follow each other.

        Args:    restorable: pages that may be read back from the spill file.
        Returns: how many were, and whether the next one could be too if only more were allowed.
        """
        restored = 0
        for index in self._wanted(sequence):
            name = self._name(sequence, index)
            if page := self.pool.match((name,)):
                self.pool.hold(page)
                sequence.pages += page
                sequence.unread += self.page_tokens if page[0] in self.unread else 0
                sequence.published += sequence.published == index
            elif name not in self.spill or not self.pool.available:
                break
            elif restored + 1 > restorable:
                return restored, True
            else:
                slot = self.spill.read(name)  # before `allocate`, which may give slots away
                sequence.pages.append(self.pool.allocate())
                self.restores.append((slot, sequence.pages[-1]))
                self.moved[sequence] = None
                restored += 1
            sequence.computed += self.page_tokens
        return restored, False

    def share(self, elder: Sequence, sibling: Sequence) -> None:
        """Give `sibling` all pages of `elder`, whose tokens are the same prompt, computed by the plan being made."""
        self._name_all(elder, elder.prompt_tokens)
        sibling.pages = elder.pages[: self.pages_for(elder.prompt_tokens)]
        self.pool.hold(sibling.pages)
        sibling.hashes = list(elder.hashes)
        sibling.computed, sibling.published = elder.prompt_tokens, elder.published
        self.moved[sibling] = None

    def publish(self, sequence: Sequence) -> None:
        """Offer its full computed pages for sharing."""
        full = sequence.computed // self.page_tokens
        for index in range(sequence.published, full):
            page = sequence.pages[index]
            self.offer(page, self._name(sequence, index))
            (self.unread.add if sequence.unread else self.unread.discard)(page)
        sequence.published = max(sequence.published, full)

    def offer(self, page: int, name: bytes) -> None:
        """Offer one full page for sharing; only its holder can."""
        self.pool.publish(page, name)
        if self._keeps and name not in self.spill:
            self._unsaved[name] = None

    # -- pages to write into ---------------------------------------------------------------------------------------

    def shares_next(self, sequence: Sequence) -> bool:
        """Whether the page of its next token is partly filled and held by others too."""
        index, inside = divmod(sequence.computed, self.page_tokens)
        return inside > 0 and self.pool.refs[sequence.pages[index]] > 1

    def copy_next(self, sequence: Sequence) -> None:
        """Give it a page of its own in place of that one, with the same content."""
        index = sequence.computed // self.page_tokens
        shared, own = sequence.pages[index], self.pool.allocate()
        self.pool.release((shared,))
        sequence.pages[index] = own
        sequence.table = ()
        self.copies.append((shared, own))
        self.moved[sequence] = None

    def release(self, sequence: Sequence) -> None:
        """Take all its pages."""
        self.pool.release(sequence.pages)
        sequence.pages, sequence.table, sequence.computed, sequence.published = [], (), 0, 0
        sequence.unread = 0

    def slots(self, sequence: Sequence) -> int:
        """Tokens for which it has pages, beyond those computed."""
        return len(sequence.pages) * self.page_tokens - sequence.computed

    @staticmethod
    def table(sequence: Sequence) -> tuple[int, ...]:
        """Its pages as a Row carries them; built anew only when they have changed."""
        if len(sequence.table) != len(sequence.pages):
            sequence.table = tuple(sequence.pages)
        return sequence.table

    # -- the moves of a plan ---------------------------------------------------------------------------------------

    def settle(self) -> None:
        """The plan was executed."""
        if not (self.spills or self.moved):
            return
        self.copied += len(self.copies)
        for sequence in self.moved:
            if sequence.running:
                self.publish(sequence)
        self.spill.settle()
        self._clear()

    def cancel(self) -> None:
        """The plan was perhaps not executed. What `moved` names must have been released before."""
        if not (self.spills or self.moved):
            return
        self.spill.cancel()
        self._clear()

    def save(self, most: int) -> list[tuple[int, int, bytes]]:
        """Between two plans: (page, slot, name) of up to `most` pages that no file holds yet, to be written at once.

        Nothing while a plan is unanswered. `settle` the spill index once they are written.
        """
        moves: list[tuple[int, int, bytes]] = []
        while self._unsaved and len(moves) < most and not (self.spills or self.moved):
            name = next(iter(self._unsaved))
            del self._unsaved[name]
            found = self.pool.match((name,))
            slot = self.spill.write(name) if found else None
            if slot is not None:
                moves.append((found[0], slot, name))
        return moves

    @property
    def unsaved(self) -> int:
        """Pages in memory that the next process would have to compute again."""
        return len(self._unsaved)

    def _clear(self) -> None:
        self.spills, self.spill_names, self.copies, self.restores, self.moved = [], [], [], [], {}

    def _spill(self, page: int, name: bytes) -> None:
        self._unsaved.pop(name, None)
        slot = self.spill.write(name)
        if slot is not None:
            self.spills.append((page, slot))
            self.spill_names.append(name)

    # -- names -----------------------------------------------------------------------------------------------------

    def _wanted(self, sequence: Sequence) -> range:
        """Its next full pages, should it stand at the beginning of one; the last token is always computed."""
        first = len(sequence.pages)
        if sequence.computed != first * self.page_tokens:
            return range(0)
        return range(first, (len(sequence.tokens) - 1) // self.page_tokens)

    def _name(self, sequence: Sequence, index: int) -> bytes:
        """Name of its page `index`, all of whose tokens are known; each is computed once, when first asked for."""
        if index >= len(sequence.hashes):
            self._name_all(sequence, (index + 1) * self.page_tokens)
        return sequence.hashes[index]

    def _name_all(self, sequence: Sequence, tokens: int) -> None:
        hashes = sequence.hashes
        parent = hashes[-1] if hashes else root_hash(sequence.request.cache_salt, self.numerics)
        hashes += page_names(sequence.tokens[len(hashes) * self.page_tokens : tokens], self.page_tokens, parent)
