"""Ranks that are lent stay until they are let go; those that die come back, those that cannot live do not."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fathom.engine import join as joining
from fathom.engine.join import join, spawn
from fathom.engine.orders import GONE, Leave, pack
from fathom.errors import WorkerError
from fathom.parallel.control import Desk
from fathom.parallel.groups import free_port

HOST, TOKEN = "127.0.0.1", "a token for this test"
Codes = list[int]


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Codes:
    """Ranks that end with the codes of this list, one after another; how they were started is not looked at."""
    codes: Codes = []

    def spawn(*_: object) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-S", "-c", f"raise SystemExit({codes.pop(0)})"])

    monkeypatch.setattr(joining, "spawn", spawn)
    monkeypatch.setattr(joining, "PAUSE_S", 0.01)
    return codes


def test_ranks_that_are_let_go_are_not_missed(scripted: Codes) -> None:
    scripted += [0, 0]
    join(HOST, 1, range(1, 3), TOKEN)
    assert scripted == []


def test_a_rank_without_its_leader_looks_for_the_next_as_often_as_need_be(
    scripted: Codes, caplog: pytest.LogCaptureFixture
) -> None:
    scripted += [GONE] * (joining.QUICK_DEATHS + 2) + [0]
    join(HOST, 1, [1], TOKEN)
    assert scripted == [] and caplog.text == ""


def test_a_rank_that_dies_is_started_again_a_few_times(scripted: Codes, caplog: pytest.LogCaptureFixture) -> None:
    scripted += [-9, 139, 0]
    with caplog.at_level(logging.WARNING):
        join(HOST, 1, [1], TOKEN)
    assert scripted == [] and "rank 1 ended with exit code 139; starting it again" in caplog.text
    scripted += [3] * joining.QUICK_DEATHS + [0]
    with pytest.raises(WorkerError, match="rank 1 ended with exit code 3"):
        join(HOST, 1, [1], TOKEN)
    assert scripted == [0], "the last one was not started"


def test_a_rank_that_says_why_it_cannot_go_on_ends_all_of_this_host(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []

    def spawn(_host: str, _port: int, rank: int, _token: str) -> subprocess.Popen[bytes]:
        code = "raise SystemExit(1)" if rank == 2 else "import time; time.sleep(60)"
        started.append(subprocess.Popen([sys.executable, "-S", "-c", code]))
        return started[-1]

    monkeypatch.setattr(joining, "spawn", spawn)
    with pytest.raises(WorkerError, match="rank 2 ended with exit code 1; its last words say why"):
        join(HOST, 1, range(1, 4), TOKEN)
    assert [process.returncode for process in started] == [-9, 1, -9]


def test_a_real_rank_comes_back_when_killed_and_leaves_when_told() -> None:
    port, pids = free_port(), []
    ended: list[bool] = []
    lender = threading.Thread(target=lambda: (join(HOST, port, [1], TOKEN), ended.append(True)), daemon=True)
    lender.start()
    for turn in range(2):
        desk = Desk(HOST, TOKEN, port)
        link = desk.assemble(2, 30.0)[1]
        desk.close()
        pids += [pid for pid in children() if pid not in pids]
        assert len(pids) == turn + 1
        if turn == 0:
            os.kill(pids[0], 9)
            assert link.receive() is None
        else:
            link.send(pack(Leave()))
            lender.join(20)
        link.close()
    assert ended == [True]


def children() -> list[int]:
    """Ranks that this process has started and that still run."""
    own = Path(f"/proc/{os.getpid()}/task")
    pids = {int(pid) for task in own.iterdir() for pid in (task / "children").read_text().split()}
    return [pid for pid in pids if b"fathom.engine.rank" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_another_token_ends_a_rank_at_once() -> None:
    desk = Desk(HOST, "what the leader knows")
    process = spawn(HOST, desk.port, 1, TOKEN)

    def check() -> None:
        if process.poll() is not None:
            raise WorkerError("it has ended")

    with pytest.raises(WorkerError, match="it has ended"):
        desk.assemble(2, 30.0, check)
    assert process.returncode == WorkerError.exit_code
    desk.close()
