"""A rank of a group: it owns a part of the model, and does what its leader orders.

Started as `python -m fathom.engine.rank HOST PORT RANK`, by way of parallel/tied.py; the token that the leader knows it
by is the first line of its standard input. It holds no policy and no request: every rank of a lane executes the same
Plan, fetches from its peers what they compute, and comes to the same tokens.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress

from fathom.engine import orders
from fathom.engine.part import Part
from fathom.engine.place import Place
from fathom.errors import FathomError, InputError, WorkerError
from fathom.parallel.control import Link, report_to
from fathom.parallel.groups import talk_over

log = logging.getLogger(__name__)

FIND_LEADER_S = 600.0  # as long as a leader waits for its ranks; a link may be down for a while


def follow(link: Link, rank: int) -> int:
    """Do what the leader orders until it says Leave, or is gone; returns the exit code."""
    inbox: queue.SimpleQueue[orders.ToRank] = queue.SimpleQueue()
    place = Place()
    threading.Thread(target=_read, args=(link, inbox, place), name="orders", daemon=True).start()
    part: Part | None = None

    def tell(message: orders.ToLeader) -> None:
        link.send(orders.pack(message))

    try:
        while not isinstance(order := inbox.get(), orders.Leave):
            match order:
                case orders.Load():
                    part = Part(order, rank, place, order.threads or 1)
                    tell(orders.Loaded(part.model.weight_bytes, round(part.load_s, 3)))
                case _:
                    assert part is not None, "Load comes first"
                    answer = part.obey(order, tell)
                    if answer is not None:
                        tell(answer)
    except (FathomError, RuntimeError, OSError, MemoryError) as error:
        log.error("rank %d: %s", rank, error)
        fault = "input" if isinstance(error, InputError) else ""
        with suppress(OSError):  # the leader may be gone
            link.send(orders.pack(orders.Broke(f"{type(error).__name__}: {error}", fault)))
        inbox.get()  # the leader ends us, after it has asked everybody where they are
        return 1 if fault else orders.GONE
    if part is not None:
        part.close()
    return 0


def _read(link: Link, inbox: queue.SimpleQueue[orders.ToRank], place: Place) -> None:
    """Orders to the queue; Where and Fetch are answered at once, even in the middle of a step."""
    try:
        while (frame := link.receive()) is not None:
            order = orders.to_rank(frame)
            if isinstance(order, orders.Where):
                link.send(orders.pack(place.at))
                continue
            if isinstance(order, orders.Fetch):
                link.send(orders.pack(place.fetch(order)))
                continue
            inbox.put(order)
            if isinstance(order, orders.Leave):
                return  # the connection may close now
    except OSError:
        pass  # it is gone
    except ValueError:
        log.exception("the leader sent what is no order; leaving")
    os._exit(orders.GONE)  # not sys.exit: the main thread may be deep in a forward, whose result nobody will read


def main(arguments: Sequence[str] | None = None, read_token: Callable[[], str] = sys.stdin.readline) -> int:
    """Entry point of the process."""
    host, port, rank, *_ = sys.argv[1:] if arguments is None else arguments
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.basicConfig(level=logging.INFO, format=f"rank {rank}: %(message)s")
    token = read_token().strip()
    try:
        link = report_to(host, int(port), token, int(rank), FIND_LEADER_S)
    except WorkerError as error:
        log.error("%s", error)
        return error.exit_code
    talk_over(link.address)
    return follow(link, int(rank))


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # threads of torch.distributed may wait for peers that are gone
