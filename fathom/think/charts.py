"""Charts as lists of marks, and two ways to draw the marks: SVG for a page, pixels for a PNG."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT = 560, 340
LEFT, RIGHT, TOP, BOTTOM = 60, 16, 66, 46  # around the plot: its numbers; nothing; title and legend; labels
SCALE = 2  # pixels of the PNG for one unit of a chart
COLOURS = ("#1f5fbf", "#c8501e", "#2e8540", "#8a3ffc", "#a2191f", "#007d79", "#8d6b00", "#d02670", "#52575c", "#00a0e0")
INK, FAINT = "#22262a", "#dfe3e8"

Point = tuple[float, float, float | None, float | None]  # x, y, and the ends of y's interval, if it has one


@dataclass(frozen=True)
class Series:
    """line: whether its points are joined."""

    name: str
    points: Sequence[Point]
    line: bool = True


@dataclass(frozen=True)
class Chart:
    """categories: names on the x axis, for x of 0, 1, 2 ... log_x: for x above 0. percent: y is a share, 0 to 100 %.
    diagonal: a faint line where y equals x."""

    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    categories: Sequence[str] = ()
    log_x: bool = False
    percent: bool = False
    diagonal: bool = False


@dataclass(frozen=True)
class Mark:
    """A text at a point (anchor: start, middle or end), a dot there, or a line through points. size: of font or dot."""

    points: Sequence[tuple[float, float]]
    colour: str = INK
    size: float = 0.0
    text: str = ""
    anchor: str = "start"


@dataclass
class _Plot:
    """Puts a chart's values where they belong."""

    chart: Chart
    marks: list[Mark] = field(default_factory=list)

    def __post_init__(self) -> None:
        chart, points = self.chart, [point for series in self.chart.series for point in series.points]
        xs = [point[0] for point in points] + ([-0.5, len(chart.categories) - 0.5] if chart.categories else [])
        ys = [value for point in points for value in point[1:] if value is not None]
        ys += [0.0, 1.0] if chart.percent else [0.0, *xs] if chart.diagonal else []
        y_ticks = _ticks(min(ys), max(ys))
        self.x0, self.x1 = self._x(min(xs)), self._x(max(xs))
        self.y0, self.y1 = min(*ys, y_ticks[0]), max(*ys, y_ticks[-1])
        self.write(chart.title, 12, 20, 15)
        self.write(chart.y_label, 12, TOP - 10, 11)
        self.write(chart.x_label, (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, 11, anchor="middle")
        for y in y_ticks:
            self.marks.append(Mark([(LEFT, self.y(y)), (WIDTH - RIGHT, self.y(y))], FAINT))
            self.write(f"{y:.0%}" if chart.percent else f"{y:g}", LEFT - 6, self.y(y) + 4, 11, anchor="end")
        named = list(enumerate(chart.categories)) or [(x, f"{x:g}") for x in self._x_ticks(sorted({*xs}))]
        for x, name in named:
            self.write(name, self.x(x), HEIGHT - BOTTOM + 16, 11, anchor="middle")
        if chart.diagonal:
            self.marks.append(Mark([(self.x(v), self.y(v)) for v in (min(xs), max(xs))], FAINT))
        across = LEFT
        for index, series in enumerate(chart.series):
            self._curve(series, COLOURS[index % len(COLOURS)], (index - (len(chart.series) - 1) / 2) * 7)
            self.marks.append(Mark([(across, 38)], COLOURS[index % len(COLOURS)], 4))
            self.write(series.name, across + 8, 42, 11)
            across += 22 + 6 * len(series.name)

    def _x_ticks(self, xs: list[float]) -> list[float]:
        return _ticks(xs[0], xs[-1], inside=True) if not self.chart.log_x else xs if len(xs) <= 10 else [xs[0], xs[-1]]

    def _x(self, x: float) -> float:
        return math.log(x) if self.chart.log_x else x

    def x(self, x: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * ((self._x(x) - self.x0) / (self.x1 - self.x0) if self.x1 > self.x0 else 0.5)

    def y(self, y: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (y - self.y0) / (self.y1 - self.y0)

    def write(self, text: str, x: float, y: float, size: float, anchor: str = "start") -> None:
        self.marks.append(Mark([(x, y)], INK, size, text, anchor))

    def _curve(self, series: Series, colour: str, aside: float) -> None:
        shift = aside if self.chart.categories else 0.0  # series of one category stand beside each other
        at = [(self.x(x) + shift, self.y(y)) for x, y, _, _ in series.points]
        if series.line and len(at) > 1:
            self.marks.append(Mark(at, colour))
        for (x, _), (_, _, low, high) in zip(at, series.points, strict=True):
            if low is not None and high is not None:
                self.marks.append(Mark([(x, self.y(low)), (x, self.y(high))], colour))
        if len(at) <= 40 or not series.line:
            self.marks += [Mark([point], colour, 3) for point in at]


def _ticks(low: float, high: float, inside: bool = False) -> list[float]:
    """About five round numbers from low to high; the ends lie beyond them, or inside."""
    span = high - low or abs(high) or 1.0
    step = 10 ** math.floor(math.log10(span / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= 6)
    first, last = (math.ceil, math.floor) if inside else (math.floor, math.ceil)
    return [i * step for i in range(first(low / step), last(high / step) + 1)] or [low]


def svg(chart: Chart) -> str:
    """The chart as one SVG element, for a page."""
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(chart.title)}">']
    for mark in _Plot(chart).marks:
        (x, y), fill = mark.points[0], f'fill="{mark.colour}"'
        if mark.text:
            place = f'x="{x:.1f}" y="{y:.1f}" font-size="{mark.size:g}" text-anchor="{mark.anchor}"'
            parts.append(f"<text {place} {fill}>{html.escape(mark.text)}</text>")
        elif mark.size:
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{mark.size:g}" {fill}/>')
        else:
            path = " ".join(f"{px:.1f},{py:.1f}" for px, py in mark.points)
            parts.append(f'<polyline points="{path}" fill="none" stroke="{mark.colour}" stroke-width="1.5"/>')
    return "\n".join([*parts, "</svg>"])


def png(charts: Sequence[Chart], path: Path, columns: int = 2) -> None:
    """All charts on one picture."""
    rows = -(-len(charts) // columns)
    image = Image.new("RGB", (columns * WIDTH * SCALE, rows * HEIGHT * SCALE), "white")
    pen = ImageDraw.Draw(image)
    for index, chart in enumerate(charts):
        left, top = index % columns * WIDTH, index // columns * HEIGHT
        for mark in _Plot(chart).marks:
            points = [((left + x) * SCALE, (top + y) * SCALE) for x, y in mark.points]
            if mark.text:
                font = ImageFont.load_default(mark.size * SCALE)
                pen.text(points[0], mark.text, mark.colour, font, {"start": "ls", "middle": "ms", "end": "rs"}[mark.anchor])
            elif mark.size:
                pen.circle(points[0], mark.size * SCALE, mark.colour)
            else:
                pen.line(points, mark.colour, round(1.5 * SCALE), joint="curve")
    image.save(path)
