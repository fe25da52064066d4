"""Marks lie where the values say; every drawing, table and object shows them with their units."""

import json
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from PIL import Image

from fathom.errors import ConfigError
from fathom.plan.quantity import Quantity
from fathom.plan.report import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    SCALE,
    TOP,
    WIDTH,
    Chart,
    Series,
    as_json,
    marks,
    page,
    png,
    save,
    short,
    svg,
    table,
)

LINE = Chart("Speed", "users", "tok/s", (Series("a", ((0.0, 4.0), (5.0, 2.0), (10.0, 0.0))),))
FAN = Chart("Demand", "year", "tok", (Series("p50", ((0, 2), (1, 4)), low=(1, 2), high=(3, 8)),))
BARS = Chart("Cost", "part", "USD", (Series("x", ((0, 1), (1, 3)), "bars"), Series("y", ((0, 2), (1, 4)), "bars")),
             categories=("<b>", "c"))  # fmt: skip
TORNADO = Chart("Tornado", "input", "USD", (Series("90 %", ((0, 5), (1, 5)), "bars", (1, 4), (9, 6)),),
                categories=("growth", "price"), sideways=True)  # fmt: skip


def test_a_line_runs_from_corner_to_corner() -> None:
    (line,) = [mark for mark in marks(LINE) if len(mark.points) == 3]
    left = LEFT[False]
    middle = ((left + WIDTH - RIGHT) / 2, (TOP + HEIGHT - BOTTOM) / 2)
    assert line.points == [pytest.approx(at) for at in ((left, TOP), middle, (WIDTH - RIGHT, HEIGHT - BOTTOM))]


def test_a_decade_is_as_wide_as_the_next() -> None:
    chart = Chart("t", "x", "y", (Series("a", ((1.0, 1.0), (10.0, 1.0), (100.0, 1.0))),), log_x=True)
    (line,) = [mark for mark in marks(chart) if len(mark.points) == 3]
    first, second = (b[0] - a[0] for a, b in pairwise(line.points))
    assert first == pytest.approx(second) and first > 100


def test_a_fan_lies_around_its_line() -> None:
    made = marks(FAN)
    (area,) = [mark for mark in made if mark.filled]
    (line,) = [mark for mark in made if len(mark.points) == 2 and mark.colour == "#1f5fbf"]
    low, high = area.points[:2], area.points[:1:-1]
    for below, at, above in zip(low, line.points, high, strict=True):
        assert below[0] == at[0] == above[0] and below[1] > at[1] > above[1]


def test_bars_of_a_place_stand_beside_each_other_on_the_ground() -> None:
    bars = [mark.points for mark in marks(BARS) if mark.filled]
    assert len(bars) == 4
    assert {round(points[0][1], 6) for points in bars} == {HEIGHT - BOTTOM}
    first, _, third, _ = sorted(bars, key=lambda points: points[0][0])
    assert max(x for x, _ in first) < min(x for x, _ in third)
    heights = [points[0][1] - points[2][1] for points in bars]
    assert heights[1] == pytest.approx(3 * heights[0])


def test_a_tornado_lies_and_its_widest_bar_is_its_widest_interval() -> None:
    wide, narrow = [mark.points for mark in marks(TORNADO) if mark.filled]
    width = [points[2][0] - points[0][0] for points in (wide, narrow)]
    assert width[0] == pytest.approx(4 * width[1]) and wide[0][1] < narrow[0][1]
    names = {mark.text: mark.points[0][1] for mark in marks(TORNADO) if mark.anchor == "end"}
    assert names["growth"] < names["price"]


@pytest.mark.parametrize("points", [((1.0, 2.0),), ((1.0, 0.0),) * 2])
@pytest.mark.parametrize("log", [False, True])
def test_a_single_value_has_a_place(points, log) -> None:
    for mark in marks(Chart("t", "x", "y", (Series("a", points, "dots"),), log_x=log, log_y=log)):
        assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in mark.points)


def test_what_cannot_be_drawn_says_why() -> None:
    with pytest.raises(ConfigError, match="no finite number"):
        Series("a", ((0.0, float("nan")),))
    with pytest.raises(ConfigError, match="one per point"):
        Series("a", ((0.0, 1.0),), low=(1.0, 2.0))
    with pytest.raises(ConfigError, match="nothing to draw"):
        marks(Chart("t", "x", "y", (Series("a", ()),)))


def test_svg_is_xml_with_every_word_escaped() -> None:
    tree = ElementTree.fromstring(svg(BARS))
    space = "{http://www.w3.org/2000/svg}"
    texts = {element.text for element in tree.iter(f"{space}text")}
    assert {"Cost", "part", "USD", "<b>", "c", "x", "y"} <= texts
    assert len(list(tree.iter(f"{space}polygon"))) == 4


def test_png_holds_every_chart_in_its_colour(tmp_path) -> None:
    png([LINE, FAN, TORNADO], tmp_path / "p.png")
    with Image.open(tmp_path / "p.png") as image:
        assert image.size == (2 * WIDTH * SCALE, 2 * HEIGHT * SCALE)
        third = image.crop((0, HEIGHT * SCALE, WIDTH * SCALE, 2 * HEIGHT * SCALE))
        assert (0x1F, 0x5F, 0xBF) in {colour for _, colour in third.getcolors(1 << 16)}
        fourth = image.crop((WIDTH * SCALE, HEIGHT * SCALE, 2 * WIDTH * SCALE, 2 * HEIGHT * SCALE))
        assert fourth.getcolors() == [(WIDTH * HEIGHT * SCALE**2, (255, 255, 255))]


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    lines = table(("plan", "tok/s"), [("a", 12345.6), ("longer", None)])
    assert lines == ["  plan     tok/s", "  a       12,346", "  longer       -"]


def test_json_keeps_unit_and_interval_of_every_quantity() -> None:
    found = as_json({"a": (Quantity(2.0, "ms", low=1.0, high=3.0),), "s": Series("n", ((0, 1),))})
    assert json.loads(json.dumps(found))["a"] == [
        {"value": 2.0, "unit": "ms", "low": 1.0, "high": 3.0, "source": "computed"}
    ]
    assert found["s"]["points"] == [[0, 1]]


def test_a_page_escapes_what_it_says_and_a_file_is_what_its_name_says(tmp_path) -> None:
    text = page("a < b", ["x & y", LINE, (("h", "n"), [("<i>", 1)])])
    assert "a &lt; b" in text and "x &amp; y" in text and "&lt;i&gt;" in text and "<script" not in text
    for name in ("a.html", "a.svg", "a.png", "a.json"):
        save(tmp_path / name, "t", [LINE], ["text"], {"n": 1})
        assert (tmp_path / name).stat().st_size > 8
    with pytest.raises(ConfigError, match=r"\.pdf"):
        save(tmp_path / "a.pdf", "t", [LINE])


@pytest.mark.parametrize(("value", "said"), [(0, "0"), (1500, "1500"), (15000, "15k"), (2e6, "2M"), (3e12, "3T")])
def test_numbers_of_an_axis_are_short(value, said) -> None:
    assert short(value) == said
