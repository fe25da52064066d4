"""Samples taken while nothing else runs: two threads that meet at a barrier lose more than half to one neighbour."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

import psutil

MOST = 0.05  # share of the processors that others may take during a sample


def others_s() -> float:
    """Processor seconds spent so far on anything but this process and its children, a host's other guests included."""
    times = psutil.cpu_times()
    busy = sum(getattr(times, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq", "steal"))
    own, me = 0.0, psutil.Process()
    for process in (me, *me.children(recursive=True)):
        with suppress(psutil.Error):
            own += sum(process.cpu_times()[:4])  # its own, and those of its children that have ended
    return busy - own


def shared(call: Callable[[], float]) -> tuple[float, float]:
    """What `call` returns, and the share of the processors that others took meanwhile."""
    before, began = others_s(), time.monotonic()
    result = call()
    return result, max(0.0, others_s() - before) / ((time.monotonic() - began) * (psutil.cpu_count() or 1))


def _second() -> float:
    time.sleep(1)
    return 0.0


def undisturbed(sample: Callable[[], float], patience_s: float) -> tuple[float, float]:
    """A sample and others' share of it: begun when the machine is calm, taken again if it did not stay so.

    After `patience_s` seconds it is taken as it comes.
    """
    deadline = time.monotonic() + patience_s
    while True:
        while time.monotonic() < deadline and shared(_second)[1] > MOST:
            pass
        rate, share = shared(sample)
        if share <= MOST or time.monotonic() >= deadline:
            return rate, share
