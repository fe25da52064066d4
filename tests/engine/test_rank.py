"""A rank does what it is ordered, says where it is at any time, and why it cannot go on."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fathom.batching.plan import Plan
from fathom.engine import orders, rank
from fathom.parallel.control import Desk, Link
from fathom.parallel.groups import free_port
from tests.engine.test_part import PLAN
from tests.ops.conftest import library, native

__all__ = ["library", "native"]
HOST = "127.0.0.1"


class Leader:
    """The other end of a rank that runs as a thread."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with socket.create_server((HOST, 0)) as listening:
            near = socket.create_connection(listening.getsockname())
            far, _ = listening.accept()
        self.link, self.code = Link(near), []
        self.exited: list[int] = []
        self.let_go = False
        self._exits = threading.Event()
        monkeypatch.setattr(rank.os, "_exit", self._exit)
        self._far = Link(far)
        self.thread = threading.Thread(target=lambda: self.code.append(rank.follow(self._far, 0)), daemon=True)
        self.thread.start()

    def order(self, order: orders.ToRank) -> None:
        self.link.send(orders.pack(order))

    def hears(self) -> orders.ToLeader:
        frame = self.link.receive()
        assert frame is not None, "the rank has closed the connection"
        return orders.to_leader(frame)

    def load(self, model: Path | str, *layout: int) -> None:
        sizes = layout or (1, 1, 1, 1)
        self.order(orders.Load(str(model), sizes, HOST, free_port(), 5.0, threads=1, mtp=False))  # type: ignore[arg-type]

    def ends(self) -> int:
        """The exit code of `follow`."""
        self.order(orders.Leave())
        self.thread.join(10)
        self.let_go = True
        return self.code[0]

    def leave(self) -> list[int]:
        """What the process would exit with, once the connection is gone."""
        self.link.close()
        if self.let_go:  # it ends by itself
            return self.code
        assert self._exits.wait(10)
        return self.exited

    def _exit(self, code: int) -> None:
        self.exited.append(code)
        self._exits.set()


@pytest.fixture
def leader(monkeypatch: pytest.MonkeyPatch) -> Iterator[Leader]:
    made = Leader(monkeypatch)
    yield made
    made.leave()


@pytest.mark.usefixtures("native")
def test_it_loads_opens_executes_and_leaves(leader: Leader, tiny_model: Path) -> None:
    leader.load(tiny_model)
    loaded = leader.hears()
    assert isinstance(loaded, orders.Loaded) and loaded.weight_bytes > 1000
    leader.order(orders.Open(4, 16, False))
    leader.order(orders.Execute((PLAN,), (1, 0)))
    first = leader.hears()
    assert isinstance(first, orders.Answer) and len(first.sampled) == 1
    leader.order(orders.Execute((Plan(4),), (0, 0)))
    assert leader.hears() == orders.Answer(())
    leader.order(orders.Open(9, 4, False))  # another cache, for another engine
    leader.order(orders.Execute((PLAN,), (1, 0)))
    assert leader.hears() == first
    assert leader.ends() == 0


def test_where_is_answered_at_once(leader: Leader) -> None:
    leader.order(orders.Where())
    at = leader.hears()
    assert isinstance(at, orders.At) and (at.step, at.op, at.layer) == (0, "start", -1)


@pytest.mark.usefixtures("native")
def test_where_is_answered_in_the_middle_of_a_step(leader: Leader, tiny_model: Path, monkeypatch) -> None:
    goes_on = threading.Event()
    monkeypatch.setattr("fathom.engine.runner.Runner.execute", lambda *_: goes_on.wait(10) and [])
    leader.load(tiny_model)
    leader.hears()
    leader.order(orders.Open(4, 16, False))
    leader.order(orders.Execute((Plan(8),), (0, 0)))
    while True:
        leader.order(orders.Where())
        at = leader.hears()
        assert isinstance(at, orders.At)
        if at.op == "compute":
            break
    assert at.step == 8
    goes_on.set()
    assert leader.hears() == orders.Answer(())


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize(("layout", "said"), [((1, 1, 3, 1), "tp=3 does not divide"), ((9, 1, 1, 1), "pp is 9")])
def test_it_says_why_it_cannot_go_on_and_waits_to_be_let_go(
    leader: Leader, tiny_model: Path, layout: tuple[int, ...], said: str
) -> None:
    leader.load(tiny_model, *layout)
    broke = leader.hears()
    assert isinstance(broke, orders.Broke) and said in broke.message and broke.message.startswith("ConfigError: ")
    assert broke.fault == "input"
    leader.order(orders.Where())
    assert isinstance(leader.hears(), orders.At), "whoever asks is still answered"
    assert leader.ends() == 1


def test_a_model_that_is_not_there_is_named(leader: Leader, tmp_path: Path) -> None:
    leader.load(tmp_path / "nowhere")
    broke = leader.hears()
    assert isinstance(broke, orders.Broke) and "nowhere" in broke.message
    assert leader.ends() == 1


def test_it_ends_with_its_leader(leader: Leader) -> None:
    assert leader.leave() == [orders.GONE]


def test_what_is_no_order_ends_it(leader: Leader) -> None:
    leader.link.send(b"nonsense")
    assert leader._exits.wait(10) and leader.exited == [orders.GONE]


def test_it_greets_with_its_number_and_the_token_of_its_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """The token is no argument: those can be read by every user of the machine."""
    desk = Desk(HOST, "secret")
    monkeypatch.setattr(rank.signal, "signal", lambda *_: None)
    monkeypatch.setattr(rank.os, "_exit", lambda _: None)
    codes: list[int] = []
    arguments = (HOST, str(desk.port), "1")
    thread = threading.Thread(target=lambda: codes.append(rank.main(arguments, lambda: "secret\n")), daemon=True)
    thread.start()
    links = desk.assemble(2, 10.0)
    desk.close()
    links[1].send(orders.pack(orders.Leave()))
    thread.join(10)
    assert codes == [0]
    links[1].close()
