"""What every work of the planner prints and draws: tables, JSON, and charts as SVG, PNG and one HTML page.

    table(head, rows)       aligned lines for a terminal           as_json(found)      plain data, quantities as objects
    svg(chart)              one drawing for a page                 save(path, ...)     .html, .svg or .png by its name

A Chart holds Series of four kinds: "line" (with a band where it has low and high: a fan), "dots" (with whiskers),
"bars" (from 0, or from low to high: a tornado, if `sideways`). No plotting library; Pillow draws the pixels.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

from fathom.errors import ConfigError
from fathom.plan.quantity import Quantity, digits

WIDTH, HEIGHT = 640, 400
RIGHT, TOP, BOTTOM = 18, 84, 58  # beside the plot; title and legend above; labels below
LEFT = {False: 64, True: 190}  # numbers; names of sideways bars
SCALE = 2  # pixels of the PNG for one unit of a chart
COLOURS = ("#1f5fbf", "#c8501e", "#2e8540", "#8a3ffc", "#a2191f", "#007d79", "#8d6b00", "#d02670", "#52575c", "#00a0e0")
ANCHORS = {"start": "ls", "middle": "ms", "end": "rs"}  # Pillow's names, on the base line
INK, FAINT = "#22262a", "#dfe3e8"
STYLE = """body{font:15px/1.5 system-ui,sans-serif;color:#22262a;max-width:1320px;margin:2em auto;padding:0 1em}
svg{width:640px;max-width:100%;font-family:system-ui,sans-serif}table{border-collapse:collapse;font-size:13px}
td,th{padding:.15em .7em;text-align:right;border-bottom:1px solid #dfe3e8}td:first-child,th:first-child{text-align:left}
pre{font-size:13px;line-height:1.35;overflow-x:auto}"""


@dataclass(frozen=True)
class Series:
    """Points (x, y), in order. low, high: ends of each y's interval, both or neither. labels: a word beside each."""

    name: str
    points: tuple[tuple[float, float], ...]
    kind: Literal["line", "dots", "bars"] = "line"
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    labels: tuple[str, ...] = ()
    colour: str = ""

    def __post_init__(self) -> None:
        for name in ("low", "high", "labels"):
            if (count := len(getattr(self, name))) not in (0, len(self.points)):
                raise ConfigError(f"series {self.name}: {name} has {count} of {len(self.points)}; give one per point.")
        if not all(math.isfinite(v) for v in (*(v for point in self.points for v in point), *self.low, *self.high)):
            raise ConfigError(f"series {self.name} has a value that is no finite number; leave that point out.")


@dataclass(frozen=True)
class Chart:
    """Axes say their units. categories: names for x of 0, 1, 2, ... sideways: x runs down, as bars of a tornado do."""

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    categories: tuple[str, ...] = ()
    log_x: bool = False
    log_y: bool = False
    sideways: bool = False


@dataclass(frozen=True)
class Mark:
    """A text at a point, a dot there (size), a line through points, or an area between them (filled)."""

    points: Sequence[tuple[float, float]]
    colour: str = INK
    size: float = 0.0
    text: str | None = None
    anchor: str = "start"
    filled: bool = False


class Axis:
    """From values to places on a picture, with round numbers to mark on the way; a single value lies in the middle."""

    def __init__(self, values: Sequence[float], begin: float, end: float, *, log: bool = False) -> None:
        self.log = log and all(value > 0 for value in values)
        self.ticks = _decades(values) if self.log else _ticks(values)
        self._low, self._high = (self._scaled(at) for at in (self.ticks[0], self.ticks[-1]))
        self._begin, self._end = begin, end

    def __call__(self, value: float) -> float:
        span = self._high - self._low
        share = (self._scaled(value) - self._low) / span if span > 0 else 0.5
        return self._begin + (self._end - self._begin) * share

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self.log else value


def _ticks(values: Sequence[float]) -> list[float]:
    """About five round numbers, the first and the last beyond the values."""
    low, high = min(values), max(values)
    span = high - low or abs(high) or 1.0
    step = 10.0 ** math.floor(math.log10(span / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= 6)
    return [i * step for i in range(math.floor(low / step), math.ceil(high / step) + 1)]


def _decades(values: Sequence[float]) -> list[float]:
    """1, 2 and 5 of each decade, the first and the last beyond the values; only powers of ten over many decades."""
    low, high = (math.log10(edge(values)) for edge in (min, max))
    steps = (1, 2, 5) if high - low < 3 else (1,)
    marks = [f * 10.0**e for e in range(math.floor(low), math.ceil(high) + 2) for f in steps]
    first = max((m for m in marks if m <= min(values) * (1 + 1e-9)), default=marks[0])
    last = min((m for m in marks if m >= max(values) * (1 - 1e-9)), default=marks[-1])
    return [m for m in marks if first <= m <= last]


def marks(chart: Chart) -> list[Mark]:
    """What to draw, in units from the top left corner of WIDTH by HEIGHT: the frame first, then areas, then lines."""
    if not any(one.points for one in chart.series):
        raise ConfigError(f"chart {chart.title!r} has no points; there is nothing to draw.")
    left = LEFT[chart.sideways]
    xs = [x for one in chart.series for x, _ in one.points]
    xs += [-0.5, len(chart.categories) - 0.5] if chart.categories else []
    ys = [y for one in chart.series for y in (*(y for _, y in one.points), *one.low, *one.high)]
    ys += [0.0] if any(one.kind == "bars" and not one.low for one in chart.series) else []
    across, down = (left, WIDTH - RIGHT), (HEIGHT - BOTTOM, TOP)
    x = Axis(xs, *((TOP, HEIGHT - BOTTOM) if chart.sideways else across), log=chart.log_x)
    y = Axis(ys, *(across if chart.sideways else down), log=chart.log_y)
    if chart.categories:  # names, not numbers: half a place on both sides
        x.ticks, (x._low, x._high) = [], (-0.5, len(chart.categories) - 0.5)

    def place(at: tuple[float, float]) -> tuple[float, float]:
        return (y(at[1]), x(at[0])) if chart.sideways else (x(at[0]), y(at[1]))

    drawn = [mark for i, one in enumerate(chart.series) for mark in _series(one, i, chart, place)]
    areas = [mark for mark in drawn if mark.filled]
    return [*_frame(chart, x, y, left), *areas, *(mark for mark in drawn if not mark.filled), *_legend(chart)]


def _frame(chart: Chart, x: Axis, y: Axis, left: float) -> Iterator[Mark]:
    yield Mark([(12, 20)], size=15, text=chart.title)
    yield Mark([(12, TOP - 10)], size=11, text=chart.x_label if chart.sideways else chart.y_label)
    below = chart.y_label if chart.sideways else chart.x_label
    yield Mark([((left + WIDTH) / 2, HEIGHT - 8)], size=11, text=below, anchor="middle")
    flat, upright = (x, y) if chart.sideways else (y, x)
    for at in flat.ticks:
        yield Mark([(left, flat(at)), (WIDTH - RIGHT, flat(at))], FAINT)
        yield Mark([(left - 6, flat(at) + 4)], size=11, text=short(at), anchor="end")
    for at in upright.ticks:
        if chart.sideways:
            yield Mark([(upright(at), TOP), (upright(at), HEIGHT - BOTTOM)], FAINT)
        yield Mark([(upright(at), HEIGHT - BOTTOM + 16)], size=11, text=short(at), anchor="middle")
    for index, name in enumerate(chart.categories):
        if chart.sideways:
            yield Mark([(left - 8, x(index) + 4)], size=11, text=name[:30], anchor="end")
        else:
            line = 14 * (index % 2) if len(chart.categories) > 5 else 0  # neighbours on two lines
            yield Mark([(x(index), HEIGHT - BOTTOM + 16 + line)], size=11, text=name, anchor="middle")


def _legend(chart: Chart) -> Iterator[Mark]:
    across, down = 14.0, 38.0
    for index, one in enumerate(chart.series):
        wide = 22 + 6 * len(one.name)
        if across > 14 and across + wide > WIDTH:
            across, down = 14, down + 14
        yield Mark([(across, down)], _colour(one, index), 4)
        yield Mark([(across + 8, down + 4)], size=11, text=one.name)
        across += wide


def _series(
    one: Series, index: int, chart: Chart, place: Callable[[tuple[float, float]], tuple[float, float]]
) -> Iterator[Mark]:
    colour = _colour(one, index)
    if one.kind == "bars":
        bars = [each for each in chart.series if each.kind == "bars"]
        wide = 0.8 / (1 if one.low else len(bars))
        middle = 0.0 if one.low else (bars.index(one) - (len(bars) - 1) / 2) * wide
        for i, (x, y) in enumerate(one.points):
            low, high = (one.low[i], one.high[i]) if one.low else (0.0, y)
            left, right = x + middle - wide / 2, x + middle + wide / 2
            yield Mark(
                [place(at) for at in ((left, low), (right, low), (right, high), (left, high))], colour, filled=True
            )
    elif one.kind == "line":
        if one.low:
            edge = [(x, low) for (x, _), low in zip(one.points, one.low, strict=True)]
            edge += [(x, high) for (x, _), high in reversed(list(zip(one.points, one.high, strict=True)))]
            yield Mark([place(at) for at in edge], _lighter(colour), filled=True)
        yield Mark([place(at) for at in one.points], colour)
    else:
        for i, at in enumerate(one.points):
            if one.low:
                yield Mark([place((at[0], one.low[i])), place((at[0], one.high[i]))], colour)
            yield Mark([place(at)], colour, 3.5)
    for at, word in zip(one.points, one.labels, strict=False):
        across, down = place(at)
        end = across > WIDTH - 120
        yield Mark([(across + (-7 if end else 7), down - 5)], size=10, text=word, anchor="end" if end else "start")


def _colour(one: Series, index: int) -> str:
    return one.colour or COLOURS[index % len(COLOURS)]


def _lighter(colour: str) -> str:
    """The same colour, four fifths of it white: what lies behind a line."""
    return "#" + "".join(f"{round(255 - (255 - int(colour[i : i + 2], 16)) / 5):02x}" for i in (1, 3, 5))


def short(value: float) -> str:
    """A number beside an axis: 20, 1.5k, 3M."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if letter == 'k' else size):g}{letter}"
    return f"{value:.6g}"


def svg(chart: Chart) -> str:
    """The chart as one SVG element, for a page or a file."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img"'
    parts = [f'{head} aria-label="{html.escape(chart.title)}">']
    for mark in marks(chart):
        x, y = mark.points[0]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in mark.points)
        if mark.text is not None:
            where = f'x="{x:.1f}" y="{y:.1f}" font-size="{mark.size:g}" text-anchor="{mark.anchor}"'
            parts.append(f'<text {where} fill="{mark.colour}">{html.escape(mark.text)}</text>')
        elif mark.filled:
            parts.append(f'<polygon points="{path}" fill="{mark.colour}"/>')
        elif mark.size:
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{mark.size:g}" fill="{mark.colour}"/>')
        else:
            parts.append(f'<polyline points="{path}" fill="none" stroke="{mark.colour}" stroke-width="1.5"/>')
    return "\n".join([*parts, "</svg>"])


def png(charts: Sequence[Chart], path: Path, columns: int = 2) -> None:
    """All charts on one picture."""
    from PIL import Image, ImageDraw, ImageFont  # half of what a report takes to import; a table needs none of it

    columns = min(columns, len(charts))
    image = Image.new("RGB", (columns * WIDTH * SCALE, -(-len(charts) // columns) * HEIGHT * SCALE), "white")
    pen = ImageDraw.Draw(image)
    for index, chart in enumerate(charts):
        left, top = index % columns * WIDTH, index // columns * HEIGHT
        for mark in marks(chart):
            points = [((left + x) * SCALE, (top + y) * SCALE) for x, y in mark.points]
            if mark.text is not None:
                font = ImageFont.load_default(mark.size * SCALE)
                pen.text(points[0], mark.text, mark.colour, font, ANCHORS[mark.anchor])
            elif mark.filled:
                pen.polygon(points, mark.colour)
            elif mark.size:
                pen.circle(points[0], mark.size * SCALE, mark.colour)
            else:
                pen.line(points, mark.colour, round(1.5 * SCALE), joint="curve")
    image.save(path)


def table(head: Sequence[str], rows: Iterable[Sequence[object]], indent: str = "  ") -> list[str]:
    """Aligned lines for a terminal: the first column to the left, the others to the right; None is a dash."""
    cells = [[cell(each) for each in row] for row in (head, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    lines = []
    for first, *rest in cells:
        right = "".join("  " + each.rjust(width) for each, width in zip(rest, widths[1:], strict=True))
        lines.append((indent + first.ljust(widths[0]) + right).rstrip())
    return lines


def cell(value: object) -> str:
    """A value as a table shows it: three significant digits; its unit stands in the head."""
    if value is None:
        return "-"
    if isinstance(value, Quantity):
        return digits(value.value)
    return digits(value) if isinstance(value, float) else f"{value:,}" if type(value) is int else str(value)


def as_json(found: Any) -> Any:
    """Plain data for `json.dumps`: a Quantity as its object, a dataclass as a table of its fields."""
    if isinstance(found, Quantity):
        return found.to_dict()
    if is_dataclass(found) and not isinstance(found, type):
        return {one.name: as_json(getattr(found, one.name)) for one in fields(found)}
    if isinstance(found, dict):
        return {str(key): as_json(value) for key, value in found.items()}
    if isinstance(found, (list, tuple)):
        return [as_json(value) for value in found]
    return found


def page(title: str, parts: Iterable[str | Chart | tuple[Sequence[str], Sequence[Sequence[object]]]]) -> str:
    """One HTML page without scripts: charts, tables (head, rows), and texts, which keep their lines."""
    made = [f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>']
    made += [f"<style>{STYLE}</style>", f"<h1>{html.escape(title)}</h1>"]
    for part in parts:
        if isinstance(part, Chart):
            made.append(svg(part))
        elif isinstance(part, str):
            made.append(f"<pre>{html.escape(part)}</pre>")
        else:
            lines = [[html.escape(cell(each)) for each in row] for row in (part[0], *part[1])]
            top, *rest = ["".join(f"<{tag}>{c}</{tag}>" for c in row) for tag, row in _tagged(lines)]
            made.append(f"<table><tr>{top}</tr>\n" + "\n".join(f"<tr>{row}</tr>" for row in rest) + "</table>")
    return "\n".join([*made, "</html>\n"])


def _tagged(lines: list[list[str]]) -> Iterator[tuple[str, list[str]]]:
    yield from ((("th" if index == 0 else "td"), row) for index, row in enumerate(lines))


def save(path: Path, title: str, charts: Sequence[Chart], texts: Sequence[Any] = (), found: Any = None) -> None:
    """Write charts (.png, .svg: the first), the whole page (.html) or the data (.json), as the name ends.

    Raises: ConfigError: the name ends otherwise, or the file cannot be written.
    """
    kind = path.suffix.lower()
    if kind not in (".png", ".svg", ".html", ".json"):
        raise ConfigError(f"{path} ends in {kind or 'nothing'}; a report is a .png, .svg, .html or .json file.")
    try:
        if kind == ".png":
            png(charts, path)
        elif kind == ".svg":
            path.write_text(svg(charts[0]) + "\n", encoding="utf-8")
        elif kind == ".html":
            path.write_text(page(title, [*texts, *charts]), encoding="utf-8")
        else:
            path.write_text(json.dumps(as_json(found), indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({error.strerror}).") from error
