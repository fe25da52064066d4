"""The worker's door: who may come in, how much strangers may say, and that the newest front is the one served."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from fathom.errors import ConfigError
from fathom.serve import connection, messages
from fathom.serve.connection import Connection, Door, Gone
from fathom.serve.secret import proof

SECRET = b"correct horse battery staple"


class Front:
    """A front, spoken for by hand."""

    def __init__(self, door: Door, secret: bytes | None = SECRET) -> None:
        self.socket = socket.create_connection(("127.0.0.1", door.port), timeout=5)
        self.stream = self.socket.makefile("rb")
        if secret is not None:
            challenge = self.read()
            assert isinstance(challenge, messages.Challenge)
            self.send(messages.Answer(proof(secret, challenge.nonce)))

    def send(self, message: messages.Message) -> None:
        self.socket.sendall(messages.pack(message))

    def read(self) -> messages.ToFront | None:
        header = self.stream.read(messages.LENGTH_BYTES)
        return messages.unpack_to_front(self.stream.read(messages.frame_bytes(header))) if header else None

    def is_turned_away(self) -> bool:
        try:
            return self.stream.read(1) == b""
        except ConnectionError:
            return True


@pytest.fixture
def door() -> Iterator[Door]:
    opened = Door("127.0.0.1:0", SECRET)
    yield opened
    opened._listening.close()


def test_who_knows_the_secret_is_let_in_and_pings_are_answered(door: Door) -> None:
    front = Front(door)
    inside = door.next()
    front.send(messages.Ping())
    assert isinstance(front.read(), messages.Pong)
    front.send(messages.Abort("a"))
    assert inside.next() == messages.Abort("a")
    inside.send(messages.Stats(running=3))
    assert front.read() == messages.Stats(running=3)
    front.socket.shutdown(socket.SHUT_RDWR)
    with pytest.raises(Gone):
        inside.next()
    with pytest.raises(Gone):
        inside.send(messages.Stats())


@pytest.mark.parametrize(
    "said",
    [
        messages.pack(messages.Answer(proof(b"another secret altogether", b"x"))),
        messages.pack(messages.Hello("model")),  # no answer at all
        (messages.MAX_ANSWER_BYTES + 1).to_bytes(4, "big") + b"x" * 2000,
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
def test_strangers_are_turned_away(door: Door, said: bytes) -> None:
    stranger = Front(door, secret=None)
    assert isinstance(stranger.read(), messages.Challenge)
    stranger.socket.sendall(said)
    assert stranger.is_turned_away()
    Front(door)
    assert isinstance(door.next(), Connection)  # and the next one is let in


def test_a_stranger_who_says_nothing_does_not_stay(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "ANSWER_S", 0.1)
    stranger = Front(door, secret=None)
    assert isinstance(stranger.read(), messages.Challenge)
    for _ in range(4):  # a byte now and then does not help
        time.sleep(0.04)
        try:
            stranger.socket.sendall(b"\0")
        except OSError:
            break
    assert stranger.is_turned_away()


def test_the_newest_front_is_the_one_that_is_served(door: Door) -> None:
    first = Front(door)
    before = door.next()
    second = Front(door)
    after = door.next()
    with pytest.raises(Gone):
        before.next()
    assert first.is_turned_away()
    second.send(messages.Shutdown())
    assert after.next() == messages.Shutdown()


def test_a_front_that_is_silent_for_too_long_is_gone(door: Door) -> None:
    front = Front(door)
    inside = door.next()
    front.send(messages.Hello("model", beat_s=0.02, silent_beats=5))
    assert isinstance(inside.next(), messages.Hello)
    for _ in range(10):
        front.send(messages.Ping())
        time.sleep(0.02)
    assert inside.inbox.empty()
    begun = time.monotonic()
    with pytest.raises(Gone):
        inside.next()
    assert time.monotonic() - begun < 2


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1:x", "192.0.2.1:0"])
def test_an_address_that_is_not_ours_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="cannot listen on"):
        Door(address, SECRET)
