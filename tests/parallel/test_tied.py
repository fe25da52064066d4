"""A process that is tied to another ends with it, whenever that ends and whatever it does itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from fathom.parallel.tied import ORPHAN

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="prctl")

PARENT = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-m", "fathom.parallel.tied", "http.server", "0", str(os.getpid())])
print(child.pid, flush=True)
time.sleep(60)
"""


def test_it_runs_the_module_with_its_arguments() -> None:
    command = [sys.executable, "-m", "fathom.parallel.tied", "calendar", "2024", "2", str(os.getpid())]
    assert "February 2024" in subprocess.run(command, capture_output=True, text=True).stdout


def test_an_orphan_does_not_begin() -> None:
    command = [sys.executable, "-m", "fathom.parallel.tied", "calendar", "1"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (ORPHAN, "")


def test_it_ends_with_its_parent_even_when_it_is_stopped() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        while not child.net_connections():  # then it has come as far as to listen
            time.sleep(0.01)
        child.send_signal(signal.SIGSTOP)
        parent.kill()
        until_s = time.monotonic() + 5.0
        while child.is_running() and child.status() != psutil.STATUS_ZOMBIE and time.monotonic() < until_s:
            time.sleep(0.01)
        assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
