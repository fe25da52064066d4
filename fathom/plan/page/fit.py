"""The section about memory: whether a model fits on so many devices, what for, and what room is left."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from fathom.config import ModelConfig, load_config
from fathom.errors import ConfigError, RequestError
from fathom.plan.families import find
from fathom.plan.hardware import Catalogue, Device
from fathom.plan.latency import Setup
from fathom.plan.memory import Memory, memory
from fathom.plan.page.answer import Answer, Plot, Table
from fathom.plan.page.fields import Asked
from fathom.plan.pools import Choices, setups
from fathom.plan.quantity import Quantity, digits
from fathom.plan.report import Chart, Series
from fathom.plan.shape import Shape

USES = ("model", "gpu", "gpus", "precision", "cache", "in", "out", "mtp")
MOST = 1024


@dataclass(frozen=True)
class Fit:
    """The layout that leaves most room, and what its fullest device holds."""

    setup: Setup
    memory: Memory

    def sequences(self, context: float) -> float:
        """Contexts of so many tokens that it has room for."""
        return self.memory.sequences(context)


def best(shape: Shape, device: Device, count: int, choices: Choices, config: ModelConfig | None) -> Fit:
    """Of all layouts over `count` devices, the one with most room. Raises: ConfigError: the count divides nothing."""
    found = [Fit(one, memory(one)) for one in setups(shape, device, replace(choices, gpus=count), config)
             if one.devices == count]  # fmt: skip
    if not found:
        raise ConfigError(f"{count} devices divide neither the heads nor the experts of {shape.name}; use a multiple of 8.")
    return max(found, key=lambda one: (one.memory.room, -one.memory.used))


def answer(asked: Asked) -> Answer:
    """The section."""
    shape, device, count = find(asked.text("model")), Catalogue.read().find(asked.text("gpu")), asked.whole("gpus")
    config = load_config(asked.text("model")) if shape.family == "deepseek" else None
    context = asked.number("in") + asked.number("out")
    choices = Choices(
        precisions=(asked.text("precision"),), caches=(asked.text("cache"),), overlap=(False,),
        mtp=(0 if asked.text("mtp") == "0" else 1,),
    )  # fmt: skip
    try:
        found = best(shape, device, count, choices, config)
    except ConfigError as error:
        raise RequestError(str(error), param="gpus") from error
    yes, held = found.sequences(context) >= 1, found.memory
    machine = f"{count} x {device.title}"
    left = held.capacity - held.used
    if yes:
        says = f"Yes: {shape.name} fits on {machine}, with room for {found.sequences(context):,.0f} contexts of {context:,.0f} tokens."
    else:
        what = f"{digits(-left / 1e9)} GB too much on each" if left < 0 else "no room for one context"
        says = f"No: {shape.name} does not fit on {machine}: {what}."
    lines = [f"{_layout(found)}; the largest part is {_binding(held)}."]
    if not yes:
        lines += [f"What would help: {', or '.join(changes(shape, device, count, choices, config, context))}."]
    rows = list(_rows(shape, device, count, choices, config))
    return Answer(
        says, "yes" if yes else "no", _numbers(found, shape, context), lines, (_bars(rows),), (_parts(found, context),)
    )  # fmt: skip


def _layout(found: Fit) -> str:
    made = found.setup.layout
    axes = [f"{axis.upper()}{size}" for axis, size in (("pp", made.pp), ("dp", made.dp), ("tp", made.tp), ("ep", made.ep))
            if size > 1]  # fmt: skip
    return f"Layout with most room: {' '.join(axes) or 'one device'}"


def _binding(held: Memory) -> str:
    name = max(held.parts, key=lambda part: held.parts[part])
    return f"{name.replace('_', ' ')}, {digits(held.parts[name] / 1e9)} of {digits(held.capacity / 1e9)} GB"


def changes(
    shape: Shape, device: Device, count: int, choices: Choices, config: ModelConfig | None, context: float
) -> list[str]:  # fmt: skip
    """The smallest change of each kind with which it fits."""

    def fits(where: Device, number: int, how: Choices) -> bool:
        try:
            return best(shape, where, number, how, config).sequences(context) >= 1
        except ConfigError:
            return False

    found = []
    counts = [n for n in (*range(count + 1, 9), *range(8, MOST + 1, 8)) if n > count][:40]
    if more := next((n for n in counts if fits(device, n, choices)), None):
        found.append(f"{more} x {device.title}")
    smaller = [n for n in ("fp8", "nvfp4", "int4", "q4_k_m") if fits(device, count, replace(choices, precisions=(n,)))]
    if smaller:
        found.append(f"weights in {smaller[0]}")
    others = sorted(Catalogue.read().values(), key=lambda one: one.memory_gb)
    larger = (d for d in others if d.memory_gb > device.memory_gb and d.usd_per_hour and fits(d, count, choices))
    if (other := next(larger, None)) is not None:
        found.append(f"{count} x {other.title}")
    return found or ["a smaller model"]


def _numbers(found: Fit, shape: Shape, context: float) -> list[tuple[str, Quantity]]:
    held = found.memory
    weights = sum(size for part, size in held.parts.items() if part not in ("runtime", "activations"))
    left = held.capacity - held.used
    return [
        ("Weights of a device", Quantity(weights / 1e9, "GB", "with embedding, head and drafts")),
        ("Runtime and activations", Quantity((held.used - weights) / 1e9, "GB", "reserve of an engine, a chunk's step")),
        ("Left for the cache", Quantity(left / 1e9, "GB", "of each device; below 0: too much", bound="memory")),
        ("Cache of a token", Quantity(held.token_bytes / 1e3, "kB", "on one device")),
        ("Tokens that fit", Quantity(min(held.room, 1e18), "tokens", "in the cache of all devices together")),
        ("Contexts at a time", Quantity(min(found.sequences(context), 1e18), "contexts", f"of {context:,.0f} tokens")),
        ("Parameters", Quantity(shape.parameters / 1e9, "billion", "of the main model")),
        ("Met by a token", Quantity(shape.activated / 1e9, "billion", "without the input embedding")),
    ]  # fmt: skip


def _rows(
    shape: Shape, device: Device, count: int, choices: Choices, config: ModelConfig | None
) -> Iterator[tuple[str, Fit]]:  # fmt: skip
    """What was asked, then fewer and more of the same, then as many of others."""
    catalogue, seen = Catalogue.read(), set()
    asked = [(device, n) for n in (count, max(1, count // 2), count * 2)]
    others = [(catalogue[name], count) for name in ("h100_sxm", "h200_sxm", "b200_sxm", "mi300x")]
    for where, number in (*asked, *others):
        if (where.name, number) in seen or number > MOST:
            continue
        seen.add((where.name, number))
        try:
            yield f"{number} x {where.title}"[:28], best(shape, where, number, choices, config)
        except ConfigError:
            continue


def _bars(rows: list[tuple[str, Fit]]) -> Plot:
    """One bar a row, in parts: of one device [GB]; what reaches beyond its memory does not fit."""
    series, reached = [], [0.0] * len(rows)
    named = ("experts", "other weights", "runtime", "activations", "room for the cache")
    notes: dict[str, tuple[str, ...]] = {}
    for name in named:
        sizes = [_size(found.memory, name) / 1e9 for _, found in rows]
        low, high = tuple(reached), tuple(r + size for r, size in zip(reached, sizes, strict=True))
        points = tuple((float(i), end) for i, end in enumerate(high))
        series.append(Series(name, points, "bars", low, high))
        notes[name] = tuple(f"{digits(size)} GB" for size in sizes)
        reached = list(high)
    limits = tuple((float(i), found.setup.device.memory_gb) for i, (_, found) in enumerate(rows))
    series.append(Series("memory of the device", limits, "dots"))
    chart = Chart("Memory of one device", "", "memory [GB]", tuple(series), tuple(n for n, _ in rows), sideways=True)
    return Plot("memory", chart, notes)


def _size(held: Memory, name: str) -> float:
    """Bytes of a part of the bar."""
    if name == "room for the cache":
        return max(0.0, held.capacity - held.used)
    if name == "other weights":
        return sum(size for part, size in held.parts.items() if part not in ("experts", "runtime", "activations"))
    return held.parts.get(name, 0.0)


def _parts(found: Fit, context: float) -> Table:
    held = found.memory
    rows: list[tuple[object, ...]] = [(part.replace("_", " "), size / 1e9) for part, size in held.parts.items()]
    rows += [("in all", held.used / 1e9), ("what engines dare to use", held.capacity / 1e9),
             ("memory", found.setup.device.memory_gb)]  # fmt: skip
    return Table("The fullest device, part by part", ("part", "GB"), tuple(rows))
