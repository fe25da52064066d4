"""What a bad lender can do to the one who fetches: nothing but make it compute."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from fathom.batching.pages import PageFormat, content_digest
from fathom.batching.request import PrefixSource
from fathom.serve.borrower import decline, fetch
from fathom.serve.transfer_messages import Decline, Done, Line, Page, Pull, Refused, Sent, ToLender, TransferError
from tests.serve.lending import QUICK

FORM = PageFormat("config", "probe", "f32", "torch", "float32", 2, 4, 8)
NAMES = [b"a" * 32, b"b" * 32]


def page(name: bytes, content: bytes = b"8 bytes.") -> Page:
    return Page(name, content_digest(FORM.key, name, content), content)


class Lending:
    """A lender that says what is written down, whatever it hears, and notes what that was."""

    def __init__(self, *says) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.source = PrefixSource(*self._listening.getsockname()[:2], "lease", "token")
        self.heard = []
        self._says = says
        self._thread = threading.Thread(target=self._answer, daemon=True)
        self._thread.start()

    def _answer(self) -> None:
        connection, _ = self._listening.accept()
        with connection, self._listening:
            line = Line(connection, ToLender, 2.0, time.monotonic() + 3.0)
            for answers in self._says:
                self.heard.append(line.receive())
                for each in answers:
                    line.send(each)
            self.heard.append(line.receive())

    def joined(self) -> list:
        self._thread.join(4.0)
        return self.heard


def got(lending: Lending) -> tuple[int, list]:
    taken: list = []
    return fetch(lending.source, NAMES, FORM, lambda *each: taken.append(each), QUICK), taken


def test_what_arrives_whole_is_delivered_once() -> None:
    lending = Lending([page(NAMES[0]), page(NAMES[1], b"other 8."), Sent()])
    assert got(lending) == (0, [(NAMES[0], b"8 bytes."), (NAMES[1], b"other 8.")])
    assert lending.joined() == [Pull("lease", "token", FORM, tuple(NAMES)), Done()]


def test_damaged_swapped_and_unasked_pages_are_not_delivered_but_asked_for_again() -> None:
    swapped = Page(NAMES[0], page(NAMES[1]).digest, page(NAMES[1]).content)
    lending = Lending([swapped, page(b"c" * 32), page(NAMES[1]), page(NAMES[1]), Sent()], [page(NAMES[0]), Sent()])
    assert got(lending) == (0, [(NAMES[1], b"8 bytes."), (NAMES[0], b"8 bytes.")])
    assert [each.names for each in lending.joined()[:2]] == [tuple(NAMES), (NAMES[0],)]


def test_what_is_not_there_is_counted() -> None:
    lending = Lending([page(NAMES[1]), Sent()])
    assert got(lending) == (1, [(NAMES[1], b"8 bytes.")])
    assert lending.joined()[-1] == Done()


@pytest.mark.parametrize(
    ("says", "why"),
    [
        ([Refused("the pages are of another format")], "another format"),
        ([page(NAMES[0])], "hung up|does not answer"),
        ([Done()], "what is no frame"),
    ],
)
def test_a_lender_that_fails_is_named_and_what_came_before_is_kept(says, why) -> None:
    taken: list = []
    with pytest.raises(TransferError, match=why):
        fetch(Lending(says).source, NAMES, FORM, lambda *each: taken.append(each), QUICK)
    assert taken == [(each.name, each.content) for each in says if isinstance(each, Page)]


def test_declining_says_so_and_does_not_mind_if_nobody_listens() -> None:
    lending = Lending([])  # which waits for another frame, in vain
    decline(lending.source, QUICK)
    assert lending.joined() == [Decline("lease", "token"), None]
    decline(PrefixSource("127.0.0.1", 1, "lease", "token"), QUICK)
