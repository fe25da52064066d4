"""Start ranks on this host: those of a leader here, or of one on another host, again and again until it is done."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from time import monotonic, sleep

from fathom.config import child_environment
from fathom.engine.orders import GONE
from fathom.errors import WorkerError

log = logging.getLogger(__name__)

RANK = (sys.executable, "-m", "fathom.parallel.tied", "fathom.engine.rank")
QUICK_S, QUICK_DEATHS = 5.0, 5  # a rank that dies so soon, so often, will not get better
PAUSE_S = 0.2


def spawn(host: str, port: int, rank: int, token: str, descriptors: Sequence[int] = ()) -> subprocess.Popen[bytes]:
    """One rank as a process of its own, which finds its leader at `host` and `port` and inherits `descriptors`.

    Its standard output goes to our standard error; Ctrl-C in the terminal does not reach it.
    """
    process = subprocess.Popen(
        [*RANK, host, str(port), str(rank), str(os.getpid())], stdin=subprocess.PIPE, stdout=2, start_new_session=True,
        pass_fds=tuple(descriptors), env=child_environment(),
    )  # fmt: skip
    assert process.stdin is not None, "it was asked for"
    process.stdin.write(f"{token}\n".encode())
    process.stdin.close()
    return process


def join(host: str, port: int, ranks: Sequence[int], token: str) -> None:
    """Lend ranks of this host to a leader on another one, until it lets them go; those that die are started again.

    Raises: WorkerError: a rank finds no leader, or dies again and again at once.
    """
    running = {rank: (spawn(host, port, rank, token), monotonic()) for rank in ranks}
    deaths = dict.fromkeys(ranks, 0)
    try:
        while running:
            for rank, (process, started_s) in list(running.items()):
                if process.poll() is None:
                    continue
                del running[rank]
                if process.returncode == 0:
                    continue
                if process.returncode != GONE:
                    deaths[rank] = deaths[rank] + 1 if monotonic() - started_s < QUICK_S else 0
                if process.returncode == WorkerError.exit_code or deaths[rank] >= QUICK_DEATHS:
                    raise WorkerError(f"rank {rank} ended with exit code {process.returncode}; its last words say why")
                if process.returncode != GONE:
                    log.warning("rank %d ended with exit code %d; starting it again", rank, process.returncode)
                running[rank] = spawn(host, port, rank, token), monotonic()
            sleep(PAUSE_S)
    finally:
        for process, _ in running.values():
            process.kill()
            process.wait()
