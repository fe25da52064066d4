"""Lines on stderr that say how far a long job is."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

Progress = Callable[[int, int], None]


def progress_line(verb: str) -> Progress:
    """A callback of (bytes done, bytes in all) that keeps one line up to date, at most ten times a second."""
    shown = 0.0

    def show(done: int, total: int) -> None:
        nonlocal shown
        now = time.monotonic()
        if done < total and now - shown < 0.1:
            return
        shown = now
        line = f"\r{verb} {done / 1e9:,.2f} of {total / 1e9:,.2f} GB ({done / max(total, 1):.0%})"
        print(line, end="\n" if done == total else "", file=sys.stderr, flush=True)

    return show


def count_line(what: str) -> Progress:
    """A callback of (done, in all) that keeps "calibrating: layer 3 of 61" up to date."""

    def show(done: int, total: int) -> None:
        print(f"\r{what} {done} of {total}", end="\n" if done == total else "", file=sys.stderr, flush=True)

    return show
