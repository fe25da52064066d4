"""Marks lie where the values say; both drawings show them."""

from itertools import pairwise
from xml.etree import ElementTree

import pytest
from PIL import Image

from fathom.think.charts import BOTTOM, HEIGHT, LEFT, RIGHT, SCALE, TOP, WIDTH, Chart, marks, png, svg

LINE = Chart(
    "Loss", "minutes", "nats", {"a": [(0.0, 4.0, None, None), (5.0, 2.0, None, None), (10.0, 0.0, None, None)]}
)
BARS = Chart(
    "Rate", "family", "accuracy", {"x": [(0, 0.5, 0.4, 0.6)], "y": [(1, 1.0, 0.9, 1.0)]}, ["<b>", "c"], percent=True
)


def test_a_line_runs_from_corner_to_corner() -> None:
    (line,) = [mark for mark in marks(LINE) if len(mark.points) == 3]
    middle = ((LEFT + WIDTH - RIGHT) / 2, (TOP + HEIGHT - BOTTOM) / 2)
    expected = [(LEFT, TOP), middle, (WIDTH - RIGHT, HEIGHT - BOTTOM)]
    assert line.points == [pytest.approx(point) for point in expected]


def test_an_interval_stands_on_its_point() -> None:
    made = marks(BARS)
    colour = next(mark.colour for mark in made if mark.size == 4)
    bar = next(mark for mark in made if mark.colour == colour and len(mark.points) == 2)
    dot = next(mark for mark in made if mark.colour == colour and mark.size == 3)
    (x0, low), (x1, high) = bar.points
    assert x0 == x1 == dot.points[0][0] and low > dot.points[0][1] > high
    assert (low + high) / 2 == pytest.approx(dot.points[0][1])


def test_axis_numbers_are_round_and_evenly_spaced() -> None:
    chart = Chart("t", "x", "y", {"a": [(3, 0.013, None, None), (977, 0.087, None, None)]})
    texts = [mark.text for mark in marks(chart) if mark.anchor == "end"]
    assert texts == ["0", "0.02", "0.04", "0.06", "0.08", "0.1"]
    numbers = [float(mark.text) for mark in marks(chart) if mark.anchor == "middle" and mark.text != "x"]
    assert len(numbers) >= 4 and len({b - a for a, b in pairwise(numbers)}) == 1


@pytest.mark.parametrize("points", [[(1.0, 2.0, None, None)], [(1.0, 0.0, None, None)] * 2])
def test_a_single_value_has_a_place(points) -> None:
    for mark in marks(Chart("t", "x", "y", {"a": points})):
        assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in mark.points)


def test_svg_is_xml_with_every_word_escaped() -> None:
    tree = ElementTree.fromstring(svg(BARS))
    texts = [element.text for element in tree.iter("text")]
    assert {"Rate", "family", "accuracy", "<b>", "c", "x", "y", "100%"} <= set(texts)
    assert len(list(tree.iter("circle"))) == 4  # two of the legend, two points


def test_no_word_is_drawn_as_a_dot() -> None:
    tree = ElementTree.fromstring(svg(Chart("t", "", "y", {"a": [(0, 1, None, None), (1, 2, None, None)]})))
    assert [float(circle.get("r", 0)) for circle in tree.iter("circle")] == [4.0]


def test_png_holds_every_chart_in_its_colour(tmp_path) -> None:
    png([LINE, BARS, LINE], tmp_path / "p.png")
    with Image.open(tmp_path / "p.png") as image:
        assert image.format == "PNG" and image.size == (2 * WIDTH * SCALE, 2 * HEIGHT * SCALE)
        third = image.crop((0, HEIGHT * SCALE, WIDTH * SCALE, 2 * HEIGHT * SCALE))
        assert (0x1F, 0x5F, 0xBF) in {colour for _, colour in third.getcolors(1 << 16)}
        fourth = image.crop((WIDTH * SCALE, HEIGHT * SCALE, 2 * WIDTH * SCALE, 2 * HEIGHT * SCALE))
        assert fourth.getcolors() == [(WIDTH * HEIGHT * SCALE**2, (255, 255, 255))]
