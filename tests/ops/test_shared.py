"""Processes of one host that share memory: messages of all sizes arrive whole, and nobody waits for ever."""

import os
import time
from collections.abc import Callable

import pytest
import torch

from fathom.ops import shared
from fathom.ops.dispatch import library
from fathom.ops.shared import Room, make_room

pytestmark = pytest.mark.skipif(library() is None, reason="no native kernels")
SMALL = 4096  # bytes of a desk, so that messages take many turns


def together(size: int, work: Callable[[Room], None], timeout_s: float = 10.0) -> list[int]:
    """Exit codes of `size` processes that do the work: 0 if it was done, 3 if it raised RuntimeError."""
    descriptor = make_room(size, SMALL)
    assert descriptor is not None
    children = []
    for rank in range(size):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                torch.set_num_threads(1)
                work(Room(descriptor, size, rank, timeout_s, cores=False, capacity=SMALL))
                code = 0
            except RuntimeError:
                code = 3
            finally:
                os._exit(code)
        children.append(child)
    os.close(descriptor)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


@pytest.mark.parametrize("size", [2, 3, 5])
def test_everybody_gets_everybodys_numbers_in_order_of_rank(size: int) -> None:
    def work(room: Room) -> None:
        for count in (1, 7, 512, 513, 5000):
            expected = torch.stack([torch.arange(count) + 10_000 * rank for rank in range(size)])
            found = room.gather(torch.arange(count) + 10_000 * room.rank)
            assert torch.equal(found, expected)

    assert together(size, work) == [0] * size


@pytest.mark.parametrize("size", [2, 4])
def test_rows_come_from_each_sender_to_each_receiver(size: int) -> None:
    def work(room: Room) -> None:
        draw = torch.Generator().manual_seed(0)
        for turn in range(40):
            counts = torch.randint(0, 200 if turn % 3 else 2, (size, size), generator=draw)
            rows = [[torch.full((int(counts[a, b]), 6), float(100 * a + b)) for b in range(size)] for a in range(size)]
            into = torch.empty(int(counts[:, room.rank].sum()), 8)[:, :6]  # of rows with something between them
            incoming, outgoing = counts[:, room.rank].tolist(), counts[room.rank].tolist()
            room.exchange(into, torch.cat(rows[room.rank]), incoming, outgoing)
            assert torch.equal(into, torch.cat([rows[sender][room.rank] for sender in range(size)]))

    assert together(size, work) == [0] * size


def test_who_waits_for_somebody_that_never_comes_hears_so_in_time() -> None:
    def work(room: Room) -> None:
        if room.rank == 0:
            room.gather(torch.ones(3))

    began = time.monotonic()
    assert together(2, work, timeout_s=0.3) == [3, 0]
    assert time.monotonic() - began < 5


def test_who_waits_is_woken_when_the_group_is_given_up() -> None:
    def work(room: Room) -> None:
        if room.rank == 0:
            room.gather(torch.ones(3))
        time.sleep(0.2)
        room.give_up()
        room.gather(torch.ones(3))  # whoever comes later hears it too

    began = time.monotonic()
    assert together(2, work, timeout_s=60) == [3, 3]
    assert time.monotonic() - began < 5


def test_a_room_has_no_name_and_no_room_for_one_or_too_many(monkeypatch) -> None:
    descriptor = make_room(2, SMALL)
    assert descriptor is not None and os.fstat(descriptor).st_nlink == 0
    os.close(descriptor)
    assert make_room(1) is None and make_room(shared.MOST_RANKS + 1) is None
    monkeypatch.setattr(shared, "library", lambda: None)
    assert make_room(2) is None
