"""Looking inside over HTTP: experts, traces, a rebalance on request; guarded as everything else is."""

from __future__ import annotations

from pathlib import Path

from fathom.layout.deploy import Pool
from fathom.serve.launch import ServeConfig
from tests.serve.conftest import Running, running


def test_the_load_of_experts_is_shown_per_engine(server: Running) -> None:
    shown = server.http.get("/experts").json()
    assert list(shown["engines"]) == ["main-0"]
    assert shown["engines"]["main-0"]["load"] == {"3": [30, 10]}


def test_looking_keeps_no_reply_waiting(server: Running) -> None:
    body = {"messages": [{"role": "user", "content": "slow"}], "stream": True, "max_tokens": 30}
    with server.http.stream("POST", "/v1/chat/completions", json=body) as reply:
        lines = reply.iter_lines()
        next(lines)
        assert server.http.get("/experts").json()["engines"]["main-0"]["counted"]
        assert sum(1 for line in lines if line.startswith("data: {")) > 10


def test_a_trace_can_be_loaded_by_viewers(server: Running) -> None:
    reply = server.http.get("/trace")
    assert "trace.json" in reply.headers["content-disposition"]
    assert reply.json()["traceEvents"] == [{"ph": "X", "name": "forward", "pid": 0, "cat": "main-0"}]


def test_who_asks_for_an_engine_that_is_not_there_hears_which_are(server: Running) -> None:
    for reply in (
        server.http.get("/trace?engine=both-7"), server.http.post("/experts/rebalance", json={"engine": "both-7"})
    ):  # fmt: skip
        assert reply.status_code == 404
        assert reply.json()["error"]["message"] == "there is no engine 'both-7'; there are main-0."


def test_a_rebalance_is_asked_for_and_seen_in_the_metrics(server: Running) -> None:
    before = server.http.get("/experts").json()["engines"]["main-0"]["asked"]
    reply = server.http.post("/experts/rebalance", json={})
    assert (reply.status_code, reply.json()) == (202, {"asked": 1})
    assert server.http.get("/experts").json()["engines"]["main-0"]["asked"] == before + 1
    server.http.post("/v1/completions", json={"prompt": "a", "max_tokens": 2})  # the engine reports when it is idle
    for _ in range(100):
        text = server.http.get("/metrics").text
        if f'fathom_expert_moves_total{{replica="main-0"}} {float(before + 1)}' in text:
            break
    assert 'fathom_expert_move_gain{kind="predicted",replica="main-0"} 1.25' in text
    assert 'fathom_expert_imbalance{replica="main-0"} 1.5' in text
    assert 'fathom_expert_rank_rows{rank="1",replica="main-0"} 10.0' in text
    assert 'fathom_engine_op_seconds_total{op="forward"} 1.5' in text


def test_the_page_and_its_files_are_there(server: Running) -> None:
    page = server.http.get("/experts.html")
    assert page.status_code == 200 and "experts.js" in page.text
    assert {server.http.get(f"/static/experts.{kind}").status_code for kind in ("js", "css")} == {200}


def test_a_fleet_is_shown_replica_by_replica_and_keys_are_wanted(scripted_model: Path, monkeypatch) -> None:
    monkeypatch.setenv("EPLB", "off")
    config = ServeConfig(model=str(scripted_model), drain_s=0.2, api_keys=("secret",), pools=(Pool(replicas=2),))
    with running(config) as started:
        http = started.http
        for path in ("/experts", "/trace"):
            assert http.get(path).status_code == 401
        assert http.post("/experts/rebalance", json={}).status_code == 401
        assert http.get("/experts.html").status_code == 200, "the page holds nothing secret"
        http.headers["authorization"] = "Bearer secret"
        while {replica["state"] for replica in http.get("/fleet").json()["replicas"]} != {"ready"}:
            pass
        shown = http.get("/experts").json()["engines"]
        assert len(shown) == 2 and len({one["pid"] for one in shown.values()}) == 2
        events = http.get("/trace").json()["traceEvents"]
        assert [(e["pid"], e["cat"]) for e in events] == list(zip((0, 1000), shown, strict=True))
        second = list(shown)[1]
        assert [e["cat"] for e in http.get("/trace", params={"engine": second}).json()["traceEvents"]] == [second]
        refused = http.post("/experts/rebalance", json={})
        assert refused.status_code == 400 and "eplb is off" in refused.json()["error"]["message"]
