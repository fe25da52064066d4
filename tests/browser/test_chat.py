"""The page as a person uses it, in a real Chromium."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.browser.conftest import Watched
from tests.browser.fake_server import HOSTILE, SUGGESTIONS, FakeServer, Step

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Locator, Page

pytestmark = pytest.mark.browser

SUM = "What is 384 + 2957?"


def ask(page: Page, question: str) -> Locator:
    """Type a question, send it with Enter; returns its turn."""
    page.get_by_label("Your question").fill(question)
    page.keyboard.press("Enter")
    return page.locator(".turn").last


def ended(turn: Locator, how: str = "done") -> Locator:
    """The turn, once it has come to this end."""
    ends = "how => [...document.querySelectorAll('.turn')].at(-1)?.classList.contains(how)"  # not those before it
    turn.page.wait_for_function(ends, arg=how, timeout=60_000)
    return turn


# A fast model thinks for less time than a test takes to look: the page itself notes what it showed on the way.
NOTICE = """
  window.seen = { thoughts: new Set(), phases: new Set(), stop: false };
  new MutationObserver(() => {
    const thinking = document.querySelector(".turn .thinking.live[open] .steps");
    if (thinking?.checkVisibility()) seen.thoughts.add(thinking.textContent);
    for (const phase of document.querySelectorAll(".running .phase.now")) seen.phases.add(phase.dataset.phase);
    seen.stop ||= document.querySelector("#send[aria-label=Stop]")?.checkVisibility() ?? false;
  }).observe(document.body, { subtree: true, childList: true, attributes: true, characterData: true });
"""


def think_and_answer(page: Page, tries: int = 1) -> None:
    """What every server must make of the page's first question. A reply may be over before a frame: then once more."""
    page.evaluate(NOTICE)
    turn = ended(ask(page, SUM))
    while tries > 1 and page.evaluate("seen.thoughts.size") < 2:
        page.locator("#new-chat").click()
        turn, tries = ended(ask(page, SUM)), tries - 1
    assert page.evaluate("seen.thoughts.size") >= 2, "the thinking is seen while it grows"
    assert "thinking" in page.evaluate("[...seen.phases]")
    assert page.evaluate("seen.stop")
    assert "3341" in turn.locator(".answer").inner_text()
    assert turn.locator(".thinking").get_attribute("open") is None, "the thinking folds away when the answer begins"
    assert re.fullmatch(r"Thought for \d+\.\d s · [1-9]\d* tokens", turn.locator(".thought").inner_text())
    line = turn.locator(".phases").inner_text()
    assert re.search(r"prompt \d+ tokens", line) and re.search(r"thinking [1-9]\d* tok \d+\.\d s", line)
    assert re.search(r"answer [1-9]\d* tok · [\d.]+ tok/s · TTFT \d+ ms", line)


def test_a_question_is_thought_about_and_answered(page: Page) -> None:
    think_and_answer(page)


def test_the_shipped_model_thinks_and_answers(context: BrowserContext, live_url: str) -> None:
    page, watched = context.new_page(), Watched(live_url)
    watched.follow(page)
    page.goto(live_url)
    page.locator("#connection[data-state=ready]").wait_for()
    assert page.locator(".suggestions button").count() > 0
    think_and_answer(page, tries=10)
    watched.check(page)


def test_the_header_says_which_model_and_that_it_is_ready(page: Page) -> None:
    page.locator("#connection[data-state=ready]").wait_for()
    assert page.locator(".model").inner_text() == "fathom-nano11.2 M parameters · context 2,048"


def test_a_suggestion_asks_itself(page: Page, server: FakeServer) -> None:
    chips = page.get_by_role("list", name="Suggested questions").get_by_role("button")
    chips.first.wait_for()
    assert chips.count() == len(SUGGESTIONS)
    chips.first.click()
    ended(page.locator(".turn"))
    assert server.record.bodies[0]["messages"] == [{"role": "user", "content": SUGGESTIONS[0]["prompt"]}]
    assert page.locator("#welcome").is_hidden()


def test_stop_keeps_the_text_and_frees_the_server(page: Page, server: FakeServer) -> None:
    turn = ask(page, "ramble, please")
    turn.locator(".answer").get_by_text("and on").wait_for()
    page.get_by_role("button", name="Stop").click()
    ended(turn, "stopped")
    assert server.record.gone.wait(5), "the server must see that nobody listens any more"
    assert turn.locator(".note").inner_text() == "stopped"
    said = turn.locator(".answer").inner_text()
    assert "and on" in said
    time.sleep(0.3)
    assert turn.locator(".answer").inner_text() == said, "nothing may arrive after a stop"
    assert page.get_by_role("button", name="Send").is_visible()


def test_escape_stops_while_it_thinks(page: Page, server: FakeServer) -> None:
    turn = ask(page, "slow, please")
    turn.locator(".thinking.live").wait_for()
    page.keyboard.press("Escape")
    ended(turn, "stopped")
    assert server.record.gone.wait(5)
    assert turn.locator(".note").inner_text() == "stopped before an answer"
    ended(ask(page, SUM))
    assert len(server.record.bodies[1]["messages"]) == 1, "a question without an answer is not part of the talk"


def test_the_phase_line_moves_while_nothing_comes(page: Page) -> None:
    turn = ask(page, "slow, please")
    now = turn.locator(".phase.now")
    now.get_by_text("thinking").wait_for()
    seen = set()
    for _ in range(6):
        seen.add(now.inner_text())
        time.sleep(0.15)
    assert len(seen) >= 4
    page.keyboard.press("Escape")


def test_only_answers_are_sent_back(page: Page, server: FakeServer) -> None:
    ended(ask(page, SUM))
    ended(ask(page, "And Sort them?"))
    first, second = server.record.bodies
    assert first["thinking"] == {"type": "enabled"} and first["stream"] is True
    assert second["messages"] == [
        {"role": "user", "content": SUM},
        {"role": "assistant", "content": "384 + 2957 = **3341**"},
        {"role": "user", "content": "And Sort them?"},
    ]


def test_thinking_can_be_switched_off(page: Page, server: FakeServer) -> None:
    switch = page.get_by_role("switch", name="Thinking")
    switch.click()
    assert switch.get_attribute("aria-checked") == "false"
    turn = ended(ask(page, SUM))
    assert server.record.bodies[0]["thinking"] == {"type": "disabled"}
    assert turn.locator(".thinking").is_hidden()


def test_effort_and_samples_are_asked_for(page: Page, server: FakeServer) -> None:
    effort, switch = page.get_by_label("Effort"), page.get_by_role("switch", name="Thinking")
    samples, strategy = page.get_by_label("Samples"), page.get_by_label("Strategy")
    assert strategy.is_hidden()
    effort.select_option("none")
    assert switch.get_attribute("aria-checked") == "false", "no effort is no thinking"
    switch.click()
    assert effort.input_value() == ""
    effort.select_option("high")
    samples.fill("99")
    samples.press("Tab")
    assert samples.input_value() == "16"
    strategy.select_option("best_of")
    ended(ask(page, SUM))
    body = server.record.bodies[0]
    assert (body["thinking"], body["reasoning_effort"]) == ({"type": "enabled"}, "high")
    assert body["think"] == {"strategy": "best_of", "n": 16}


def test_the_cost_is_shown_as_it_grows(page: Page, server: FakeServer) -> None:
    account = {"strategy": "vote", "n": 5, "aborted": 0, "prompt_tokens": 37, "cost": None}
    rest = threading.Event()

    def script(question: str, thinking: bool) -> Iterator[Step]:
        yield {"think": {**account, "finished": 2, "votes": {"7": 2}, "completion_tokens": 90, "seconds": 1.25}}
        rest.wait(30)
        yield {"delta": {"content": "7"}, "finish": "stop"}
        last = {**account, "finished": 3, "aborted": 2, "votes": {"7": 3}, "completion_tokens": 120, "seconds": 2.0}
        usage = {"prompt_tokens": 37, "completion_tokens": 120, "think": {**last, "cost": 0.000123}}
        yield {"usage": usage}

    server.script = script
    turn = ask(page, SUM)
    turn.locator(".cost", has_text="127 tokens · 1.3 s · 2 of 2 agree").wait_for()
    rest.set()
    ended(turn)
    assert turn.locator(".cost").inner_text() == "157 tokens · 2.0 s · costs 0.00012 · 3 of 3 agree, 2 not needed"


def test_a_price_turns_seconds_into_money(context: BrowserContext, server: FakeServer, watched: Watched) -> None:
    server.price_per_hour = 3600.0
    page = context.new_page()
    page.goto(server.url)
    page.locator("#connection[data-state=ready]").wait_for()
    cost = ended(ask(page, SUM)).locator(".cost").inner_text()
    found = re.fullmatch(r"\d+ tokens · (\d+\.\d) s · costs ([\d.]+)", cost)
    assert found and float(found[2]) == pytest.approx(float(found[1]), abs=0.1)


def test_thinking_stays_as_the_reader_left_it(page: Page, server: FakeServer) -> None:
    looked = threading.Event()

    def script(question: str, thinking: bool) -> Iterator[Step]:
        yield {"delta": {"reasoning_content": "a thought"}}
        looked.wait(30)
        yield {"delta": {"content": "an answer"}}

    server.script = script
    turn = ask(page, SUM)
    for _ in ("close", "open"):
        turn.locator("summary").click()
    looked.set()
    ended(turn)
    assert turn.locator(".thinking").get_attribute("open") is not None


def test_markdown_is_shown_as_such(page: Page) -> None:
    answer = ended(ask(page, "Sort these")).locator(".answer")
    assert answer.get_by_role("heading", name="Sorted").is_visible()
    assert answer.get_by_role("cell", name="3 7 19 42 88").is_visible()
    assert "sorted([42" in answer.locator("pre code").inner_text()


def test_hostile_answers_are_only_text(page: Page) -> None:
    turn = ended(ask(page, "something hostile"))
    answer = turn.locator(".answer")
    turn.locator("summary").click()
    turn.locator(".steps").wait_for()
    assert turn.locator(".steps").inner_text() == HOSTILE.strip(), "thinking is shown letter by letter"
    assert """<img src=x onerror="alert('image')">""" in answer.inner_text()
    assert "</think><script>window.ran = 2</script>" in answer.inner_text()
    dangerous = "script, style, img, svg, math, iframe, form, input, object, link, meta, [style], [onclick], [id]"
    assert turn.locator(".answer").locator(dangerous).count() == 0
    links = answer.locator("a[href]")
    assert links.count() == 1 and links.get_attribute("href") == "https://example.invalid/page"
    assert links.get_attribute("rel") == "noopener noreferrer nofollow"
    assert answer.locator("strong").inner_text() == "still here"
    for link in answer.locator("a:not([href])").all():
        link.click()
    assert page.evaluate("window.ran") is None


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ("break", "The engine is being restarted; send the request again."),
        ("vanish", "The connection was lost before the answer was complete."),
        ("too long", "This model's maximum context length is 2048 tokens. However, your prompt has 3000 tokens."),
    ],
)
def test_an_error_is_one_line_with_a_way_on(
    page: Page, server: FakeServer, watched: Watched, question: str, message: str
) -> None:
    watched.expected = ("Failed to load resource",)  # the browser's own line about a refused or broken request
    turn = ended(ask(page, question), "failed")
    assert turn.locator(".error p").inner_text() == message
    assert page.locator("#status").inner_text() == message
    server.script = lambda question, thinking: iter([{"delta": {"content": "well again"}}])
    turn.get_by_role("button", name="Retry").click()
    ended(turn)
    assert page.locator(".turn").count() == 1
    assert page.locator(".answer").inner_text() == "well again"
    assert [body["messages"] for body in server.record.bodies] == [[{"role": "user", "content": question}]] * 2


def test_a_server_that_loads_is_waited_for(page: Page, server: FakeServer, watched: Watched) -> None:
    watched.expected = ("Failed to load resource",)
    server.loading = True
    turn = ended(ask(page, SUM), "failed")
    assert turn.locator(".error p").inner_text() == "The model is still being loaded. Try again in 1 s."
    page.locator("#connection[data-state=loading]").wait_for()
    assert page.locator("#connection").inner_text() == "loading the model"
    server.loading = False
    page.locator("#connection[data-state=ready]").wait_for()
    turn.get_by_role("button", name="Retry").click()
    ended(turn)


def test_a_server_that_is_gone_is_said_to_be(page: Page, server: FakeServer, watched: Watched) -> None:
    watched.expected = ("Failed to load resource",)
    page.locator("#connection[data-state=ready]").wait_for()
    server.shutdown()
    server.server_close()
    turn = ended(ask(page, SUM), "failed")
    assert turn.locator(".error p").inner_text() == "The server cannot be reached. Is fathom serve still running?"
    page.locator("#connection[data-state=lost]").wait_for()


def test_a_reply_cut_off_says_so(page: Page) -> None:
    assert ended(ask(page, "cut off")).locator(".note").inner_text() == "cut off at the token limit"


def test_shift_enter_breaks_the_line_and_enter_sends(page: Page, server: FakeServer) -> None:
    box = page.get_by_label("Your question")
    box.press_sequentially("one")
    before = box.bounding_box()
    page.keyboard.press("Shift+Enter")
    box.press_sequentially("two")
    after = box.bounding_box()
    assert before and after and after["height"] > before["height"], "the box grows with its text"
    page.keyboard.press("Enter")
    ended(page.locator(".turn"))
    assert server.record.bodies[0]["messages"][0]["content"] == "one\ntwo"
    assert box.input_value() == ""


def test_new_chat_forgets(page: Page, server: FakeServer) -> None:
    ended(ask(page, SUM))
    page.get_by_role("button", name="New chat").click()
    assert page.locator(".turn").count() == 0 and page.locator("#welcome").is_visible()
    ask(page, "slow one")
    page.locator(".turn.running .steps").wait_for()
    page.get_by_role("button", name="New chat").click()
    assert server.record.gone.wait(5), "a reply nobody will see is stopped"
    ended(ask(page, SUM))
    assert len(server.record.bodies[-1]["messages"]) == 1


def test_answers_questions_and_requests_can_be_copied(page: Page, server: FakeServer) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    question = "What's 384 + 2957?"
    turn = ended(ask(page, question))

    def copied(label: str) -> str:
        turn.get_by_role("button", name=label).click()
        page.locator("#status").get_by_text("Copied.").wait_for()
        page.evaluate("document.getElementById('status').textContent = ''")
        return page.evaluate("navigator.clipboard.readText()")

    assert copied("Copy the answer") == "384 + 2957 = **3341**"
    turn.locator(".question").hover()
    assert copied("Copy the question") == question
    command = copied("Copy as curl")
    assert command.startswith(f"curl {server.url}v1/chat/completions \\\n")
    assert r"What'\''s 384 + 2957?" in command, "a quote in a question must not end the shell's"


def test_it_fits_a_phone(context: BrowserContext, server: FakeServer) -> None:
    page = context.new_page()
    page.set_viewport_size({"width": 375, "height": 667})
    page.goto(server.url)
    ended(ask(page, "Sort these " + "1234567890" * 12))
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    for name in ("Send", "New chat", "Copy the answer"):
        box = page.get_by_role("button", name=name).bounding_box()
        assert box and box["x"] >= 0 and box["x"] + box["width"] <= 375, name
        assert min(box["width"], box["height"]) >= 36, f"{name} is too small for a finger"


def test_nothing_jumps(page: Page) -> None:
    page.locator(".suggestions button").first.wait_for()
    time.sleep(0.2)
    assert page.evaluate("window.shift") < 0.01, "loading"
    ended(ask(page, SUM))
    ended(ask(page, "Sort these"))
    assert page.evaluate("window.shift") < 0.1, "a good page by the web vitals' measure"


def test_every_control_has_a_name_and_takes_the_keyboard(page: Page) -> None:
    page.locator(".suggestions button").first.wait_for()
    ended(ask(page, SUM))
    for button in page.get_by_role("button").all():
        name = button.get_attribute("aria-label") or button.inner_text()
        assert name.strip(), button.evaluate("node => node.outerHTML")
    reached = set()
    page.locator(".mark").focus()
    for _ in range(12):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.className"))
        if page.evaluate("document.activeElement.tagName") == "SUMMARY" and not page.locator(".thinking[open]").count():
            page.keyboard.press("Enter")  # once: the focus comes round again within twelve steps
            page.locator(".thinking[open] .steps").wait_for()
            page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")  # laid out
    assert page.locator(".thinking[open]").count() == 1
    missing = {"new-chat", "question", "thinking", "steps", "icon"} - reached
    assert not missing
    assert page.locator("#status").get_attribute("aria-live") == "polite"
    assert page.locator("#status").inner_text() == "Answer: 384 + 2957 = 3341"
