"""The planner's page in a real Chromium, over the real planner: what is shown is what the Python function says."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import re
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from fathom.cli.planning.web import plan_page
from fathom.plan.page import WORKS, answer
from fathom.serve.alone import Alone
from fathom.serve.guard import Access
from tests.browser.conftest import Watched, browsing
from tests.browser.test_modules import run

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

pytestmark = pytest.mark.browser

SMALL = {"model": "llama-3.1-8b", "gpu": "h100_sxm", "gpus": "1", "in": "1000", "out": "200", "largest": "2",
         "mtp": "0", "trained_on": "64", "tokens": "15T"}  # fmt: skip
QUERY = "&".join(f"{name}={value}" for name, value in SMALL.items())


@pytest.fixture(scope="module")
def planner() -> Iterator[str]:
    """Where the planner listens; one process answers all tests, and keeps what it worked out."""
    server = Alone([plan_page()], "127.0.0.1", 0, Access.for_host("127.0.0.1"))
    ready = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(ready.set)), daemon=True)
    thread.start()
    assert ready.wait(20)
    yield server.url
    server.stop()
    thread.join(20)


def opened(page: Page, url: str, query: str = QUERY) -> Page:
    page.goto(f"{url}/plan?{query}")
    settled(page)
    if not page.locator("#form").is_visible():  # folded on a small screen
        page.locator("#ask > summary").click()
    return page


def settled(page: Page) -> Page:
    page.locator("#connection[data-state=ready]").wait_for(timeout=90_000)
    return page


@pytest.fixture
def page(context: BrowserContext, planner: str) -> Iterator[Page]:
    page, watched = context.new_page(), Watched(planner, expected=("status of 400",))
    watched.follow(page)
    yield page
    watched.check(page)


@pytest.fixture(scope="module")
def shown(chromium: Browser, planner: str) -> Iterator[Page]:
    """The page with its answers, for tests that change nothing."""
    with browsing(chromium) as context:
        page, watched = context.new_page(), Watched(planner)
        watched.follow(page)
        yield opened(page, planner)
        watched.check(page)


def change(page: Page, name: str, value: str) -> None:
    """Put a value into an input, and wait for what follows from it."""
    box = page.locator(f"#in-{name}")
    if box.evaluate("(box) => box.tagName") == "SELECT":
        box.select_option(value)
    else:
        box.fill(value)
    settled(page)


def test_every_section_says_what_python_says(shown: Page) -> None:
    for work in WORKS:
        found = answer(work, SMALL)
        assert shown.locator(f"#{work} .says").inner_text() == found["says"]
        cards = shown.locator(f"#{work} .numbers dt").all_inner_texts()
        assert cards == [one["title"] for one in found["numbers"]]
        assert shown.locator(f"#{work} figure h3").all_inner_texts() == [plot["title"] for plot in found["plots"]]


def test_every_number_has_its_unit_its_interval_and_how_it_was_come_by(shown: Page) -> None:
    found = answer("demand", SMALL)["numbers"][0]
    card = shown.locator("#demand .numbers > div").first
    assert found["unit"] in card.inner_text() and "80 %: " in card.inner_text() and "computed" in card.inner_text()
    assert card.get_attribute("title").startswith("bill of a day")
    details = shown.locator("#demand details", has_text="The numbers with their sources")
    details.locator("summary").click()
    row = details.locator("tbody tr").first
    row.wait_for()  # it is made once the browser has said that it was opened
    cells = row.locator("td").all_inner_texts()
    assert cells[0] == "Bill of a day" and cells[4] == "USD/day" and cells[7] == "computed"


@pytest.mark.parametrize(("gpu", "state"), [("h100_sxm", "no"), ("h200_sxm", "yes")])
def test_the_671b_question(page: Page, planner: str, gpu: str, state: str) -> None:
    page.goto(f"{planner}/plan?gpu={gpu}&gpus=8")
    says = page.locator("#fit .says[data-state]")
    says.wait_for()
    assert says.get_attribute("data-state") == state and says.inner_text().startswith(state.capitalize())
    if state == "no":
        assert "16 devices" in page.locator("#fit .lines").inner_text()


def test_an_input_changes_what_depends_on_it_and_nothing_else(page: Page, planner: str) -> None:
    opened(page, planner)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url.removeprefix(f"{planner}/v1/plan/").partition("?")[0]))
    before = page.locator("#fit .says").inner_text()
    change(page, "trained_on", "128")
    assert {what for what in asked if "/" not in what} == {"train", "crossover"}
    assert page.locator("#fit .says").inner_text() == before
    assert page.locator("#train .says").inner_text() == answer("train", {**SMALL, "trained_on": "128"})["says"]
    change(page, "model", "llama-3.1-70b")
    assert page.locator("#fit .says").inner_text().startswith("No: llama-3.1-70b does not fit on 1 x H100")


def test_the_address_holds_what_was_changed_and_brings_it_back(page: Page, planner: str) -> None:
    opened(page, planner)
    page.locator("#in-users-low").fill("3M")
    page.locator("#in-users").fill("4M")
    page.locator("#in-users-high").fill("")
    settled(page)
    assert "users=3M..4M..4M" in page.url
    says, address = page.locator("#demand .says").inner_text(), page.url
    assert says.startswith("4,000,000 users a day")
    page.goto("about:blank")
    opened(page, planner, address.partition("?")[2])
    assert [page.locator(f"#in-users{end}").input_value() for end in ("-low", "", "-high")] == ["3M", "4M", "4M"]
    assert page.locator("#demand .says").inner_text() == says
    page.get_by_role("button", name="Reset").click()
    page.wait_for_url(f"{planner}/plan")
    assert page.locator("#in-model").input_value() == "deepseek-v3"


def test_what_cannot_be_is_said_at_its_input_and_in_its_sections(page: Page, planner: str) -> None:
    opened(page, planner)
    page.locator("#in-tokens").fill("many")
    message = "Tokens is 'many'; it must be a number, such as 14.8T."
    page.locator("#train .trouble", has_text="must be a number").wait_for()
    page.locator("#crossover .trouble").wait_for()
    assert page.locator("#train .trouble").inner_text() == message
    assert page.locator("#in-tokens-wrong").inner_text() == message
    assert page.locator("#in-tokens").get_attribute("aria-invalid") == "true"
    assert page.locator("#fit .says").inner_text().startswith("Yes"), "others stay as they are"
    page.locator("#in-tokens").fill("15T")
    settled(page)
    assert page.locator(".trouble").count() == 0
    assert page.locator("#in-tokens").get_attribute("aria-invalid") == "false"


def exported(page: Page, plot: str, kind: str) -> tuple[str, bytes]:
    with page.expect_download() as waiting:
        page.locator(f"#figure-{plot} .keep").first.get_by_text(kind, exact=True).click()
    return waiting.value.suggested_filename, waiting.value.path().read_bytes()


def test_a_plot_is_kept_as_csv_json_and_png(shown: Page) -> None:
    plot = next(one for one in answer("demand", SMALL)["plots"] if one["name"] == "demand-bill")
    name, content = exported(shown, "demand-bill", "CSV")
    rows = list(csv.reader(io.StringIO(content.decode())))
    assert name == "fathom-demand-bill.csv"
    assert rows[0] == ["series", "years from now", "USD/year", "low", "high"]
    (one,) = plot["series"]
    assert [float(row[2]) for row in rows[1:]] == pytest.approx([y for _, y in one["points"]])
    assert [float(row[3]) for row in rows[1:]] == pytest.approx(one["low"])
    _, content = exported(shown, "demand-bill", "JSON")
    asked = {name: value for name, value in SMALL.items() if name in WORKS["demand"][2]}
    assert json.loads(content) == {"asked": asked, "plot": json.loads(json.dumps(plot))}
    _, content = exported(shown, "demand-bill", "PNG")
    picture = Image.open(io.BytesIO(content)).convert("RGB")
    assert picture.width > 300 and picture.height > 250
    assert len(picture.resize((80, 80)).getcolors(6400) or []) > 20, "something was drawn"


@pytest.mark.parametrize("plot", ["memory", "pareto", "cost", "training-bill", "demand-tokens", "tornado", "crossover"])
def test_each_plot_is_drawn_and_has_its_table(shown: Page, plot: str) -> None:
    figure = shown.locator(f"#figure-{plot}")
    inked = (
        """(c) => new Set(new Uint32Array(c.getContext('2d').getImageData(0, 0, c.width, c.height).data.buffer)).size"""
    )
    assert figure.locator("canvas").evaluate(inked) > 10
    assert figure.locator(".plot").get_attribute("role") == "img"
    assert "The figures are in the table below." in (figure.locator(".plot").get_attribute("aria-label") or "")
    figure.locator("summary").click()
    figure.locator("tbody tr").first.wait_for()
    rows = figure.locator("tbody tr").count()
    found = next(one for work in WORKS for one in answer(work, SMALL)["plots"] if one["name"] == plot)
    assert rows == sum(len(one["points"]) for one in found["series"])
    figure.locator("summary").click()


def test_points_are_told_by_keys_and_by_the_pointer(shown: Page) -> None:
    figure = shown.locator("#figure-tornado")
    names = next(one for one in answer("demand", SMALL)["plots"] if one["name"] == "tornado")["categories"]
    figure.locator(".plot").focus()
    shown.keyboard.press("ArrowDown")
    assert figure.locator(".point").inner_text().startswith(f"{names[0]}: input at P10 ")
    shown.keyboard.press("End")
    assert figure.locator(".point").inner_text().startswith(f"{names[-1]}: ")
    pareto = shown.locator("#figure-pareto")
    pareto.scroll_into_view_if_needed()
    box = pareto.locator(".u-over").bounding_box()
    assert box is not None
    shown.mouse.move(box["x"] + box["width"] / 2, box["y"] + 5)
    assert re.match(r"[\d.,]+ tok/s/user: .* tok/s/GPU, .*bound by", pareto.locator(".point").inner_text())


def test_every_input_has_a_name_and_every_heading_its_place(shown: Page) -> None:
    unnamed = """[...document.querySelectorAll('input, select, button, [role=img]')].filter((one) =>
        !one.labels?.length && !one.getAttribute('aria-label') && !one.textContent.trim()).map((one) => one.id)"""
    assert shown.evaluate(unnamed) == []
    assert shown.locator("section[aria-labelledby]").count() == len(WORKS)
    doubled = "(() => { const ids = [...document.querySelectorAll('[id]')].map((one) => one.id);" \
              "return ids.filter((id, i) => ids.indexOf(id) !== i); })()"  # fmt: skip
    assert shown.evaluate(doubled) == []


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (390, "dark"), (1400, "dark")])
def test_it_fits_small_and_dark_screens(chromium: Browser, planner: str, width: int, scheme: Any) -> None:
    context = chromium.new_context(
        viewport={"width": width, "height": 800}, color_scheme=scheme, reduced_motion="reduce"
    )
    page, watched = context.new_page(), Watched(planner)
    watched.follow(page)
    page.add_init_script("window.violations = []")
    page.goto(f"{planner}/plan?{QUERY}")
    settled(page)
    assert page.locator("#form").is_visible() == (width > 1000), "on a small screen inputs are folded"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing reaches beyond the side"
    corner = "(c) => [...c.getContext('2d').getImageData(2, 2, 1, 1).data].slice(0, 3)"
    paper = page.locator("figure").first.evaluate("(one) => getComputedStyle(one).backgroundColor")
    assert (int(re.findall(r"\d+", paper)[0]) < 60) == (scheme == "dark")
    assert page.locator("canvas").first.evaluate(corner) == [0, 0, 0], "plots are drawn on what lies behind them"
    watched.check(page)
    context.close()


def test_numbers_are_said_as_people_say_them(shown: Page) -> None:
    values = [0, 0.0651, 20.43, 1211.4, 70656, 12_345_678, 5.12e11, 1.5e-6, -14.93, None, "PP4"]
    said = run(shown, "numbers.js", "return x.map(m.said)", values)
    assert said == ["0", "0.0651", "20.4", "1,211", "70,656", "12.3 M", "512 bn", "1.50e-6", "-14.9", "–", "PP4"]


def test_csv_quotes_what_would_break_it(shown: Page) -> None:
    table = {"head": ["a", "b [GB]"], "rows": [['say "x"', 1.5], ["1,000\nlines", None]]}
    text = run(shown, "keep.js", "return m.csv(x)", table)
    assert list(csv.reader(io.StringIO(text))) == [["a", "b [GB]"], ['say "x"', "1.5"], ["1,000\nlines", ""]]
