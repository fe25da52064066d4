"""Health, readiness, metrics, tokenising and the page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fathom import __version__
from fathom.serve import operate
from tests.serve.conftest import Running


def test_health_ready_and_version(server: Running) -> None:
    assert server.http.get("/health").json() == {"status": "ok", "engine": "ready"}
    ready = server.http.get("/ready").json()
    assert (ready["status"], ready["model"], ready["context"]) == ("ready", "scripted", 512)
    assert server.http.get("/version").json() == {"version": __version__}


def test_metrics_count_what_happened_and_labels_stay_few(server: Running) -> None:
    body = {"messages": [{"role": "user", "content": "hi"}]}
    usage = server.http.post("/v1/chat/completions", json=body).json()["usage"]
    text = server.http.get("/metrics").text
    assert f"fathom_generation_tokens_total {float(usage['completion_tokens'])}" in text
    assert 'fathom_choices_finished_total{reason="stop"} 1.0' in text
    assert "fathom_time_to_first_token_seconds_count 1" in text and "fathom_ready 1" in text
    series = text.count("\n")
    for number in range(30):
        server.http.get(f"/no/such/path/{number}")
        server.http.get(f"/v1/models/{number}")
    assert server.http.get("/metrics").text.count("\n") - series <= 4
    assert all(re.fullmatch(r"[a-z_]+(\{.*\})? [0-9.e+-]+", line) for line in text.splitlines() if line[0] != "#")


def test_guesses_ahead_change_the_counts_and_not_the_reply(server: Running) -> None:
    reply = server.http.post(
        "/v1/chat/completions",
        json={"messages": [{"role": "user", "content": "echo guess 1 2 3 4 5 6 7 8 9"}], "stop": "8", "temperature": 0},
    ).json()
    assert reply["choices"][0]["message"]["content"] == "guess 1 2 3 4 5 6 7 "
    details = reply["usage"]["completion_tokens_details"]
    right, wrong = details["accepted_prediction_tokens"], details["rejected_prediction_tokens"]
    assert right > 4 and wrong > 0
    assert (reply["timings"]["draft_n_accepted"], reply["timings"]["draft_n"]) == (right, right + wrong)
    text = server.http.get("/metrics").text
    drafted, accepted = (
        int(float(re.search(rf"^fathom_spec_decode_num_{name}_tokens_total (\S+)$", text, re.MULTILINE)[1]))  # type: ignore[index]
        for name in ("draft", "accepted")
    )
    assert drafted >= right + wrong and accepted >= right
    assert 'fathom_spec_decode_num_accepted_tokens_per_pos_total{position="2"}' in text


def test_tokens_there_and_back(server: Running) -> None:
    for text in ("hello world", "naïve 👩‍🚀 数学", "<think>", ""):
        reply = server.http.post("/tokenize", json={"prompt": text}).json()
        assert reply["count"] == len(reply["tokens"]) and reply["max_model_len"] == 512
        assert server.http.post("/detokenize", json={"tokens": reply["tokens"]}).json() == {"prompt": text}


def test_a_conversation_is_tokenised_as_the_model_sees_it(server: Running) -> None:
    messages = [{"role": "user", "content": "hi"}]
    for kind, end in (("enabled", "<｜Assistant｜><think>"), ("disabled", "<｜Assistant｜></think>")):
        tokens = server.http.post("/tokenize", json={"messages": messages, "thinking": {"type": kind}}).json()["tokens"]
        assert server.http.post("/detokenize", json={"tokens": tokens}).json()["prompt"].endswith("hi" + end)


@pytest.mark.parametrize("body", [{}, {"prompt": "a", "messages": [{"role": "user", "content": "b"}]}, {"prompt": 3}])
def test_tokenize_wants_one_thing(server: Running, body: dict[str, object]) -> None:
    assert server.http.post("/tokenize", json=body).status_code == 400


def test_only_our_own_model_comes_with_suggestions(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    assert server.http.get("/suggestions").json() == []
    monkeypatch.setattr(server.server.front.served, "name", "fathom-nano")
    offered = server.http.get("/suggestions").json()
    assert len(offered) >= 4 and all(set(item) == {"family", "prompt"} for item in offered)


def test_the_page_and_its_files_are_served_with_etags(server: Running) -> None:
    page = server.http.get("/")
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
    again = server.http.get("/", headers={"if-none-match": page.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    files = re.findall(r'(?:src|href)="(static/[^"]+)"', page.text)
    assert files and all(server.http.get(f"/{file}").status_code == 200 for file in files)


@pytest.mark.parametrize(
    "path", ["/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py", "/static//etc/passwd", "/static/%00"]
)
def test_nothing_outside_the_folder_is_served(server: Running, path: str) -> None:
    response = server.http.get(path)
    assert response.status_code in (400, 404) and "import" not in response.text


def test_the_folder_of_the_page_is_part_of_the_package() -> None:
    assert Path(operate.__file__).parent / "web" == operate.WEB and (operate.WEB / "index.html").is_file()
