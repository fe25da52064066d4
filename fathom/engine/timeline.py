"""What a process did of late, piece after piece, and how that is shown by trace viewers.

    timeline.begin("forward")        ends what was going on, and begins this
    timeline.events                  (op, layer, step, begin, end), the oldest first

A process does one thing at a time as far as its timeline goes, so pieces never overlap. Times are of this host's
monotonic clock, which all its processes share; those of other hosts are moved by an estimated offset (`ask_clock`).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

import msgspec

from fathom.parallel.comm import Ranks

Event = tuple[str, int, int, float, float]
"""op, layer (-1: of none), step, begin and end [s]."""

MOST_EVENTS = 16384  # some 3 MB; a step of 61 layers with peers has about 500
PEER_OPS = ("begin", "columns", "rows", "dispatch", "combine", "receive", "send")
CLOCK_TRIES = 5


class Timeline:
    """The latest events of one process.

    Attributes: step: set by whoever knows. op_s: seconds that each op has taken since the process began.
    """

    def __init__(self, most: int = MOST_EVENTS) -> None:
        self.step, self.op_s = 0, dict[str, float]()
        self.events: deque[Event] = deque(maxlen=most)
        self._op, self._layer, self._begun = "start", -1, monotonic()
        self._before = "start"
        self.begun = 0  # how many

    def begin(self, op: str, layer: int = -1) -> None:
        """End what is going on, and begin this."""
        now, was, begun = monotonic(), self._op, self._begun
        self.events.append((was, self._layer, self.step, begun, now))
        self.op_s[was] = self.op_s.get(was, 0.0) + now - begun
        self._before, self._op, self._layer, self._begun = was, op, layer, now
        self.begun += 1

    def end(self) -> None:
        """End what is going on, and go on with what was before; the layer stays."""
        self.begin(self._before, self._layer)

    def latest(self, most: int = MOST_EVENTS) -> list[Event]:
        """At most so many events, the oldest first."""
        events = list(self.events)
        return events[max(0, len(events) - most) :]

    def follow(self, peers: Ranks) -> Ranks:
        """Peers whose ops end here too: they only say what they begin."""
        for op in PEER_OPS:
            setattr(peers, op, self._ending(getattr(peers, op)))
        return peers

    def _ending(self, ask: Callable[..., Any]) -> Callable[..., Any]:
        def asked(*arguments: Any) -> Any:
            begun = self.begun
            try:
                return ask(*arguments)
            finally:
                if self.begun != begun:  # without a peer, nothing is begun
                    self.end()

        return asked


@dataclass(frozen=True)
class Trace:
    """The events of one rank.

    Fields: lane: data-parallel. clock_s: what its clock shows when the leader's shows 0, give or take `error_s` [s].
    """

    rank: int
    lane: int
    events: Sequence[Event]
    clock_s: float = 0.0
    error_s: float = 0.0


def ask_clock(ask: Callable[[], float], tries: int = CLOCK_TRIES) -> tuple[float, float]:
    """How far another host's clock is ahead of this one's, and by how much that may be wrong [s].

    The quickest of a few questions counts: its answer was given somewhere between sending and hearing.
    """
    found = []
    for _ in range(tries):
        sent_s = monotonic()
        there_s = ask()
        heard_s = monotonic()
        found.append(((heard_s - sent_s) / 2, there_s - (sent_s + heard_s) / 2))
    error_s, ahead_s = min(found)
    return ahead_s, error_s


def chrome(traces: Iterable[Trace], *, name: str = "engine", first_pid: int = 0) -> bytes:
    """The list of events that chrome://tracing and https://ui.perfetto.dev read, as JSON.

    One process per rank, numbered from `first_pid`, in it one thread, its lane. Times are microseconds since 1970 by
    this host's clock; a mark across the process stands where a step begins.

    Source: "Trace Event Format", Google: complete (X), instant (i) and metadata (M) events.
    """
    since_1970_s = time.time() - monotonic()
    found: list[dict[str, Any]] = []
    for trace in traces:
        pid, shift_s = first_pid + trace.rank, since_1970_s - trace.clock_s
        about = f"{name} rank {trace.rank}" + (f", clock +-{trace.error_s * 1e6:.0f} us" if trace.error_s else "")
        at = {"pid": pid, "tid": trace.lane}
        found.append({"ph": "M", "name": "process_name", "args": {"name": about}, **at})
        found.append({"ph": "M", "name": "thread_name", "args": {"name": f"lane {trace.lane}"}, **at})
        latest = None
        for op, layer, step, begin_s, end_s in trace.events:
            ts, args = round((begin_s + shift_s) * 1e6, 1), {"step": step} | ({"layer": layer} if layer >= 0 else {})
            if step != latest:
                found.append({"ph": "i", "name": f"step {step}", "ts": ts, "s": "p", **at})
                latest = step
            length = round((end_s - begin_s) * 1e6, 1)
            found.append({"ph": "X", "name": op, "cat": kind(op), "ts": ts, "dur": length, "args": args, **at})
    return msgspec.json.encode(found)


def kind(op: str) -> str:
    """The category of an op: whether it waits, asks peers or computes."""
    if op in PEER_OPS:
        return "peers"
    return "waiting" if op.startswith("wait") else "computing"
