"""The section about memory: whether a model fits on so many devices, what for, and what room is left."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from fathom.errors import ConfigError, RequestError
from fathom.plan.families import find
from fathom.plan.fit import Fit, fit
from fathom.plan.hardware import Catalogue, Device
from fathom.plan.memory import Memory
from fathom.plan.page.answer import Answer, Plot, Table
from fathom.plan.page.fields import Asked
from fathom.plan.quantity import Quantity, digits
from fathom.plan.report import Chart, Series
from fathom.plan.shape import Shape

USES = ("model", "gpu", "gpus", "precision", "cache", "in", "out", "mtp")
OTHERS = ("h100_sxm", "h200_sxm", "b200_sxm", "mi300x")  # to compare with, as many as were asked for
OPTION = re.compile(r" \(--[^)]*\)")  # how the command line says it
MOST = 4  # changes that are said
MARK = "#a2191f"
BESIDE = {"runtime": ("runtime", "exchange buffers"), "activations": ("activations", "logits")}


def answer(asked: Asked) -> Answer:
    """The section."""
    shape, device, count = find(asked.text("model")), Catalogue.read().find(asked.text("gpu")), asked.whole("gpus")
    context = asked.whole("in") + asked.whole("out")
    if shape.context and context > shape.context:
        raise RequestError(
            f"in and out are {context:,} tokens together; {shape.name} is made for {shape.context:,}.", param="in"
        )
    how: dict[str, Any] = {"precision": asked.text("precision"), "cache": asked.text("cache"), "context": context,
                           "mtp": asked.text("mtp") != "0"}  # fmt: skip
    try:
        found = fit(shape, device, count, **how)
    except ConfigError as error:
        raise RequestError(str(error), param="gpus") from error
    machine = f"{count} x {device.title}"
    lines = [f"{_layout(found)}; the largest part is {_binding(found)}."]
    if found.fits:
        room = f"room for {found.contexts:,.0f} contexts of {context:,.0f} tokens"
        says = f"Yes: {shape.name} fits on {machine}, with {room}."
    else:
        says = f"No: {shape.name} does not fit on {machine}: {digits(found.missing / 1e9)} GB are missing on each."
        changes = [OPTION.sub("", change) for change in found.changes][:MOST]
        lines.append(f"What would help: {', or '.join(changes) or 'none of the single changes that were tried'}.")
    rows = list(_rows(shape, device, count, how))
    return Answer(says, "yes" if found.fits else "no", _numbers(found, shape), lines, (_bars(rows),), (_parts(found),))


def _layout(found: Fit) -> str:
    made = found.setup.layout
    axes = [("PP", made.pp), ("DP", made.dp), ("TP", made.tp), ("EP", made.ep)]
    said = " ".join(f"{axis}{size}" for axis, size in axes if size > 1) or "one device"
    return f"{'Layout with most room' if found.fits else 'The layout that lacks least'}: {said}"


def _binding(found: Fit) -> str:
    held = found.memory
    size = held.parts[found.binding]
    return f"{found.binding.replace('_', ' ')}, {digits(size / 1e9)} of {digits(held.capacity / 1e9)} GB"


def _numbers(found: Fit, shape: Shape) -> list[tuple[str, Quantity]]:
    held = found.memory
    left = held.capacity - held.used
    return [
        ("Weights of a device", Quantity(held.weights / 1e9, "GB", "with embedding, head and drafts")),
        ("Runtime and activations", Quantity((held.used - held.weights) / 1e9, "GB", "reserve, a chunk of prompts")),
        ("Left for the cache", Quantity(left / 1e9, "GB", "of each device; below 0: too much", bound="memory")),
        ("Cache of a token", Quantity(held.token_bytes / 1e3, "kB", "on one device")),
        ("Tokens that fit", Quantity(min(held.room, 1e18), "tokens", "in the cache of all devices together")),
        ("Contexts at a time", Quantity(min(found.contexts, 1e18), "contexts", f"of {found.context:,} tokens")),
        ("Parameters", Quantity(shape.parameters / 1e9, "billion", "of the main model")),
        ("Met by a token", Quantity(shape.activated / 1e9, "billion", "without the input embedding")),
    ]  # fmt: skip


def _rows(shape: Shape, device: Device, count: int, how: dict[str, Any]) -> Iterator[tuple[str, Fit]]:
    """What was asked, then half and twice as many, then as many of others."""
    catalogue, seen = Catalogue.read(), set()
    asked = [(device, n) for n in (count, max(1, count // 2), count * 2)]
    for where, number in (*asked, *((catalogue[name], count) for name in OTHERS)):
        if (where.name, number) in seen:
            continue
        seen.add((where.name, number))
        try:
            found = fit(shape, where, number, **how)
        except ConfigError:
            continue  # it cannot be divided so
        short = re.sub(r" \(.*\)| SXM", "", where.title)
        yield f"{number} x {short}: {'yes' if found.fits else 'no'}", found


def _bars(rows: list[tuple[str, Fit]]) -> Plot:
    """One bar a row, in parts: of one device [GB]; what reaches beyond its memory does not fit."""
    series, reached = [], [0.0] * len(rows)
    named = ("experts", "other weights", "runtime", "activations", "room for the cache")
    for name in named:
        sizes = [_size(found.memory, name) / 1e9 for _, found in rows]
        low, high = tuple(reached), tuple(r + size for r, size in zip(reached, sizes, strict=True))
        series.append(Series(name, tuple((float(i), size) for i, size in enumerate(sizes)), "bars", low, high))
        reached = list(high)
    limits = tuple((float(i), found.setup.device.driver_bytes / 1e9) for i, (_, found) in enumerate(rows))
    series.append(Series("memory of the device", limits, "dots", colour=MARK))
    chart = Chart("Memory of one device", "", "memory [GB]", tuple(series), tuple(n for n, _ in rows), sideways=True)
    return Plot("memory", chart)


def _size(held: Memory, name: str) -> float:
    """Bytes of a part of the bar."""
    if name == "room for the cache":
        return max(0.0, held.capacity - held.used)
    if name == "other weights":
        return held.weights - held.parts.get("experts", 0.0)
    return sum(held.parts.get(part, 0.0) for part in BESIDE.get(name, (name,)))


def _parts(found: Fit) -> Table:
    held = found.memory
    rows: list[tuple[object, ...]] = [(part.replace("_", " "), size / 1e9) for part, size in held.parts.items()]
    rows += [("in all", held.used / 1e9), ("what engines dare to use", held.capacity / 1e9),
             ("memory", found.setup.device.driver_bytes / 1e9)]  # fmt: skip
    return Table("The fullest device, part by part", ("part", "GB"), tuple(rows))
