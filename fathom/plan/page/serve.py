"""The section about serving: the layout that keeps the targets at least cost, and what speed costs throughput."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from fathom.config import load_config
from fathom.errors import ConfigError, RequestError
from fathom.plan.families import find
from fathom.plan.hardware import Catalogue, Device
from fathom.plan.page.answer import Answer, Plot, Table
from fathom.plan.page.fields import Asked
from fathom.plan.pools import Choices, Workload
from fathom.plan.quantity import Quantity, digits
from fathom.plan.report import Chart, Series
from fathom.plan.search import Pareto, Service
from fathom.plan.serving import Found, bound, interval, layout_name, name_of, quantities, shares, step_of, why_not
from fathom.plan.serving import find as search
from fathom.plan.serving_text import charts, extras, plan_name

USES = ("model", "gpu", "precision", "cache", "in", "out", "hit", "ttft", "tpot", "percentile", "mtp", "acceptance",
        "largest", "price")  # fmt: skip
SHOWN = (
    ("speed", "Speed of a user"), ("output_throughput", "Output, all devices"), ("usd_per_million_in", "Input"),
    ("usd_per_million_out", "Output"), ("ttft", "First token"), ("tpot", "Then a token every"),
    ("prefill_throughput", "Devices that prefill"), ("decode_throughput", "Devices that decode"),
    ("gpus", "Smallest service"), ("usd_per_hour", "Its cost"),
)  # fmt: skip
FRONTIER = "#c9ced4"  # of what stays in the background
CURVE = ("prefill and decode apart", "one pool")


@dataclass(frozen=True)
class Rates:
    """What a device reads and writes [tok/s/GPU], and of which plan."""

    prefill: Quantity
    decode: Quantity
    words: str


def device_of(asked: Asked) -> Device:
    """The device, at the price that was given."""
    device, price = Catalogue.read().find(asked.text("gpu")), asked.maybe("price")
    return device if price is None else replace(device, rented_usd_h=price, price_source="given", price_date="today")


def found_of(asked: Asked) -> Found:
    """The search that the inputs describe. Raises: RequestError: nothing fits, or nothing meets the targets."""
    workload = Workload(
        asked.whole("in"), asked.whole("out"), asked.number("hit"), asked.number("ttft"), asked.number("tpot") / 1e3,
        asked.number("percentile"),
    )  # fmt: skip
    choices = Choices(
        gpus=asked.whole("largest"), precisions=(asked.text("precision"),), caches=(asked.text("cache"),),
        mtp=tuple(range(int(asked.text("mtp")) + 1)), acceptance=asked.number("acceptance"),
    )  # fmt: skip
    return _found(asked.text("model"), device_of(asked), workload, choices)


@lru_cache(maxsize=16)
def _found(model: str, device: Device, workload: Workload, choices: Choices) -> Found:
    shape = find(model)
    config = load_config(model) if shape.family == "deepseek" else None
    try:
        return search(shape, [device], workload, choices, config=config, model=model)
    except ConfigError as error:
        raise RequestError(str(error), param="tpot" if "per token" in str(error) else "gpu") from error


def rates(asked: Asked) -> Rates:
    """What the plan's devices read and write, at the load that keeps the targets."""
    found = found_of(asked)
    one, workload = found.chosen, found.workload
    if one.prefill is None:
        reading, writing = shares(one)
        per_gpu = one.decode.rate / one.decode.gpus
        read, written, reader = per_gpu / reading, per_gpu / writing, one.decode
    else:
        read, written, reader = one.prefill.rate_per_gpu, one.decode.rate_per_gpu, one.prefill
    return Rates(
        _rate(read * workload.computed, "input tokens computed by a device that prefills", step_of(reader).sd),
        _rate(written * workload.output, "output tokens of a device that decodes", step_of(one.decode).sd),
        f"Machines: {name_of(one)}, as the search above found it.",
    )


def _rate(value: float, meaning: str, sd: float) -> Quantity:
    return Quantity(value, "tok/s/GPU", meaning, *interval(value, sd), note="the plan of the section above")


def answer(asked: Asked) -> Answer:
    """The section."""
    found = found_of(asked)
    one, made = found.chosen, quantities(found, None)
    shown = [(title, made[name]) for name, title in SHOWN if made.get(name) is not None]
    rate, speed = (digits(made[name].value) for name in ("output_throughput", "speed"))
    says = f"{plan_name(one)}: {rate} tok/s per device at {speed} for each user."
    lines = [
        f"{found.tried:,} ways to lay out a replica, of which {found.fitting:,} fit; {len(found.services):,} services "
        "meet the targets.",
        f"Why not the next: {why_not(found)}",
    ]
    if (alike := found.alike()) > 1:
        lines.append(f"{alike - 1:,} other layouts lie within 5 %, which is less than a prediction can tell apart.")
    if made["usd_per_hour"] is not None:
        lines.append(f"Price: {digits(price_of(one))} USD per device and hour ({made['usd_per_hour'].note}).")
    return Answer(says, "", shown, lines, tuple(_plots(found)), (_curve(found),))


def price_of(one: Service) -> float:
    """Of a device and hour [USD]."""
    return (one.usd_per_hour or 0.0) / one.gpus


def _plots(found: Found) -> list[Plot]:
    curve, step = charts(found)
    notes = {name: tuple(_words(point) for point in points) for name, points in _kinds(found).items()}
    made = [Plot("pareto", replace(curve, title="Throughput against speed"), notes)]
    if found.chosen.usd_per_hour is not None:
        made.append(Plot("cost", _cost(found), notes))
    parts = step_of(found.chosen.decode).parts
    bounds = tuple(f"bound by {part.bound}" for part in parts)
    shown, hidden = step.series
    low, high = tuple(y for _, y in shown.points), tuple(part.seconds * 1e3 for part in parts)
    behind = replace(hidden, low=low, high=high, colour=FRONTIER)
    return [*made, Plot("step", replace(step, series=(shown, behind)), {shown.name: bounds})]


def _kinds(found: Found) -> dict[str, list[Pareto]]:
    split = [point for point in found.pareto if point.service.prefill is not None]
    return {CURVE[0]: split, CURVE[1]: [point for point in found.pareto if point.service.prefill is None]}


def _cost(found: Found) -> Chart:
    """What a million tokens of replies cost, their prompts included, against speed."""
    series = []
    for name, points in _kinds(found).items():
        at = tuple((point.speed, price_of(point.service) / point.throughput / 3600 * 1e6) for point in points)
        series += [Series(name, at, "dots")] if at else []
    whole = sorted(at for one in series for at in one.points)
    line = Series("frontier", tuple(whole), colour=FRONTIER)
    return Chart(
        "What speed costs", "speed of a user [tok/s/user]", "cost, prompts included [USD/M output tokens]",
        (line, *series), log_y=True,
    )  # fmt: skip


def _words(point: Pareto) -> str:
    one = point.service.decode
    return f"{name_of(point.service)}{extras(one)}, {one.mean / one.gpus:.3g} requests/GPU, bound by {bound(one)}"


def _curve(found: Found) -> Table:
    rows: Sequence[tuple[object, ...]] = [
        (
            name_of(point.service) + extras(point.service.decode), point.speed, point.throughput,
            point.service.decode.mean / point.service.decode.gpus, point.service.decode.step_s * 1e3,
            bound(point.service.decode),
        )
        for point in found.pareto
    ]  # fmt: skip
    head = ("plan", "tok/s/user", "tok/s/GPU", "requests/GPU", "step [ms]", "bound by")
    return Table(f"The frontier; the plan is {layout_name(found.chosen.decode.replica)}", head, tuple(rows))
