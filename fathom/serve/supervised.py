"""A worker that listens, started by a process on its own machine: it says its port, and ends with who started it.

Both ends are here. Two ropes hold the worker: its standard input, which ends when the other process does, and on Linux
a signal of the kernel, which ends even a worker that is stopped.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

from fathom.errors import WorkerError
from fathom.serve.transport import WORKER

PR_SET_PDEATHSIG = 1  # prctl(2)


def obey(port: int) -> None:
    """In the worker: say where it listens, and end this process when the one that started it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(target=_wait_for_the_end, name="supervisor", daemon=True).start()
    print(port, flush=True)
    os.dup2(2, 1)  # that was all; whoever prints later must not fill a pipe that nobody reads


def _wait_for_the_end() -> None:
    while os.read(0, 1024):
        pass
    os._exit(0)


def supervise(host: str, secret: str, command: Sequence[str] = ()) -> tuple[subprocess.Popen[bytes], int]:
    """In its supervisor: a worker that listens on some port of `host`, and the port.

    The secret lies in a file of mode 600 until the worker has read it. The calling thread must live as long as the
    worker shall: the kernel takes the end of one for the end of the other.

    Raises: WorkerError: it ended before it listened.
    """
    with tempfile.TemporaryDirectory(prefix="fathom-") as folder:  # mode 700
        file = Path(folder) / "secret"
        file.touch(mode=0o600)
        file.write_text(secret, encoding="utf-8")
        address = f"[{host}]:0" if ":" in host else f"{host}:0"
        process = subprocess.Popen(
            [*(command or WORKER), "--listen", address, "--secret", str(file), "--supervised"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert process.stdout is not None, "it was asked for"
        with process.stdout:
            said = process.stdout.readline()
    if not said.strip().isdigit():
        process.kill()
        raise WorkerError(f"the worker ended with exit code {process.wait()} before it listened on {host}")
    return process, int(said)
