"""What two workers say to each other to hand pages over: typed frames, as in messages.py, on a TCP connection.

    who fetches -> who lends   Pull (again, for pages that came damaged), then Done; or Decline
    who lends -> who fetches   Page, Page, ... Sent; or Refused, at any point, and the connection ends

A lease's token is the only key, made for it and good for its pages alone. Frames are not encrypted: pages travel on a
network that only the workers share.
"""

from __future__ import annotations

import socket
import time

import msgspec

from fathom.batching.pages import PageFormat
from fathom.errors import WorkerError
from fathom.serve import messages
from fathom.serve.messages import Message

MOST_ASKED_BYTES = 4 * 1024 * 1024  # of a frame to the lender: names of 100,000 pages; strangers get no more memory


class TransferError(WorkerError):
    """Pages did not come as asked; whoever wanted them computes them."""


class Pull(Message, frozen=True, tag="pull"):
    """Send the pages of a lease that have these names, in this order. `form`: how the asker would read them."""

    lease: str
    token: str
    form: PageFormat
    names: tuple[bytes, ...]


class Page(Message, frozen=True, tag="page"):
    """One page. digest: `content_digest` of its format, name and content."""

    name: bytes
    digest: bytes
    content: bytes


class Sent(Message, frozen=True, tag="sent"):
    """That were all pages that were asked for and are there."""


class Done(Message, frozen=True, tag="done"):
    """Everything has arrived: the lease can end."""


class Decline(Message, frozen=True, tag="decline"):
    """The asker gives up: the lease can end."""

    lease: str
    token: str


class Refused(Message, frozen=True, tag="refused"):
    """There will be no (more) pages."""

    message: str


ToLender = Pull | Done | Decline
ToAsker = Page | Sent | Refused


class Line:
    """One connection that carries frames. No call waits longer than `silence_s`, nor beyond `until_s` (monotonic).

    Args:   says: the frames that the peer may send, `most_bytes` each.
    Raises: TransferError, of every method: the peer is gone, silent, or says what is no frame.
    """

    def __init__(
        self, connection: socket.socket, says: object, silence_s: float, until_s: float,
        most_bytes: int = messages.MAX_FRAME_BYTES,
    ) -> None:  # fmt: skip
        self._socket = connection
        self._decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(says)
        self._silence_s, self._until_s, self._most_bytes = silence_s, until_s, most_bytes

    def send(self, message: Message) -> None:
        try:
            self._patience()
            self._socket.sendall(messages.pack(message))  # the time-out is for all of it
        except OSError as error:
            raise TransferError(f"the peer does not take a frame: {error}") from error

    def receive(self) -> Message | None:
        """The next frame; None if the peer has hung up between two."""
        header = self._read(messages.LENGTH_BYTES, may_end=True)
        if not header:
            return None
        try:
            size = messages.frame_bytes(bytes(header))
            if size > self._most_bytes:
                raise ValueError(f"the frame has {size} bytes; it must have at most {self._most_bytes}")
            return self._decoder.decode(self._read(size))
        except (ValueError, msgspec.MsgspecError) as error:
            raise TransferError(f"the peer sent what is no frame: {error}") from error

    def _read(self, size: int, *, may_end: bool = False) -> bytearray:
        received = bytearray()
        try:
            while len(received) < size:
                self._patience()
                piece = self._socket.recv(min(size - len(received), 1 << 20))
                if not piece:
                    if may_end and not received:
                        break
                    raise TransferError("the peer hung up in the middle of a frame")
                received += piece
        except OSError as error:
            raise TransferError(f"the peer does not answer: {error}") from error
        return received

    def _patience(self) -> None:
        left_s = self._until_s - time.monotonic()
        if left_s <= 0.0:
            raise TransferError("the transfer took longer than it may")
        self._socket.settimeout(min(self._silence_s, left_s))
