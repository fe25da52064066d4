"""`fathom serve` as a process: the port is taken first, the page answers, and at the end nothing is left."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from fathom.errors import ConfigError
from fathom.serve.launch import ServeConfig, Server, bind
from tests.serve.conftest import ROOT, SCRIPTED, Running, running

PATIENCE_S = 60


def children(pid: int) -> list[int]:
    """Processes whose parent is `pid`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(entry.parent.name))
    return found


def gone(pid: int, within_s: float = 30.0) -> bool:
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        stat = Path(f"/proc/{pid}/stat")
        if not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.02)
    return False


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks for orphans in /proc")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_server_that_ends_leaves_no_process(tiny_model: Path, how: signal.Signals) -> None:
    command = [sys.executable, "-m", "fathom", "serve", "--model", str(tiny_model), "--port", "0", "--no-browser"]
    process = subprocess.Popen([*command, "--json"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    facts = json.loads(process.stdout.readline())
    assert httpx.get(facts["url"] + "health").json() == {"status": "ok", "engine": "ready"}
    (worker,) = children(process.pid)
    process.send_signal(how)
    code = process.wait(PATIENCE_S)
    process.stdout.close()
    assert gone(worker) and code == (-9 if how == signal.SIGKILL else 0)


def test_a_port_in_use_is_said_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} on 127.0.0.1 is in use.*--port 0"):
            bind("127.0.0.1", port)


def test_an_address_that_is_not_ours_is_refused() -> None:
    for host in ("192.0.2.1", "no.such.host.invalid"):
        with pytest.raises(ConfigError, match="host is|cannot listen"):
            bind(host, 0)


def test_health_answers_while_the_model_loads_and_ready_does_not(scripted_model: Path) -> None:
    slow = (*SCRIPTED[:2], "import time; time.sleep(1.5); " + SCRIPTED[2])
    server = Running(Server(ServeConfig(model=str(scripted_model), port=0, drain_s=0.2), command=slow))
    try:
        assert server.http.get("/health").json() == {"status": "ok", "engine": "starting"}
        response = server.http.get("/ready")
        assert (response.status_code, response.json()["error"]["code"]) == (503, "not_ready")
        assert int(response.headers["retry-after-ms"]) > 0
        chat = server.http.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "hi"}]})
        assert (chat.status_code, chat.json()["error"]["code"]) == (503, "not_ready")
        assert server.ready.wait(20)
        assert server.http.get("/ready").json()["status"] == "ready"
    finally:
        server.stop()


def test_a_model_that_cannot_be_loaded_ends_the_server(scripted_model: Path) -> None:
    broken = scripted_model.parent / "broken"
    if not broken.exists():
        broken.symlink_to(scripted_model)
    target = (*SCRIPTED[:2], "import sys; sys.exit(3)")
    server = Running(Server(ServeConfig(model=str(broken), port=0), command=target))
    assert server.ready.wait(20)
    server.stop()
    assert "ended with exit code 3" in str(server.ended)


def test_a_reply_that_outlasts_the_drain_ends_with_an_error_event(scripted_model: Path) -> None:
    with running(ServeConfig(model=str(scripted_model), drain_s=0.3)) as server:
        body = {"messages": [{"role": "user", "content": "slow"}], "stream": True}
        lines: list[str] = []
        begun = threading.Event()

        def read() -> None:
            with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=body, timeout=20) as response:
                for line in response.iter_lines():
                    lines.append(line)
                    begun.set()

        reader = threading.Thread(target=read)
        reader.start()
        assert begun.wait(10)
        server.server.stop()
        reader.join(20)
    events = [line for line in lines if line]
    assert json.loads(events[-1].removeprefix("data: "))["error"]["code"] == "draining"
    assert "data: [DONE]" not in events


def test_the_front_imports_neither_torch_nor_the_engine() -> None:
    code = "import fathom.serve.launch, sys; print([m for m in sys.modules if m.split('.')[0] == 'torch'"
    code += " or m.startswith(('fathom.engine', 'fathom.model', 'fathom.ops'))])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_socket_is_closed_when_the_server_is(scripted_model: Path) -> None:
    with running(ServeConfig(model=str(scripted_model), drain_s=0.2)) as server:
        port, worker = server.server.port, server.server.client.replicas[0].client.pid
        assert worker is not None
    bind("127.0.0.1", port).close()
    assert gone(worker) if Path("/proc").exists() else os.name
