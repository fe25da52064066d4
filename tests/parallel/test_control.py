"""Frames arrive whole or not at all, and only those who know the token, once each, are taken for ranks."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import suppress
from time import monotonic

import pytest

from fathom.errors import WorkerError
from fathom.parallel.control import GREETING_BYTES, Desk, Link, _proof, report_to

HOST, TOKEN = "127.0.0.1", "secret"


@pytest.fixture
def ends() -> Iterator[tuple[Link, socket.socket]]:
    """A link, and the bare socket at its other end."""
    listening = socket.create_server((HOST, 0))
    far = socket.create_connection(listening.getsockname())
    near, _ = listening.accept()
    link = Link(near)
    yield link, far
    for each in (link, far, listening):
        each.close()


@pytest.fixture
def desk() -> Iterator[Desk]:
    opened = Desk(HOST, TOKEN)
    yield opened
    opened.close()


def greet(desk: Desk, token: bytes, rank: bytes, instead: bytes | None = None) -> socket.socket:
    """Somebody who answers the challenge so, or with something else."""
    connection = socket.create_connection((HOST, desk.port))

    def answer() -> None:
        link = Link(connection)
        challenge = link.receive()
        if challenge is not None:
            with suppress(OSError):
                link.send(_proof(token, challenge, rank) + b" " + rank if instead is None else instead)

    _answers[connection] = threading.Thread(target=answer, daemon=True)
    _answers[connection].start()
    return connection


_answers: dict[socket.socket, threading.Thread] = {}


def is_turned_away(connection: socket.socket) -> bool:
    """Whether it is closed without a word, once it has answered."""
    _answers[connection].join(10)
    connection.settimeout(5)
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:  # what it said was not even read
        return True


def framed(content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + content


def test_frames_arrive_whole_and_in_order(ends: tuple[Link, socket.socket]) -> None:
    link, far = ends
    other = Link(far)
    frames = [b"", b"a", bytes(range(256)) * 9000, b"last"]  # one is larger than any buffer of a socket
    sender = threading.Thread(target=lambda: [other.send(frame) for frame in frames])
    sender.start()
    assert [link.receive() for _ in frames] == frames
    sender.join()


def test_frames_of_several_threads_do_not_mix(ends: tuple[Link, socket.socket]) -> None:
    link, far = ends
    other = Link(far)
    senders = [
        threading.Thread(target=lambda fill=fill: [other.send(bytes([fill]) * 70_000) for _ in range(5)])
        for fill in (1, 2, 3)
    ]
    for sender in senders:
        sender.start()
    got = [link.receive() for _ in range(15)]
    assert all(frame is not None and len(frame) == 70_000 and len(set(frame)) == 1 for frame in got)
    for sender in senders:
        sender.join()


def test_a_frame_that_is_too_large_is_refused_before_it_is_read(ends: tuple[Link, socket.socket]) -> None:
    link, far = ends
    far.sendall(struct.pack(">I", 101))
    with pytest.raises(ValueError, match="a frame of 101 bytes; at most 100"):
        link.receive(100)


@pytest.mark.parametrize("sent", [b"", b"\0\0", framed(b"half of it")[:7]])
def test_half_a_frame_is_none(ends: tuple[Link, socket.socket], sent: bytes) -> None:
    link, far = ends
    far.sendall(sent)
    far.close()
    assert link.receive() is None


def test_closing_wakes_who_is_receiving(ends: tuple[Link, socket.socket]) -> None:
    """The other end may be stopped and never close."""
    link, _ = ends
    got: list[bytes | None] = []
    reader = threading.Thread(target=lambda: got.append(link.receive()), daemon=True)
    reader.start()
    reader.join(0.05)
    link.close()
    reader.join(5)
    assert got == [None]
    link.close()  # again does no harm


def test_ranks_find_their_leader_and_are_told_apart(desk: Desk) -> None:
    links: dict[int, Link] = {}
    ranks = [
        threading.Thread(target=lambda rank=rank: links.update({rank: report_to(HOST, desk.port, TOKEN, rank, 5.0)}))
        for rank in (3, 1, 2)
    ]
    for rank in ranks:
        rank.start()
    found = desk.assemble(4, 5.0)
    for rank in ranks:
        rank.join()
    assert found.keys() == {1, 2, 3}
    for number, link in links.items():
        link.send(f"rank {number}".encode())
        assert found[number].receive() == f"rank {number}".encode()
        found[number].send(b"order")
        assert link.receive() == b"order"
        link.close()
        assert found[number].receive() is None
        found[number].close()


@pytest.mark.parametrize(
    ("token", "rank", "instead"),
    [
        (b"wrong", b"1", None), (b"", b"1", None), (b"secret", b"", None), (b"secret", b"0", None),
        (b"secret", b"2", None), (b"secret", b"-1", None), (b"secret", b"1 ", None), (b"secret", b"\xc2\xb9", None),
        (b"", b"", b""), (b"", b"", b"secret 1"), (b"", b"", b"x" * (GREETING_BYTES + 1)),
    ],
)  # fmt: skip
def test_strangers_are_turned_away(desk: Desk, token: bytes, rank: bytes, instead: bytes | None) -> None:
    stranger, known = greet(desk, token, rank, instead), greet(desk, b"secret", b"1")
    found = desk.assemble(2, 5.0)
    assert found.keys() == {1}
    assert is_turned_away(stranger)
    found[1].send(b"you")
    assert Link(known).receive() == b"you"
    for each in (stranger, known, found[1]):
        each.close()


def test_a_proof_is_of_no_use_to_somebody_else(desk: Desk) -> None:
    """Each challenge is another one."""
    told = greet(desk, b"secret", b"1")
    desk.assemble(2, 5.0)[1].close()
    again = greet(desk, b"", b"", _proof(b"secret", b"an older challenge", b"1") + b" 1")
    with pytest.raises(WorkerError):
        desk.assemble(2, 0.5)
    assert is_turned_away(again)
    told.close()
    again.close()


def test_a_second_rank_of_the_same_number_is_turned_away(desk: Desk) -> None:
    connections = [greet(desk, b"secret", rank) for rank in (b"1", b"1", b"2")]
    found = desk.assemble(3, 5.0)
    found[1].send(b"first")
    assert Link(connections[0]).receive() == b"first"
    assert is_turned_away(connections[1])
    for each in (*connections, *found.values()):
        each.close()


def test_who_does_not_come_is_named(desk: Desk) -> None:
    here = greet(desk, b"secret", b"2")
    started = monotonic()
    with pytest.raises(WorkerError, match=r"rank 1, 3 did not come within 0\.3 s"):
        desk.assemble(4, 0.3)
    assert monotonic() - started < 2
    assert is_turned_away(here), "those who came are let go"
    here.close()


def test_nobody_waits_for_those_who_cannot_come(desk: Desk) -> None:
    here = greet(desk, b"secret", b"1")
    checks: list[None] = []

    def check() -> None:
        checks.append(None)
        if len(checks) == 3:
            raise WorkerError("rank 2 has ended")

    with pytest.raises(WorkerError, match="rank 2 has ended"):
        desk.assemble(3, 60.0, check)
    assert is_turned_away(here)
    here.close()


def test_a_rank_without_a_leader_says_where_it_looked(desk: Desk) -> None:
    desk.close()
    with pytest.raises(WorkerError, match=f"rank 7 finds no leader at {HOST} port {desk.port}"):
        report_to(HOST, desk.port, TOKEN, 7, 0.2)


def test_a_leader_may_come_late() -> None:
    listening = socket.create_server((HOST, 0))
    port = listening.getsockname()[1]
    listening.close()
    opened: list[Desk] = []
    threading.Timer(0.3, lambda: opened.append(Desk(HOST, TOKEN, port))).start()
    links: list[Link] = []
    rank = threading.Thread(target=lambda: links.append(report_to(HOST, port, TOKEN, 1, 10.0)), daemon=True)
    rank.start()
    rank.join(0.5)
    found = opened[0].assemble(2, 5.0)
    rank.join(5)
    assert found.keys() == {1}
    for each in (links[0], found[1], opened[0]):
        each.close()
