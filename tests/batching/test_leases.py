"""Every event in every state, and no page leaked or released twice, whatever happens in whatever order."""

from collections import Counter
from itertools import product

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from fathom.batching.leases import (
    ABORTED,
    EXPIRED,
    OFFERED,
    PULLING,
    RELEASED,
    SENT,
    TRANSITIONS,
    LeaseError,
    LeaseState,
    LeaseTable,
    Patience,
)

WAITS = Patience(offered_s=30, pulling_s=20, sent_s=5, whole_s=60)
PATH = {  # how to come to be in each state
    OFFERED: [], PULLING: ["pull"], SENT: ["pull", "sent"], RELEASED: ["pull", "sent", "release"],
    ABORTED: ["withdraw"], EXPIRED: ["expire"],
}  # fmt: skip
NEXT = {  # the picture in the docstring, line by line
    OFFERED: {"pull": PULLING, "withdraw": ABORTED, "decline": ABORTED, "expire": EXPIRED},
    PULLING: {
        "sent": SENT, "drop": OFFERED, "release": RELEASED, "withdraw": ABORTED, "decline": ABORTED, "expire": EXPIRED,
    },
    SENT: {
        "pull": PULLING, "drop": OFFERED, "release": RELEASED, "withdraw": ABORTED, "decline": ABORTED,
        "expire": EXPIRED,
    },
    RELEASED: {}, ABORTED: {}, EXPIRED: {},
}  # fmt: skip


def table_in(state, now_s=0.0):
    table = LeaseTable(WAITS)
    table.offer("a", "secret", (b"n", b"m"), (3, 4), now_s)
    for event in PATH[state]:
        table.apply(event, "a", now_s)
    return table


@pytest.mark.parametrize(("state", "event"), list(product(LeaseState, TRANSITIONS)))
def test_every_event_in_every_state(state, event):
    table = table_in(state)
    ended = table.freed()
    assert ended == ([(3, 4)] if state.final else [])
    if event not in NEXT[state]:
        before = list(table), Counter(table.counts)
        with pytest.raises(LeaseError, match="no such lease" if state.final else f"is {state}; it cannot {event}"):
            table.apply(event, "a", 0.0)
        assert (list(table), table.counts) == before and table.freed() == []
        return
    after = table.apply(event, "a", 0.0)
    assert after.state == NEXT[state][event]
    assert table.freed() == ([(3, 4)] if after.state.final else []) and table.freed() == []
    assert [lease.state for lease in table] == ([] if after.state.final else [after.state])


@pytest.mark.parametrize(("state", "wait_s"), [(OFFERED, 30), (PULLING, 20), (SENT, 5)])
def test_every_state_that_is_not_final_has_its_deadline(state, wait_s):
    table = table_in(state, now_s=100.0)
    assert table.expire(100 + wait_s - 0.1) == []
    assert [lease.state for lease in table.expire(100.0 + wait_s)] == [EXPIRED]
    assert table.freed() == [(3, 4)] and len(table) == table.pages == 0


def test_coming_and_going_does_not_keep_a_lease_alive_for_ever():
    table = table_in(OFFERED)
    for now_s in range(0, 60, 10):
        table.apply("pull", "a", now_s)
        table.apply("drop", "a", now_s)
    with pytest.raises(LeaseError):
        table.apply("pull", "a", 60.0)
    assert table.counts[EXPIRED] == 1


def test_an_event_after_the_deadline_comes_too_late():
    table = table_in(SENT)
    with pytest.raises(LeaseError, match="no such lease"):
        table.apply("release", "a", 5.0)
    assert table.counts[EXPIRED] == 1 and table.freed() == [(3, 4)]


def test_only_the_token_opens_it():
    table = table_in(OFFERED)
    assert table.find("a", 0.0, "secret").names == (b"n", b"m")
    for lease_id, token in (("a", "secreT"), ("a", ""), ("a", "sécret"), ("b", "secret")):
        with pytest.raises(LeaseError, match="the token is not its own"):
            table.find(lease_id, 0.0, token)
    with pytest.raises(LeaseError, match="exists already"):
        table.offer("a", "other", (), (), 0.0)


class Leases(RuleBasedStateMachine):
    """Random events and a clock that only goes on, against a count of who holds which page."""

    def __init__(self):
        super().__init__()
        self.table = LeaseTable(WAITS)
        self.now_s = 0.0
        self.held = Counter()
        self.offered = 0

    @rule(pages=st.lists(st.integers(0, 5), unique=True))
    def offer(self, pages):
        self.held.update(pages)
        self.table.offer(str(self.offered), "t", tuple(b"%d" % page for page in pages), tuple(pages), self.now_s)
        self.offered += 1

    @rule(event=st.sampled_from(sorted(TRANSITIONS)), back=st.integers(1, 4))
    def happen(self, event, back):
        before = {lease.id: lease for lease in self.table}
        name = str(self.offered - back)
        try:
            after = self.table.apply(event, name, self.now_s)
        except LeaseError:
            assert name not in before or before[name].deadline_s <= self.now_s or event not in NEXT[before[name].state]
        else:
            assert after.state == NEXT[before[name].state][event]

    @rule(seconds=st.sampled_from([0.5, 5.0, 20.0, 45.0]))
    def wait(self, seconds):
        self.now_s += seconds

    @rule()
    def expire(self):
        self.table.expire(self.now_s)
        assert all(lease.deadline_s > self.now_s for lease in self.table)

    @rule()
    def release(self):
        for pages in self.table.freed():
            self.held.subtract(pages)
            assert all(self.held[page] >= 0 for page in pages), "released twice"

    @invariant()
    def pages_are_held_exactly_while_leases_live(self):
        living = Counter(page for lease in self.table for page in lease.pages)
        waiting = Counter(page for pages in self.table._freed for page in pages)
        assert +(living + waiting) == +self.held
        assert self.table.pages == living.total()

    @invariant()
    def every_lease_ends(self):
        assert all(lease.deadline_s <= lease.ends_s for lease in self.table)
        ended = sum(self.table.counts[state] for state in LeaseState if state.final)
        assert len(self.table) + ended == self.offered


TestLeases = Leases.TestCase
TestLeases.settings = settings(max_examples=80, stateful_step_count=40)
