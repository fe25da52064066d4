"""The page about experts, in a real Chromium: what is drawn is what the server says."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.conftest import Watched
from tests.browser.fake_server import FakeServer
from tests.browser.test_modules import run

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Page

pytestmark = pytest.mark.browser

LOAD = {"1": [80, 10, 5, 5], "2": [10, 10, 10, 10]}
EVEN = {"1": [0, 1, 2, 3, 0, 1], "2": [0, 1, 2, 3, 0, 1]}
MOVE = {"step": 1001, "moves": 3, "predicted_gain": 1.25, "measured_gain": None, "imbalance_before": 1.6,
        "imbalance_after": 1.1}  # fmt: skip


def crew(**more: Any) -> dict[str, Any]:
    """Two ranks of three places each; experts 0 and 1 have a copy on each."""
    return {
        "counted": True, "eplb": "manual", "ranks": 2, "steps": 640, "imbalance": 1.6, "trend": [[10, 1.8], [70, 1.6]],
        "load": LOAD, "placements": EVEN, "placements_before": {}, "moving": False, "moved": [], **more,
    }  # fmt: skip


@pytest.fixture
def experts(context: BrowserContext, server: FakeServer, watched: Watched):
    """Opens the page about these engines; it is watched to the end of the test."""
    page = context.new_page()
    watched.follow(page)

    def show(**engines: dict[str, Any]) -> Page:
        server.engines = engines
        page.goto(f"{server.url}experts.html")
        page.locator("#connection[data-state=ready]").wait_for()
        return page

    yield show
    watched.check(page)


def test_cells_are_copies_in_their_places(shared_page: Page) -> None:
    first, second = run(shared_page, "heat.js", "return m.cells(x)", crew())
    assert (first["layer"], second["layer"]) == (1, 2)
    assert [cell["expert"] for cell in first["cells"]] == [0, 1, 2, 3, 0, 1]
    assert [cell["rank"] for cell in first["cells"]] == [0, 0, 0, 1, 1, 1]
    assert [(c["copy"], c["copies"]) for c in first["cells"]] == [(1, 2), (1, 2), (1, 1), (1, 1), (2, 2), (2, 2)]
    assert [cell["rows"] for cell in first["cells"]] == [40, 5, 5, 5, 40, 5]
    assert first["cells"][0]["load"] == pytest.approx(40 / (100 / 6))
    sums = run(shared_page, "heat.js", "return m.rankRows(m.cells(x), 2)", crew())
    assert sums == [40 + 5 + 5 + 5 + 5 + 10, 5 + 40 + 5 + 10 + 5 + 5]


def test_colours_grow_lighter_with_load(shared_page: Page) -> None:
    colours = run(shared_page, "heat.js", "return [-1, 0, 0.5, 1, 2, 3, 4, 9].map(m.colour)")
    light = [
        0.2126 * int(r) + 0.7152 * int(g) + 0.0722 * int(b)
        for r, g, b in (re.findall(r"\d+", colour) for colour in colours)
    ]
    assert light == sorted(light) and len(set(light[1:-1])) == 6
    assert light[0] == light[1] and light[-2] == light[-1], "beyond the ends nothing changes"


def test_a_crew_is_shown_with_ranks_trend_and_moves(experts, server: FakeServer) -> None:
    page = experts(main=crew(moved=[MOVE], placements_before={"1": [3, 2, 1, 0, 0, 1]}))
    assert page.locator("#facts").inner_text() == "2 ranks · imbalance 1.60 · over 640 steps"
    assert page.locator("#bars li").all_inner_texts() == ["rank 0\n70 rows, 1.00 ×", "rank 1\n70 rows, 1.00 ×"]
    assert page.locator("#trend-from").inner_text() == "60 s ago: 1.80"
    assert page.locator("#moved tbody td").all_inner_texts() == ["1001", "3", "1.60 → 1.10", "25.0 %", "being measured"]
    assert "layer 1, expert 0, copy 1 of 2, rank 0: 40 rows, 2.40 × the mean" in page.locator("#cell").inner_text()
    server.engines = {"main": crew(moved=[MOVE | {"measured_gain": 1.125}])}
    page.locator("#moved").get_by_text("12.5 %").wait_for()  # it refreshes by itself


def test_placements_before_the_last_move_can_be_looked_at(experts) -> None:
    page = experts(main=crew(moved=[MOVE], placements_before={"1": [3, 2, 1, 0, 0, 1]}))
    page.get_by_label("as experts lay before the last move").check()
    page.locator("#heat").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#cell").inner_text() == "layer 1, expert 2, rank 0: 5 rows, 0.30 × the mean"


def test_a_cell_is_named_under_the_pointer_and_by_keys(experts) -> None:
    page = experts(main=crew())
    heat = page.locator("#heat")
    box = heat.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] - 3, box["y"] + 3)
    assert page.locator("#cell").inner_text() == "layer 1, expert 1, copy 2 of 2, rank 1: 5 rows, 0.30 × the mean"
    heat.focus()
    page.keyboard.press("ArrowDown")
    assert page.locator("#cell").inner_text().startswith("layer 2, expert 1, copy 2 of 2, rank 1: 5 rows, 0.75")
    pixel = heat.evaluate("(canvas) => [...canvas.getContext('2d').getImageData(12, 12, 1, 1).data]")
    colour = run(page, "heat.js", "return m.colour(x)", 2.4)
    assert colour == f"rgb({pixel[0]} {pixel[1]} {pixel[2]})"


def test_a_rebalance_is_asked_for(experts, server: FakeServer) -> None:
    page = experts(main=crew())
    page.get_by_role("button", name="Rebalance now").click()
    server.engines = {"main": crew(moving=True)}
    page.get_by_text("Experts are being loaded").wait_for()
    assert server.record.bodies == [{"engine": "main"}]
    assert page.locator("#rebalance").is_disabled()
    server.engines = {"main": crew(eplb="off")}
    page.get_by_text("Experts stay where they are: eplb is off.").wait_for()
    assert page.locator("#rebalance").is_hidden()


def test_one_process_has_all_experts_in_one_place(experts, server: FakeServer) -> None:
    alone = {"counted": True, "eplb": "off", "ranks": 1, "load": LOAD, "steps": 3, "imbalance": 1.0, "trend": [],
             "placements": {"1": [0, 1, 2, 3], "2": [0, 1, 2, 3]}, "moving": False, "moved": []}  # fmt: skip
    page = experts(main=alone)
    assert "all experts in one place" in page.locator("#notice").inner_text()
    assert page.locator("#heat").is_visible()
    assert page.locator("#ranks").is_hidden() and page.locator("#moves").is_hidden()
    server.engines = {"main": {"counted": False, "ranks": 1, "moved": [], "moving": False, "eplb": "off"}}
    page.get_by_text("does not count the load of experts").wait_for()
    assert page.locator("#load").is_hidden()
    server.engines = {"main": {"error": "the engine is restarting"}}
    page.get_by_text("the engine is restarting").wait_for()


def test_one_of_several_engines_is_chosen(experts) -> None:
    page = experts(**{"both-0": crew(), "both-1": crew(steps=7)})
    page.get_by_label("Engine").select_option("both-1")
    page.get_by_text("over 7 steps").wait_for()
