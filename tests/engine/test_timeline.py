"""A timeline: pieces that never overlap, ends of what peers begin, clocks of other hosts, and what viewers read."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from fathom.engine import timeline as module
from fathom.engine.timeline import Timeline, Trace, ask_clock, chrome, kind


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    clock = [100.0]
    monkeypatch.setattr(module, "monotonic", lambda: clock[0])
    return clock


def pass_by(now: list[float], seconds: float) -> None:
    now[0] += seconds


def test_each_piece_begins_where_the_one_before_ends(now: list[float]) -> None:
    timeline = Timeline()
    pass_by(now, 1)
    timeline.begin("schedule")
    pass_by(now, 2)
    timeline.step = 7
    timeline.begin("forward", 3)
    pass_by(now, 0.5)
    timeline.begin("wait")
    assert timeline.latest() == [
        ("start", -1, 0, 100.0, 101.0), ("schedule", -1, 7, 101.0, 103.0), ("forward", 3, 7, 103.0, 103.5)
    ]  # fmt: skip
    assert timeline.op_s == {"start": 1.0, "schedule": 2.0, "forward": 0.5}
    assert timeline.latest(1) == [("forward", 3, 7, 103.0, 103.5)] and timeline.latest(0) == []


def test_it_forgets_the_oldest_but_not_what_ops_took(now: list[float]) -> None:
    timeline = Timeline(most=2)
    for _ in range(10):
        pass_by(now, 1)
        timeline.begin("forward")
    assert [event[3:] for event in timeline.events] == [(108.0, 109.0), (109.0, 110.0)]
    assert timeline.op_s["forward"] == 9.0


def test_what_peers_begin_ends_with_their_answer(now: list[float]) -> None:
    timeline = Timeline()
    timeline.begin("forward")

    def dispatch(layer: int) -> str:
        if layer < 0:
            return "nobody to ask"
        pass_by(now, 1)
        timeline.begin("dispatch", layer)
        pass_by(now, 2)
        if layer > 9:
            raise RuntimeError("a peer is gone")
        return "rows"

    unused = dict.fromkeys(module.PEER_OPS, lambda: None)
    peers = timeline.follow(SimpleNamespace(**unused | {"dispatch": dispatch}))  # type: ignore[arg-type]
    assert peers.dispatch(-1) == "nobody to ask"  # type: ignore[call-arg, arg-type, comparison-overlap]
    assert peers.dispatch(4) == "rows"  # type: ignore[call-arg, arg-type, comparison-overlap]
    with pytest.raises(RuntimeError):
        peers.dispatch(10)  # type: ignore[call-arg, arg-type]
    timeline.begin("sample")
    assert [event[:2] + event[3:] for event in timeline.events][1:] == [
        ("forward", -1, 100.0, 101.0), ("dispatch", 4, 101.0, 103.0), ("forward", 4, 103.0, 104.0),
        ("dispatch", 10, 104.0, 106.0), ("forward", 10, 106.0, 106.0),
    ]  # fmt: skip


def test_the_quickest_question_tells_how_far_a_clock_is_ahead(now: list[float]) -> None:
    ways = iter([(0.5, 0.1), (0.01, 0.03), (2.0, 2.0)])

    def ask() -> float:
        there, back = next(ways)
        pass_by(now, there)
        answer = now[0] + 50.0
        pass_by(now, back)
        return answer

    ahead_s, error_s = ask_clock(ask, tries=3)
    assert error_s == pytest.approx(0.02)
    assert abs(ahead_s - 50.0) <= error_s


def test_viewers_get_a_process_per_rank_and_a_mark_where_a_step_begins(now: list[float], monkeypatch) -> None:
    monkeypatch.setattr(module.time, "time", lambda: 1_000_100.0)  # 1970 is a million seconds before the clock's zero
    here = Trace(0, 0, [("forward", -1, 3, 10.0, 10.5), ("dispatch", 2, 3, 10.5, 10.75), ("wait", -1, 4, 11.0, 12.0)])
    there = Trace(1, 1, [("combine", 2, 3, 60.5, 60.75)], clock_s=50.0, error_s=2e-5)
    found = json.loads(chrome([here, there], name="both-0", first_pid=2000))
    names = [(e["pid"], e["args"]["name"]) for e in found if e["name"] == "process_name"]
    assert names == [(2000, "both-0 rank 0"), (2001, "both-0 rank 1, clock +-20 us")]
    assert [(e["tid"], e["args"]["name"]) for e in found if e["name"] == "thread_name"] == [
        (0, "lane 0"), (1, "lane 1")
    ]  # fmt: skip
    pieces = [e for e in found if e["ph"] == "X"]
    assert [(e["pid"], e["name"], e["cat"], e["ts"], e["dur"], e["args"]) for e in pieces] == [
        (2000, "forward", "computing", 1_000_010.0e6, 0.5e6, {"step": 3}),
        (2000, "dispatch", "peers", 1_000_010.5e6, 0.25e6, {"step": 3, "layer": 2}),
        (2000, "wait", "waiting", 1_000_011.0e6, 1e6, {"step": 4}),
        (2001, "combine", "peers", 1_000_010.5e6, 0.25e6, {"step": 3, "layer": 2}),
    ]
    marks = [(e["pid"], e["name"], e["ts"]) for e in found if e["ph"] == "i"]
    assert marks == [(2000, "step 3", 1_000_010e6), (2000, "step 4", 1_000_011e6), (2001, "step 3", 1_000_010.5e6)]


def test_waiting_is_told_from_work() -> None:
    assert [kind(op) for op in ("wait for orders", "wait", "receive", "schedule")] == [
        "waiting", "waiting", "peers", "computing"
    ]  # fmt: skip
