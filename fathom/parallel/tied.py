"""Run a module as a process that ends with the one that started it: `python -m fathom.parallel.tied MODULE ... PARENT`.

A rank reads libraries for seconds before it can be told anything. If its leader is killed meanwhile, it must not look
for it for a minute, and if the rank itself is stopped just then, it must not stay for ever. So this comes first, and
imports nothing.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys

PR_SET_PDEATHSIG = 1  # prctl(2)
ORPHAN = 75
"""Exit code of a process that was started by one that has ended already."""


def die_with_parent(parent: int) -> None:
    """Be killed when `parent`, which started this process, ends, even if this one is stopped just then (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before
            os._exit(ORPHAN)


if __name__ == "__main__":
    die_with_parent(int(sys.argv[-1]))
    del sys.argv[0], sys.argv[-1]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
