"""The lending side against peers that are rude, slow, or not who they should be."""

from __future__ import annotations

import socket
import time
from contextlib import suppress

import pytest
from msgspec.structs import replace

from fathom.batching.leases import LeaseState
from fathom.batching.pages import PageFormat, content_digest
from fathom.serve import messages
from fathom.serve.lender import Lender
from fathom.serve.transfer_messages import Decline, Done, Line, Page, Pull, Refused, Sent, ToAsker, TransferError
from tests.serve.lending import QUICK

FORM = PageFormat("config", "probe", "f32", "torch", "float32", 2, 4, 8)
NAMES = (b"a" * 32, b"b" * 32)


class Shelf:
    """Pages that are their numbers. busy: called while one is read."""

    form = FORM

    def __init__(self) -> None:
        self.busy = lambda: None

    def read(self, page: int) -> bytes:
        self.busy()
        return bytes([page]) * FORM.page_bytes


@pytest.fixture
def shelf():
    return Shelf()


@pytest.fixture
def lender(shelf):
    made = Lender(shelf, ("127.0.0.1", 0), lambda: None, QUICK)
    yield made
    made.close()


def line_to(lender: Lender) -> Line:
    connection = socket.create_connection(lender.address, 1.0)
    return Line(connection, ToAsker, 2.0, time.monotonic() + 5.0)


def pull(source, names=NAMES, **changed) -> Pull:
    return replace(Pull(source.lease, source.token, FORM, names), **changed)


def until(state: LeaseState, lender: Lender, most_s=20.0) -> None:
    end_s = time.monotonic() + most_s
    while not lender.counts[state]:
        assert time.monotonic() < end_s, f"no lease came to be {state}"
        time.sleep(0.01)


def test_pages_come_in_the_order_asked_and_the_last_word_frees_them(lender) -> None:
    source, line = lender.offer(NAMES, (7, 9)), line_to(lender)
    line.send(pull(source, (NAMES[1], b"c" * 32, NAMES[0])))
    for name, page in ((NAMES[1], 9), (NAMES[0], 7)):
        content = bytes([page]) * 8
        assert line.receive() == Page(name, content_digest(FORM.key, name, content), content)
    assert line.receive() == Sent() and lender.freed() == []
    line.send(Done())
    until(LeaseState.RELEASED, lender)
    assert lender.freed() == [(7, 9)] and lender.freed() == [] and lender.pages == 0


def test_a_second_peer_with_the_same_token_does_not_disturb_the_first(lender) -> None:
    source, first, second = lender.offer(NAMES, (7, 9)), line_to(lender), line_to(lender)
    first.send(pull(source, ()))
    assert first.receive() == Sent()
    second.send(pull(source))
    for _ in range(3):
        second.receive()
    first.send(Done())
    until(LeaseState.RELEASED, lender)
    assert lender.freed() == [(7, 9)]


@pytest.mark.parametrize("wrong", [{"token": "x"}, {"lease": "x"}])
def test_without_the_token_nothing_is_told(lender, wrong) -> None:
    source, line = lender.offer(NAMES, (7, 9)), line_to(lender)
    line.send(pull(source, **wrong))
    assert line.receive() == Refused("there is no such lease: it has ended, or the token is not its own.")
    assert line.receive() is None
    decline = Decline(source.lease, "x")
    line = line_to(lender)
    line.send(decline)
    assert isinstance(line.receive(), Refused) and lender.counts["live"] == 1


def test_another_format_is_refused_before_a_byte_is_copied(lender, shelf) -> None:
    read = []
    shelf.busy = lambda: read.append(1)
    source, line = lender.offer(NAMES, (7, 9)), line_to(lender)
    line.send(pull(source, form=PageFormat("config", "other", "f32", "torch", "float32", 2, 4, 8)))
    refused = line.receive()
    assert isinstance(refused, Refused) and "probe is 'other', not 'probe'" in refused.message
    assert read == [] and lender.counts["pulling"] == 0


def test_a_page_read_while_its_lease_ended_is_not_sent(lender, shelf) -> None:
    """The engine may have written into it meanwhile."""
    source, line = lender.offer(NAMES, (7, 9)), line_to(lender)
    shelf.busy = lender.withdraw_oldest
    line.send(pull(source))
    assert isinstance(line.receive(), Refused)
    assert lender.freed() == [(7, 9)] and lender.counts["aborted"] == 1


def test_a_peer_that_hangs_up_may_come_back(lender) -> None:
    source = lender.offer(NAMES, (7, 9))
    with socket.create_connection(lender.address, 1.0) as connection:
        Line(connection, ToAsker, 1.0, time.monotonic() + 5.0).send(pull(source))
        connection.recv(5)
    end_s = time.monotonic() + 3.0
    while lender.counts["offered"] < 2 and time.monotonic() < end_s:
        time.sleep(0.01)
    line = line_to(lender)
    line.send(pull(source))
    assert isinstance(line.receive(), Page) and lender.freed() == []


def test_peers_that_say_nonsense_or_nothing_are_left_alone_in_time(lender) -> None:
    source = lender.offer(NAMES, (7, 9))
    frames = [messages.pack(Sent()), messages.pack(messages.Shutdown())]
    for said in (b"\xff" * 8, b"\0\x50\0\0", b"\0\0\0\x01\xc1", b"\0\0", *frames):
        with socket.create_connection(lender.address, 1.0) as connection:
            connection.settimeout(QUICK.silence_s + 1.0)
            connection.sendall(said)
            with suppress(ConnectionResetError):
                assert connection.recv(1) == b""  # hung up
    with socket.create_connection(lender.address, 1.0) as silent:
        silent.settimeout(QUICK.silence_s + 1.0)
        assert silent.recv(1) == b""
    assert lender.counts["live"] == 1
    until(LeaseState.EXPIRED, lender)
    assert lender.freed() == [(7, 9)] and source.port == lender.address[1]


def test_a_line_never_waits_for_ever() -> None:
    here, there = socket.socketpair()
    with here, there:
        line = Line(here, ToAsker, 0.1, time.monotonic() + 5.0)
        with pytest.raises(TransferError, match="does not answer"):
            line.receive()
        with pytest.raises(TransferError, match="does not take a frame"):
            for _ in range(100):
                line.send(Page(b"n", b"d", bytes(1 << 20)))
        with pytest.raises(TransferError, match="longer than it may"):
            Line(here, ToAsker, 0.1, time.monotonic() - 1.0).receive()
