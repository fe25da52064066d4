"""Every frame survives the way, and nothing but these frames does."""

from __future__ import annotations

import socket
import time
from typing import get_args

import pytest

from fathom.batching.pages import PageFormat
from fathom.serve import messages
from fathom.serve.transfer_messages import (
    Decline,
    Done,
    Line,
    Page,
    Pull,
    Refused,
    Sent,
    ToAsker,
    ToLender,
    TransferError,
)

FORM = PageFormat("config", "probe", "f32", "torch", "float32", 2, 4, 8)
FRAMES = [
    (ToLender, Pull("lease", "token", FORM, (b"\0" * 32, b"\xff" * 32))),
    (ToLender, Done()),
    (ToLender, Decline("lease", "token")),
    (ToAsker, Page(b"name", b"digest", bytes(range(256)))),
    (ToAsker, Sent()),
    (ToAsker, Refused("why")),
]


def test_every_frame_is_tried() -> None:
    assert {type(frame) for _, frame in FRAMES} == {*get_args(ToLender), *get_args(ToAsker)}


@pytest.mark.parametrize(("says", "frame"), FRAMES, ids=lambda each: type(each).__name__)
def test_a_frame_arrives_as_it_was(says, frame) -> None:
    here, there = socket.socketpair()
    with here, there:
        Line(here, says, 1.0, time.monotonic() + 5.0).send(frame)
        line = Line(there, says, 1.0, time.monotonic() + 5.0)
        assert line.receive() == frame
        here.close()
        assert line.receive() is None


@pytest.mark.parametrize("frame", [Sent(), messages.Shutdown()], ids=lambda each: type(each).__name__)
def test_what_only_the_other_side_says_is_refused(frame) -> None:
    here, there = socket.socketpair()
    with here, there:
        here.sendall(messages.pack(frame))
        with pytest.raises(TransferError, match="what is no frame"):
            Line(there, ToLender, 1.0, time.monotonic() + 5.0).receive()


def test_a_frame_that_stops_in_the_middle_or_is_too_long_is_none() -> None:
    for said in (messages.pack(Done())[:-1], b"\xff\xff\xff\xff"):
        here, there = socket.socketpair()
        with here, there:
            here.sendall(said)
            here.close()
            with pytest.raises(TransferError, match="middle of a frame|what is no frame"):
                Line(there, ToLender, 1.0, time.monotonic() + 5.0).receive()
