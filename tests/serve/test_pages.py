"""Pages of other rooms: their questions do not keep replies waiting, and end when nobody wants to know."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import pytest

from fathom.errors import RequestError
from fathom.serve.alone import Alone
from fathom.serve.guard import Access
from fathom.serve.launch import ServeConfig, Server
from fathom.serve.pages import Page
from tests.serve.conftest import SCRIPTED, Running


class Clerk:
    """Answers with what was asked; "slow" takes until it is `enough`."""

    def __init__(self) -> None:
        self.begun, self.enough = threading.Event(), threading.Event()
        self.given_up, self.closed = threading.Event(), threading.Event()

    async def ask(self, what: str, query: Mapping[str, str]) -> bytes:
        if what == "slow":
            self.begun.set()
            try:
                while not self.enough.is_set():
                    await asyncio.sleep(0.02)
            except asyncio.CancelledError:
                self.given_up.set()
                raise
        if what == "bad":
            raise RequestError("gpus is 'x'; it must be a number.", param="gpus")
        if what == "nix":
            raise LookupError("there is no 'nix'; ask for fit.")
        if what == "broken":
            raise RuntimeError("a secret of ours")
        return json.dumps([what, dict(query)]).encode()

    async def close(self) -> None:
        self.closed.set()


@contextlib.contextmanager
def alone(page: Page, keys: tuple[str, ...] = ()) -> Iterator[httpx.Client]:
    server = Alone([page], "127.0.0.1", 0, Access.for_host("127.0.0.1", keys))
    ready = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(ready.set)), daemon=True)
    thread.start()
    assert ready.wait(20)
    with httpx.Client(base_url=server.url, timeout=20) as http:
        yield http
    server.stop()
    thread.join(20)
    assert not thread.is_alive()


def test_a_page_and_its_answers() -> None:
    clerk = Clerk()
    with alone(Page("plan", clerk)) as http:
        page = http.get("/plan")
        assert page.status_code == 200 and "plan.js" in page.text and page.headers["cache-control"] == "no-cache"
        assert "default-src 'self'" in page.headers["content-security-policy"]
        assert http.get("/").headers["location"] == "plan"
        assert http.get("/v1/plan/fit?gpus=8&in=1").json() == ["fit", {"gpus": "8", "in": "1"}]
        assert {http.get(f"/static/{name}").status_code for name in ("plan.js", "vendor/uPlot.esm.js")} == {200}
    assert clerk.closed.is_set()


def test_what_goes_wrong_is_said_in_the_envelope() -> None:
    with alone(Page("plan", Clerk())) as http:
        bad = http.get("/v1/plan/bad")
        assert bad.status_code == 400
        assert bad.json()["error"]["param"] == "gpus" and "must be a number" in bad.json()["error"]["message"]
        assert http.get("/v1/plan/nix").status_code == 404 and "ask for fit" in http.get("/v1/plan/nix").text
        broken = http.get("/v1/plan/broken")
        assert broken.status_code == 500 and "secret" not in broken.text
        assert http.get("/v1/chat/completions").status_code == 404


def test_an_answer_that_takes_too_long_is_given_up() -> None:
    clerk = Clerk()
    with alone(Page("plan", clerk, limit_s=0.05)) as http:
        late = http.get("/v1/plan/slow")
        assert late.status_code == 503 and late.json()["error"]["code"] == "took_too_long"
    assert clerk.given_up.is_set()


def test_a_client_that_leaves_ends_its_question() -> None:
    clerk = Clerk()
    with alone(Page("plan", clerk)) as http:
        with pytest.raises(httpx.ReadTimeout):
            httpx.get(f"{http.base_url}/v1/plan/slow", timeout=0.2)
        assert clerk.given_up.wait(10)


def test_more_questions_than_may_wait_are_refused() -> None:
    clerk = Clerk()
    with alone(Page("plan", clerk, most=1)) as http:
        waiting = threading.Thread(target=_forgiven, args=(f"{http.base_url}/v1/plan/slow", 60.0))
        waiting.start()
        assert clerk.begun.wait(10)
        refused = http.get("/v1/plan/fit")
        assert refused.status_code == 429 and "retry-after-ms" in refused.headers
        clerk.enough.set()
        waiting.join(10)


def _forgiven(url: str, timeout: float = 1.0) -> None:
    with contextlib.suppress(httpx.HTTPError):
        httpx.get(url, timeout=timeout)


def test_the_page_is_public_and_its_answers_want_the_key() -> None:
    with alone(Page("plan", Clerk()), keys=("secret",)) as http:
        assert http.get("/plan").status_code == 200
        assert http.get("/v1/plan/fit").status_code == 401
        assert http.get("/v1/plan/fit", headers={"authorization": "Bearer secret"}).status_code == 200


def test_a_server_with_an_engine_has_the_page_too(scripted_model: Path) -> None:
    clerk = Clerk()
    config = ServeConfig(model=str(scripted_model), port=0, drain_s=0.2)
    running = Running(Server(config, command=SCRIPTED, pages=[Page("plan", clerk)]))
    assert running.ready.wait(20)
    try:
        slow = threading.Thread(target=_forgiven, args=(f"{running.url}/v1/plan/slow",))
        slow.start()
        body = {"messages": [{"role": "user", "content": "hi"}]}
        assert running.http.post("/v1/chat/completions", json=body).status_code == 200
        assert running.http.get("/plan").status_code == 200
        assert running.http.get("/v1/models").status_code == 200
        slow.join(10)
    finally:
        running.stop()
    assert clerk.closed.is_set() and clerk.given_up.is_set()
