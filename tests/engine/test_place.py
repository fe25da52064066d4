"""A rank says where it is, its leader sees it in the end too, and faults strike where they should."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from time import monotonic

import pytest

from fathom.batching.plan import Plan, Row
from fathom.config.faults import Fault
from fathom.engine import orders
from fathom.engine.place import EXIT_CODE, Board, Place, suffer


def load(*faults: Fault, board: int | None = None) -> orders.Load:
    return orders.Load("nano", (1, 1, 2, 1), "127.0.0.1", 1, 5.0, board=board, faults=faults)


def test_a_board_shows_where_a_rank_was_when_it_was_killed() -> None:
    """A process of its own writes it down and dies."""
    board = Board()
    assert board.at is None
    code = (
        "import os, signal; from fathom.engine.place import Place; from tests.engine.test_place import load\n"
        f"place = Place(); place.obey(load(board={board.file}), 1); place.step = 9; place.note('combine', 4)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    ended = subprocess.run([sys.executable, "-c", code], pass_fds=[board.file])
    at = board.at
    assert ended.returncode == -signal.SIGKILL and at is not None
    assert (at.step, at.op, at.layer) == (9, "combine", 4) and 0.0 <= at.since_s < 10.0
    board.close()
    assert board.at is None


def test_without_faults_nothing_strikes() -> None:
    place = Place()
    place.obey(load(), 0)
    assert place.note("combine", 3) is False and place.at.op == "combine"


def test_faults_strike_in_the_step_and_at_the_tokens_they_name() -> None:
    place = Place()
    place.obey(load(Fault("raise", "combine", step=4), Fault("memory", "rows", token_id=7)), 0)
    place.begin(3, Plan(3, (Row("a", (5, 6), 0, (0,)),)))
    place.note("combine", 1)
    place.note("rows", 1)
    place.begin(4, Plan(4, (Row("a", (7,), 2, (0,)),)))
    with pytest.raises(RuntimeError, match="fault: raise at combine"):
        place.note("combine", 1)
    with pytest.raises(MemoryError, match="fault: memory at rows"):
        place.note("rows", 1)
    place.note("rows", 2)  # once each


def test_what_corrupts_is_left_to_those_who_send() -> None:
    place = Place()
    place.obey(load(Fault("corrupt", "rows")), 0)
    assert place.note("combine") is False and place.note("rows") is True and place.note("rows") is False


def test_a_delay_takes_its_time() -> None:
    began = monotonic()
    assert suffer(Fault("delay", delay_s=0.03)) is False
    assert monotonic() - began >= 0.03


def test_what_is_dropped_never_comes() -> None:
    thread = threading.Thread(target=suffer, args=(Fault("drop"),), daemon=True)
    thread.start()
    thread.join(0.05)
    assert thread.is_alive()


@pytest.mark.parametrize(("kind", "how"), [("kill", -signal.SIGKILL), ("exit", EXIT_CODE), ("stop", signal.SIGSTOP)])
def test_a_process_ends_or_stops(kind: str, how: int) -> None:
    pid = os.fork()
    if pid == 0:
        suffer(Fault(kind))  # type: ignore[arg-type]
        os._exit(0)
    _, status = os.waitpid(pid, os.WUNTRACED)
    if kind == "stop":
        assert os.WIFSTOPPED(status) and os.WSTOPSIG(status) == how
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    else:
        assert os.waitstatus_to_exitcode(status) == how
