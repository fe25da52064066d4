"""A slot holds what it was said to hold, the oldest goes first, and a plan that failed is forgotten."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fathom.batching.spill import SpillIndex
from fathom.errors import ConfigError


def filled(slots, *names):
    index = SpillIndex(slots)
    written = [index.write(name) for name in names]
    index.settle()
    return index, written


def test_without_slots_nothing_is_taken_or_found():
    index = SpillIndex()
    assert index.write(b"a") is None
    assert b"a" not in index
    with pytest.raises(ConfigError, match="spill_slots is -1"):
        SpillIndex(-1)


def test_a_file_of_any_size_costs_no_memory_before_it_is_used():
    index = SpillIndex(10**15)
    assert [index.write(name) for name in (b"a", b"b")] == [0, 1]


def test_what_was_written_is_found_and_not_written_twice():
    index, (slot, _) = filled(3, b"a", b"b")
    assert index.read(b"a") == slot
    assert index.write(b"a") is None
    index.settle()
    assert (index.spilled, index.restored, len(index)) == (2, 1, 2)


def test_the_slot_unused_for_longest_is_given_away():
    index, (a, b) = filled(2, b"a", b"b")
    index.read(b"a")
    index.settle()
    assert index.write(b"c") == b
    assert b"b" not in index
    assert index.read(b"a") == a


def test_a_slot_that_the_plan_reads_is_not_given_away_by_it():
    index, _ = filled(1, b"a")
    index.read(b"a")
    assert index.write(b"b") is None
    index.settle()
    assert index.write(b"b") == 0


def test_a_plan_that_failed_wrote_nothing_to_rely_on():
    index, _ = filled(2, b"a", b"b")
    index.write(b"c")
    index.cancel()
    assert b"c" not in index
    assert b"a" not in index  # perhaps overwritten
    assert b"b" in index
    assert index.spilled == 2


def test_what_cannot_be_read_is_forgotten_and_its_slot_free():
    index, (a, _) = filled(2, b"a", b"b")
    index.lose([a, a, 7])
    assert (b"a" in index, b"b" in index, index.lost) == (False, True, 1)
    assert index.write(b"c") == a


def test_what_a_file_holds_from_before_is_found_and_its_gaps_are_filled():
    index = SpillIndex(5)
    index.adopt([(3, b"a"), (0, b"b"), (1, b"a")])  # the later use of a name counts
    assert (index.read(b"a"), index.read(b"b"), len(index)) == (1, 0, 2)
    index.settle()
    assert {index.write(name) for name in (b"c", b"d", b"e")} == {2, 3, 4}
    index.settle()
    assert index.write(b"f") == 1  # a was used before b, and both before the others


class Index(RuleBasedStateMachine):
    """Random plans against a file that is a dict."""

    names = st.sampled_from([b"a", b"b", b"c", b"d", b"e"])

    def __init__(self):
        super().__init__()
        self.index = SpillIndex(3)
        self.file = {}
        self.reads = []

    @rule(name=names)
    def write(self, name):
        slot = self.index.write(name)
        if slot is not None:
            assert slot not in [read for read, _ in self.reads]
            self.file[slot] = name

    @rule(name=names)
    def read(self, name):
        if name in self.index:
            self.reads.append((self.index.read(name), name))

    @rule(done=st.booleans())
    def end(self, done):
        assert all(self.file[slot] == name for slot, name in self.reads)
        self.reads = []
        if done:
            self.index.settle()
        else:
            self.index.cancel()

    @precondition(lambda self: self.file)
    @rule(data=st.data())
    def lose(self, data):
        if not self.reads:
            self.index.lose([data.draw(st.sampled_from(sorted(self.file)))])

    @invariant()
    def slots_are_bounded(self):
        assert len(self.index) <= 3
        assert set(self.file) <= {0, 1, 2}


TestIndex = Index.TestCase
TestIndex.settings = settings(max_examples=60, stateful_step_count=30)
