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
from fathom.parallel.control import (
    GREETING_BYTES,
    SILENT_S,
    TAKEN,
    UNKNOWN,
    WELCOME,
    Desk,
    Link,
    _proof,
    family_of,
    report_to,
)

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


def words(connection: socket.socket) -> list[bytes]:
    """What somebody who has answered hears until the connection is closed, as it must be soon."""
    _answers[connection].join(10)
    connection.settimeout(5)
    link, heard = Link(connection), []
    while (frame := link.receive()) is not None:
        heard.append(frame)
    return heard


def hears(connection: socket.socket) -> bytes | None:
    """The first order of somebody who is welcome."""
    _answers[connection].join(10)
    link = Link(connection)
    assert link.receive() == WELCOME
    return link.receive()


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
    known_rank = token == b"secret" and rank.isdigit()
    assert words(stranger) in ([TAKEN if known_rank else UNKNOWN], [])  # [] where not even a frame was sent
    found[1].send(b"you")
    assert hears(known) == b"you"
    for each in (stranger, known, found[1]):
        each.close()


def test_a_proof_is_of_no_use_to_somebody_else(desk: Desk) -> None:
    """Each challenge is another one."""
    told = greet(desk, b"secret", b"1")
    desk.assemble(2, 5.0)[1].close()
    again = greet(desk, b"", b"", _proof(b"secret", b"an older challenge", b"1") + b" 1")
    with pytest.raises(WorkerError):
        desk.assemble(2, 0.5)
    assert words(again) == [UNKNOWN]
    told.close()
    again.close()


def test_a_second_rank_of_the_same_number_is_turned_away(desk: Desk) -> None:
    connections = [greet(desk, b"secret", rank) for rank in (b"1", b"1", b"2")]
    found = desk.assemble(3, 5.0)
    found[1].send(b"first")
    assert hears(connections[0]) == b"first"
    assert words(connections[1]) == [TAKEN]
    for each in (*connections, *found.values()):
        each.close()


def test_who_does_not_come_is_named(desk: Desk) -> None:
    here = greet(desk, b"secret", b"2")
    started = monotonic()
    with pytest.raises(WorkerError, match=r"rank 1, 3 did not come within 0\.3 s"):
        desk.assemble(4, 0.3)
    assert monotonic() - started < 2
    assert words(here) == [WELCOME], "those who came are let go"
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
    assert words(here) == [WELCOME]
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


def test_another_token_is_told_at_once_on_both_sides(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    waiting = threading.Thread(target=lambda: pytest.raises(WorkerError, desk.assemble, 2, 1.0), daemon=True)
    waiting.start()
    with pytest.raises(WorkerError, match=f"the leader at {HOST} port {desk.port} has another secret"):
        report_to(HOST, desk.port, "another", 1, 60.0)
    waiting.join(10)
    assert f"somebody at {HOST} does not know the group's secret" in caplog.text


def test_a_rank_that_comes_back_waits_until_the_one_before_is_gone() -> None:
    """Its leader does not know yet that the first one died; the next leader takes it."""
    first = Desk(HOST, TOKEN)
    port, links = first.port, list[Link]()
    ranks = [
        threading.Thread(target=lambda rank=rank: links.append(report_to(HOST, port, TOKEN, rank, 20.0)), daemon=True)
        for rank in (1, 1)
    ]
    for rank in ranks:
        rank.start()
    with pytest.raises(WorkerError, match="rank 2 did not come"):
        first.assemble(3, 0.5)
    assert len(links) == 1
    first.close()
    second = Desk(HOST, TOKEN, port)
    found = second.assemble(2, 10.0)
    for rank in ranks:
        rank.join(10)
    assert len(links) == 2
    for each in (*links, *found.values(), second):
        each.close()


def test_what_is_no_leader_is_not_taken_for_one() -> None:
    """A web server, say."""
    with socket.create_server((HOST, 0)) as listening:
        port = listening.getsockname()[1]

        def talk() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    with connection:
                        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        threading.Thread(target=talk, daemon=True).start()
        with pytest.raises(WorkerError, match=f"finds no leader at {HOST} port {port} .a frame of"):
            report_to(HOST, port, TOKEN, 1, 0.3)


def test_a_port_that_is_taken_is_named(desk: Desk) -> None:
    with pytest.raises(WorkerError, match=f"cannot listen at {HOST} port {desk.port}"):
        Desk(HOST, TOKEN, desk.port)
    with pytest.raises(WorkerError, match=r"cannot listen at 192\.0\.2\.1"):  # an address of nobody (RFC 5737)
        Desk("192.0.2.1", TOKEN)


def test_names_and_literals_have_a_family() -> None:
    assert family_of("127.0.0.1") == socket.AF_INET and family_of("::1") == socket.AF_INET6
    with pytest.raises(OSError):
        family_of("no.such.host.invalid")


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="Linux only")
def test_a_link_ends_when_its_other_end_is_silent_for_too_long(ends: tuple[Link, socket.socket]) -> None:
    """That it does is seen with a real link that is cut: tests/cluster/test_hosts.py."""
    link, _ = ends
    assert link._socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert link._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == SILENT_S * 1000
