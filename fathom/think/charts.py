"""Charts as lists of marks, and two ways to draw the marks: SVG for a page, pixels for a PNG."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT = 560, 380
LEFT, RIGHT, TOP, BOTTOM = 60, 16, 84, 58  # around the plot: its numbers; nothing; title and legend; labels
SCALE = 2  # pixels of the PNG for one unit of a chart
COLOURS = ("#1f5fbf", "#c8501e", "#2e8540", "#8a3ffc", "#a2191f", "#007d79", "#8d6b00", "#d02670", "#52575c", "#00a0e0",
           "#b28600", "#6f9d2f", "#9f1853", "#3d70b2")  # fmt: skip
ANCHORS = {"start": "ls", "middle": "ms", "end": "rs"}  # Pillow's names, on the base line
INK, FAINT = "#22262a", "#dfe3e8"

Point = tuple[float, float, float | None, float | None]  # x, y, and the ends of y's interval, if it has one


@dataclass(frozen=True)
class Chart:
    """series: points by name. categories: names for x of 0, 1, 2 ...; then points are not joined.

    percent: y is a share, 0 to 100 %. diagonal: a faint line where y equals x.
    """

    title: str
    x_label: str
    y_label: str
    series: dict[str, list[Point]]
    categories: Sequence[str] = ()
    percent: bool = False
    diagonal: bool = False


@dataclass(frozen=True)
class Mark:
    """A text at a point (anchor: start, middle or end), a dot there, or a line through points. size: of font or dot."""

    points: Sequence[tuple[float, float]]
    colour: str = INK
    size: float = 0.0
    text: str | None = None
    anchor: str = "start"


def marks(chart: Chart) -> list[Mark]:
    """What to draw, in units from the top left corner of WIDTH by HEIGHT."""
    points = [point for series in chart.series.values() for point in series]
    xs = [point[0] for point in points] + ([-0.5, len(chart.categories) - 0.5] if chart.categories else [])
    ys = [value for point in points for value in point[1:] if value is not None]
    y_ticks = _ticks(ys + ([0.0, 1.0] if chart.percent else [0.0, *xs] if chart.diagonal else []))
    x = _scale(min(xs), max(xs), LEFT, WIDTH - RIGHT)
    y = _scale(y_ticks[0], y_ticks[-1], HEIGHT - BOTTOM, TOP)
    made = [Mark([(12, 20)], size=15, text=chart.title), Mark([(12, TOP - 10)], size=11, text=chart.y_label)]
    made.append(Mark([((LEFT + WIDTH) / 2, HEIGHT - 8)], size=11, text=chart.x_label, anchor="middle"))
    for at in y_ticks:
        text = f"{at:.0%}" if chart.percent else f"{at:g}"
        made.append(Mark([(LEFT, y(at)), (WIDTH - RIGHT, y(at))], FAINT))
        made.append(Mark([(LEFT - 6, y(at) + 4)], size=11, text=text, anchor="end"))
    numbers = [(tick, f"{tick:g}") for tick in _ticks(xs) if min(xs) <= tick <= max(xs)]
    for at, text in list(enumerate(chart.categories)) or numbers:
        line = 14 * (at % 2) if len(chart.categories) > 5 else 0  # neighbours on two lines
        made.append(Mark([(x(at), HEIGHT - BOTTOM + 16 + line)], size=11, text=text, anchor="middle"))
    if chart.diagonal:
        made.append(Mark([(x(at), y(at)) for at in (min(xs), max(xs))], FAINT))
    across, down = LEFT, 38
    for index, (name, series) in enumerate(chart.series.items()):
        colour = COLOURS[index % len(COLOURS)]
        if across > LEFT and across + 8 + 6 * len(name) > WIDTH:
            across, down = LEFT, down + 14
        made += [Mark([(across, down)], colour, 4), Mark([(across + 8, down + 4)], size=11, text=name)]
        across += 22 + 6 * len(name)
        aside = (index - (len(chart.series) - 1) / 2) * 7 if chart.categories else 0.0  # beside, not over each other
        path = [(x(point[0]) + aside, y(point[1])) for point in series]
        made += [] if chart.categories else [Mark(sorted(path), colour)]
        for place, (_, _, low, high) in zip(path, series, strict=True):
            if low is not None and high is not None:
                made += [Mark([(place[0], y(low)), (place[0], y(high))], colour), Mark([place], colour, 3)]
    return made


def _scale(low: float, high: float, begin: float, end: float) -> Callable[[float], float]:
    """From values to places; a single value lies in the middle."""
    return lambda value: begin + (end - begin) * ((value - low) / (high - low) if high > low else 0.5)


def _ticks(values: Sequence[float]) -> list[float]:
    """About five round numbers, the first and the last beyond the values."""
    low, high = min(values), max(values)
    span = high - low or abs(high) or 1.0
    step = 10.0 ** math.floor(math.log10(span / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= 6)
    return [i * step for i in range(math.floor(low / step), math.ceil(high / step) + 1)]


def svg(chart: Chart) -> str:
    """The chart as one SVG element, for a page."""
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(chart.title)}">']
    for mark in marks(chart):
        x, y = mark.points[0]
        if mark.text is not None:
            place = f'x="{x:.1f}" y="{y:.1f}" font-size="{mark.size:g}" text-anchor="{mark.anchor}"'
            parts.append(f'<text {place} fill="{mark.colour}">{html.escape(mark.text)}</text>')
        elif mark.size:
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{mark.size:g}" fill="{mark.colour}"/>')
        else:
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in mark.points)
            parts.append(f'<polyline points="{path}" fill="none" stroke="{mark.colour}" stroke-width="1.5"/>')
    return "\n".join([*parts, "</svg>"])


def png(charts: Sequence[Chart], path: Path, columns: int = 2) -> None:
    """All charts on one picture."""
    image = Image.new("RGB", (columns * WIDTH * SCALE, max(1, -(-len(charts) // columns)) * HEIGHT * SCALE), "white")
    pen = ImageDraw.Draw(image)
    for index, chart in enumerate(charts):
        left, top = index % columns * WIDTH, index // columns * HEIGHT
        for mark in marks(chart):
            points = [((left + x) * SCALE, (top + y) * SCALE) for x, y in mark.points]
            if mark.text is not None:
                font = ImageFont.load_default(mark.size * SCALE)
                pen.text(points[0], mark.text, mark.colour, font, ANCHORS[mark.anchor])
            elif mark.size:
                pen.circle(points[0], mark.size * SCALE, mark.colour)
            else:
                pen.line(points, mark.colour, round(1.5 * SCALE), joint="curve")
    image.save(path)
