"""A crew starts, serves and goes as one; what goes wrong is said with the rank it went wrong on, and nothing stays."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch

from fathom.batching.plan import Plan
from fathom.batching.request import Request, SamplingParams
from fathom.engine import Engine, EngineConfig, join, load_model
from fathom.engine.crew import Crew
from fathom.engine.crewconfig import CrewConfig
from fathom.errors import CheckpointError, ConfigError, WorkerError
from fathom.layout import Layout
from tests.engine.ranks import ranks
from tests.ops.conftest import library, native

__all__ = ["library", "native"]
pytestmark = [pytest.mark.usefixtures("native", "nothing_stays"), pytest.mark.timeout(60)]
PAIR = Layout(dp=2)
CONFIG = EngineConfig(num_pages=40, page_tokens=4, max_sequences=4, spec="off", bits=32)


def held() -> list[str]:
    """Sockets and shared memory of this process; gloo keeps a pipe for as long as a process lives."""
    found = []
    for name in os.listdir("/proc/self/fd") if sys.platform == "linux" else ():
        with suppress(OSError):
            found.append(os.readlink(f"/proc/self/fd/{name}"))
    return [name for name in found if name.startswith(("socket:", "/dev/shm/"))]


@pytest.fixture
def nothing_stays() -> Iterator[None]:
    """Neither processes, sockets, shared memory, threads nor a process group."""
    before, threads = len(held()), threading.active_count()
    torch.set_num_threads(1)
    yield
    gc.collect()  # exceptions hold frames
    until = time.monotonic() + 5
    while time.monotonic() < until and (len(held()) > before or threading.active_count() > threads):
        time.sleep(0.02)  # listeners see their connections close
    assert ranks() == [], "a rank is left"
    assert len(held()) <= before, held()
    assert threading.active_count() <= threads, [thread.name for thread in threading.enumerate()]
    assert not torch.distributed.is_initialized()


def crew_of(model: Path | str, layout: Layout = PAIR, **options: object) -> CrewConfig:
    return replace(CrewConfig(model, layout, bits=32, mtp=False, timeout_s=3.0, start_s=20.0, threads=1), **options)


def request(name: str, tokens: int = 6) -> Request:
    return Request(name, (5, 9, 2, 7, 11, 3, int(name)), SamplingParams(max_tokens=tokens, seed=3, ignore_eos=True))


def run(engine: Engine, *requests: Request) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {each.id: [] for each in requests}
    for each in requests:
        engine.add(each)
    while engine.has_work:
        for output in engine.step():
            found[output.request_id] += output.token_ids
    return found


@pytest.mark.parametrize("layout", [Layout(dp=2), Layout(dp=2, ep=2), Layout(pp=2)], ids=str)
def test_one_request_leaves_the_other_lane_idle_from_the_first_step_on(layout: Layout, tiny_model: Path) -> None:
    whole = Engine(load_model(tiny_model, 32, threads=1), config=CONFIG)
    expected = run(whole, request("1"), request("2"))
    crew = Crew.start(crew_of(tiny_model, layout))
    try:
        engine = Engine(crew.model, config=CONFIG, crew=crew)
        assert run(engine, request("1")) == {"1": expected["1"]}
        assert run(engine, request("2")) == {"2": expected["2"]}
        assert engine.step() == [], "nothing to do is nothing to order"
        idle = [Plan(9)] * crew.lanes
        assert crew.execute(idle) == [[]] * crew.lanes
        again = Engine(crew.model, config=replace(CONFIG, page_tokens=16, num_pages=9), crew=crew)
        assert run(again, request("1"), request("2")) == expected, "another cache on the same crew"
    finally:
        crew.close()


def test_requests_are_aborted_between_steps_and_the_others_do_not_notice(tiny_model: Path) -> None:
    expected = run(Engine(load_model(tiny_model, 32, threads=1), config=CONFIG), *map(request, "1234"))
    crew = Crew.start(crew_of(tiny_model, Layout(dp=2, ep=2)))
    try:
        engine = Engine(crew.model, config=CONFIG, crew=crew)
        found: dict[str, list[int]] = {name: [] for name in "1234"}
        for name in "1234":
            engine.add(request(name))
        for output in engine.step():
            found[output.request_id] += output.token_ids
        (lane,) = {engine.lanes.of(name) for name in "13"}
        for name in "13":  # all that one lane had
            output = engine.abort(name)
            assert output is not None and output.finish_reason == "abort"
        assert lane is not None and not lane.scheduler.has_work and engine.abort("1") is None
        while engine.has_work:
            for output in engine.step():
                found[output.request_id] += output.token_ids
        assert all(found[name] == expected[name] for name in "24")
        assert engine.stats().pages_used == 0
    finally:
        crew.close()
        crew.close()  # again does no harm


def test_what_several_ranks_do_not_do_is_refused_before_they_are_told(tiny_model: Path, tmp_path: Path) -> None:
    crew = Crew.start(crew_of(tiny_model))
    try:
        log, spill = str(tmp_path / "log"), str(tmp_path / "spill")
        for options in ({"record": log}, {"spill_path": spill}, {"numerics": "fast"}):
            with pytest.raises(ConfigError, match=f"^{next(iter(options))} is "):
                Engine(crew.model, config=replace(CONFIG, **options), crew=crew)
        assert len(run(Engine(crew.model, config=CONFIG, crew=crew), request("1"))["1"]) == 6
    finally:
        crew.close()


@pytest.mark.parametrize(
    ("options", "said"),
    [({"ranks_here": 0}, "from 1 to 2"), ({"ranks_here": 3}, "from 1 to 2"), ({"ranks_here": 1}, "give token")],
)
def test_a_crew_that_cannot_be_is_refused(options: dict[str, int], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        crew_of("nano", PAIR, **options)


@pytest.mark.parametrize(
    ("layout", "said"), [(Layout(tp=3), "tp=3 does not divide"), (Layout(dp=3, ep=3), "ep=3 does not divide")]
)
def test_a_layout_that_does_not_fit_the_model_is_refused(tiny_model: Path, layout: Layout, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Crew.start(crew_of(tiny_model, layout))


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises((ConfigError, CheckpointError), match="nowhere"):
        Crew.start(crew_of(tmp_path / "nowhere"))


def test_a_rank_that_never_comes_is_named(tiny_model: Path) -> None:
    with pytest.raises(WorkerError, match=r"rank 1 did not come within 0\.3 s"):
        Crew.start(crew_of(tiny_model, ranks_here=1, token="secret", start_s=0.3))


def test_a_rank_that_ends_before_it_comes_is_named(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(join, "RANK", (sys.executable, "-c", "raise SystemExit(7)"))
    with pytest.raises(WorkerError, match="rank 1 ended with exit code 7 before it was ready"):
        Crew.start(crew_of(tiny_model))


DIES_LOADING = """
import os, sys
from fathom.engine import part, rank
part.load_part = lambda *args, **options: os.kill(os.getpid(), 9)
rank.main(sys.argv[1:])
"""


def test_a_rank_that_dies_while_it_loads_is_named(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(join, "RANK", (sys.executable, "-c", DIES_LOADING))
    began = time.monotonic()
    with pytest.raises(WorkerError, match=r"rank 1 (is gone|ended with exit code -9)"):
        Crew.start(crew_of(tiny_model))
    assert time.monotonic() - began < 15


def kill(process: psutil.Process) -> None:
    process.kill()


def stop(process: psutil.Process) -> None:
    process.send_signal(signal.SIGSTOP)


@pytest.mark.parametrize(
    ("harm", "said"), [(kill, r"rank 1 (is gone|ended with exit code -9)"), (stop, "rank 1 is silent")]
)
def test_a_rank_that_is_lost_in_service_is_reported_once(
    tiny_model: Path, harm: Callable[[psutil.Process], None], said: str
) -> None:
    """In the middle of a step that needs it; within the timeout, and with where the others were."""
    crew, reports = Crew.start(crew_of(tiny_model, Layout(dp=2, ep=2))), []
    crew.on_lost = reports.append
    try:
        engine = Engine(crew.model, config=CONFIG, crew=crew)
        engine.add(request("1", tokens=60))
        engine.step()
        (rank,) = ranks()
        harm(rank)
        began = time.monotonic()
        with pytest.raises(WorkerError, match=said):
            while engine.has_work:
                engine.step()
        assert time.monotonic() - began < 10
        with pytest.raises((WorkerError, OSError)):
            engine.step()
    finally:
        crew.close()
    (report,) = reports
    assert "rank 0 at step" in report


def test_ranks_die_with_their_leader(tiny_model: Path, tmp_path: Path) -> None:
    """Killed, it can let nobody go."""
    script = (
        "import time; from fathom.engine.crew import Crew, CrewConfig; from fathom.layout import Layout\n"
        f"crew = Crew.start(CrewConfig({str(tiny_model)!r}, Layout(dp=2), bits=32, mtp=False, threads=1))\n"
        "print('ready', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as leader:
        assert leader.stdout is not None
        assert leader.stdout.readline() == b"ready\n"
        (rank,) = psutil.Process(leader.pid).children()
        os.kill(leader.pid, signal.SIGKILL)
    psutil.wait_procs([rank], timeout=5)
    assert not rank.is_running() or rank.status() == psutil.STATUS_ZOMBIE


def test_processors_are_shared_out_among_the_ranks_of_a_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    config = CrewConfig("nano", Layout(dp=4))
    assert (config.here, config.threads_each) == (4, 2)
    assert replace(config, ranks_here=2, token="secret").threads_each == 4
    assert replace(config, layout=Layout(dp=4, tp=4)).threads_each == 1
    assert replace(config, threads=3).threads_each == 3
