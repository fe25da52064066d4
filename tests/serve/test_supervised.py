"""A worker and its supervisor: one says where it listens, and neither outlives the other."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from fathom.errors import WorkerError
from fathom.serve.supervised import supervise
from fathom.serve.transport import Remote
from tests.serve.conftest import ROOT, SCRIPTED

SECRET = "correct horse battery staple"
SUPERVISOR = (
    f"import sys, time; sys.path.insert(0, {str(ROOT)!r})\n"
    "from fathom.serve.supervised import supervise\n"
    f"process, port = supervise('127.0.0.1', {SECRET!r}, {SCRIPTED!r})\n"
    "print(process.pid, port, flush=True); time.sleep(60)"
)


def test_it_listens_with_the_secret_and_the_file_is_gone() -> None:
    before = set(Path("/tmp").glob("fathom-*"))
    process, port = supervise("127.0.0.1", SECRET, SCRIPTED)
    try:
        assert set(Path("/tmp").glob("fathom-*")) == before
        assert SECRET not in " ".join(psutil.Process(process.pid).cmdline())

        async def main() -> None:
            link = await Remote("127.0.0.1", port, SECRET.encode()).open()
            await link.end(0.0)

        asyncio.run(main())
        assert process.stdin is not None
        process.stdin.close()  # what happens when we end
        assert process.wait(timeout=10) == 0
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("how", ["running", "stopped"])
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a stopped process with another")
def test_it_ends_when_its_supervisor_is_killed(how: str) -> None:
    supervisor = subprocess.Popen([sys.executable, "-c", SUPERVISOR], stdout=subprocess.PIPE)
    assert supervisor.stdout is not None
    with supervisor.stdout:
        worker = psutil.Process(int(supervisor.stdout.readline().split()[0]))
    if how == "stopped":
        os.kill(worker.pid, signal.SIGSTOP)
    supervisor.kill()
    supervisor.wait()
    assert not psutil.wait_procs([worker], timeout=10)[1]


def test_one_that_does_not_get_as_far_is_said() -> None:
    with pytest.raises(WorkerError, match="ended with exit code 3 before it listened"):
        supervise("127.0.0.1", SECRET, (sys.executable, "-c", "raise SystemExit(3)"))
