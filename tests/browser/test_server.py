"""The page over fathom's own server: its front, its guard and its streams, with a model that is a script."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fathom.serve.launch import ServeConfig
from tests.browser.conftest import Watched
from tests.browser.test_chat import ask, ended
from tests.serve.conftest import Running, running

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Page

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def live(scripted_model: Path) -> Iterator[Running]:
    with running(ServeConfig(model=str(scripted_model), drain_s=0.2)) as started:
        yield started


@pytest.fixture
def live_page(context: BrowserContext, live: Running) -> Iterator[Page]:
    page, watched = context.new_page(), Watched(live.url)
    watched.follow(page)
    page.goto(live.url)
    page.locator("#connection[data-state=ready]").wait_for()
    yield page
    watched.check(page)


def test_a_reply_of_the_real_front_is_shown_in_full(live_page: Page) -> None:
    turn = ended(ask(live_page, "html"))
    turn.locator("summary").click()
    turn.locator(".steps").wait_for()
    assert turn.locator(".steps").inner_text() == "Let me think step by step."
    assert turn.locator(".answer").inner_text() == "<script>alert(1)</script><img src=x onerror=alert(1)></think>"
    line = turn.locator(".phases").inner_text()
    for part in ("prompt ", " tokens", "thinking ", "answer ", " tok/s", "TTFT "):
        assert part in line
    assert live_page.locator("#model").inner_text() == "scripted"


def test_a_second_question_reads_the_first_from_the_cache(live_page: Page) -> None:
    ended(ask(live_page, "deep " * 100))
    turn = ended(ask(live_page, "again"))
    turn.locator(".phases", has_text=" from cache)").wait_for()


def test_stop_frees_the_engine(live_page: Page, live: Running) -> None:
    turn = ask(live_page, "slow")
    turn.locator(".answer").get_by_text("word word").wait_for()
    assert live.server.client.in_flight == 1
    live_page.keyboard.press("Escape")
    ended(turn, "stopped")
    deadline = time.monotonic() + 10
    while live.server.client.in_flight and time.monotonic() < deadline:
        time.sleep(0.02)
    assert live.server.client.in_flight == 0
    assert "word word" in turn.locator(".answer").inner_text()


def test_a_key_in_the_address_is_used_and_hidden(context: BrowserContext, scripted_model: Path) -> None:
    with running(ServeConfig(model=str(scripted_model), drain_s=0.2, api_keys=("se cret/1",))) as locked:
        page, watched = context.new_page(), Watched(locked.url, expected=("401",))
        watched.follow(page)
        page.goto(locked.url)
        refused = ended(ask(page, "html"), "failed").locator(".error p").inner_text()
        assert refused == f"This server wants a key. Open the page as {locked.url}/#key=KEY."
        page.goto("about:blank")
        page.goto(f"{locked.url}/#key=se%20cret%2F1")
        page.locator("#connection[data-state=ready]").wait_for()
        ended(ask(page, "html"))
        assert page.url == f"{locked.url}/", "the key must not stay where it can be read or shared"
        watched.check(page)
