"""Who fetches: the pages of one lease, each checked as it comes.

A function for a thread of its own: it may wait for the peer, and for whoever takes the pages in.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Sequence

from fathom.batching.leases import Patience
from fathom.batching.pages import PageFormat, content_digest
from fathom.batching.request import PrefixSource
from fathom.serve.transfer_messages import Decline, Done, Line, Page, Pull, Refused, Sent, ToAsker, TransferError

TRIES = 2  # of a page that comes damaged


def fetch(
    source: PrefixSource, names: Sequence[bytes], form: PageFormat, deliver: Callable[[bytes, bytes], None],
    patience: Patience,
) -> int:  # fmt: skip
    """Have `deliver` called with (name, content) of each page that arrives whole; how many of `names` did not.

    Raises: TransferError: the peer refused, vanished or took too long. What was delivered before is good.
    """
    until_s = time.monotonic() + patience.pull_s
    missing = dict.fromkeys(names)
    with _connected(source, patience) as connection:
        line = Line(connection, ToAsker, patience.silence_s, until_s)
        for _ in range(TRIES):
            line.send(Pull(source.lease, source.token, form, tuple(missing)))
            if not _receive(line, missing, form, deliver):
                break
        line.send(Done())
    return len(missing)


def decline(source: PrefixSource, patience: Patience) -> None:
    """Tell the lender that its pages are not wanted. If it cannot be told, the lease ends by its deadline."""
    with contextlib.suppress(TransferError), _connected(source, patience) as connection:
        line = Line(connection, ToAsker, patience.silence_s, time.monotonic() + patience.silence_s)
        line.send(Decline(source.lease, source.token))


def _connected(source: PrefixSource, patience: Patience) -> socket.socket:
    try:
        return socket.create_connection((source.host, source.port), patience.connect_s)
    except OSError as error:
        raise TransferError(f"{source.host}:{source.port} cannot be reached ({error})") from error


def _receive(line: Line, missing: dict[bytes, None], form: PageFormat, deliver: Callable[[bytes, bytes], None]) -> bool:
    """Take what one Pull brings, off `missing` what is whole; whether any page came damaged."""
    damaged = False
    while True:
        match line.receive():
            case Page(name, digest, content):
                if name not in missing or content_digest(form.key, name, content) != digest:
                    damaged = True
                    continue
                del missing[name]
                deliver(name, content)
            case Sent():
                return damaged
            case Refused(message):
                raise TransferError(message)
            case _:
                raise TransferError("the peer hung up before it had sent everything")
