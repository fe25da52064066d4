"""What `fathom plan serve` says and draws of what it found."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from fathom.plan.points import Point
from fathom.plan.pools import Workload
from fathom.plan.quantity import Quantity, digits
from fathom.plan.report import Chart, Series, as_json, table
from fathom.plan.search import Pareto, Service
from fathom.plan.serving import Found, bound, layout_name, name_of, shares, step_of, verdict, why_not
from fathom.plan.trial import Trial

ROWS = 12  # of the table of the curve


def lines(found: Found, numbers: dict[str, Any], tried: Trial | None) -> Iterator[str]:
    """The report that a person reads, in lines of at most 120 columns."""
    for line in _lines(found, numbers, tried):
        indent = line[: len(line) - len(line.lstrip())]
        if len(line) <= 120:
            yield line
        else:
            yield from textwrap.wrap(line.strip(), 120, initial_indent=indent, subsequent_indent=indent + "  ")


def _lines(found: Found, numbers: dict[str, Any], tried: Trial | None) -> Iterator[str]:
    one, asked = found.chosen, found.workload
    yield from _question(found)
    yield ""
    yield f"Plan: {plan_name(one)}, {one.gpus:,} GPUs"
    yield from _result(numbers, asked)
    yield ""
    yield "Arithmetic"
    if one.prefill is not None:
        yield from _prefill(one.prefill, one.prefills, asked)
    yield from _decode(one.decode, one.decodes, asked)
    if tried is not None:
        yield ""
        yield from _trial(found, tried, numbers)
    yield ""
    yield "Why not the next: " + why_not(found)
    if (alike := found.alike()) > 1:
        yield f"  {alike - 1:,} other layouts lie within 5 %, which is less than the prediction can tell apart."
    yield ""
    yield f"Speed against throughput ({len(found.pareto)} points; first token kept, time per token free)"
    yield from table(HEAD, [_row(point) for point in some(found.pareto, asked)])


def _question(found: Found) -> Iterator[str]:
    asked, device = found.workload, found.chosen.decode.replica.setup.device
    hit = f" ({asked.hit:.0%} of them found)" if asked.hit else ""
    yield f"{found.model} on {device.title}: {asked.input:,} tokens in{hit}, {asked.output:,} out"
    wanted = (
        f"{asked.rps:g} requests/s" if asked.rps is not None else f"{asked.gpus:,} GPUs" if asked.gpus else "any size"
    )
    peak = f", {asked.peak:g} times as many in the busiest hour" if asked.peak > 1 else ""
    yield (
        f"Asked: {wanted}{peak}; first token within {asked.ttft_s:g} s and {asked.tpot_s * 1e3:g} ms per token "
        f"for {asked.percentile:g} %"
    )
    yield (
        f"Searched: {found.tried:,} ways to lay out a replica, {found.fitting:,} fit; {len(found.services):,} services "
        "meet the targets"
    )


def plan_name(one: Service) -> str:
    """How many replicas of which layout."""
    decode = f"{one.decodes} x {layout_name(one.decode.replica)}{extras(one.decode)}"
    if one.prefill is None:
        return f"{decode}, prompts and replies in one pool"
    return f"{one.prefills} x {layout_name(one.prefill.replica)}{extras(one.prefill)} prefill, {decode} decode"


def extras(point: Point) -> str:
    """Drafts, overlap and precisions, where they are used."""
    setup = point.replica.setup
    said = [f"MTP {setup.mtp}"] if setup.mtp and point.role != "prefill" else []
    said += ["overlap"] if setup.overlap else []
    said += [setup.precision] if setup.precision else []
    said += [f"{setup.cache} cache"] if setup.cache != "bf16" else []
    return f" ({', '.join(said)})" if said else ""


def _result(numbers: dict[str, Any], asked: Workload) -> Iterator[str]:
    names = (
        ("rate", "requests"), ("rate_possible", "  at most"), ("output_throughput", "output over all GPUs"),
        ("prefill_throughput", "  prompts, GPUs that prefill"), ("decode_throughput", "  replies, GPUs that decode"),
        ("speed", "speed of a user"), ("ttft_p50", "first token p50"), ("ttft_p99", "            p99"),
        ("tpot_p50", "per token p50"), ("tpot_p99", "          p99"), ("usd_per_hour", "cost of an hour"),
        ("usd_per_million_in", "  of 1M tokens in"), ("usd_per_million_out", "  of 1M tokens out"),
    )  # fmt: skip
    cells: list[list[str]] = [["", "value", "low 80 %", "high 80 %", "unit", "bound by"]]
    for name, title in names:
        if name in numbers:
            one: Quantity | None = numbers[name]
            known = [one.value, one.low, one.high] if one else [None, None, None]
            said = ["" if value is None else digits(value) for value in known]
            cells.append([title, *said, *((one.unit, one.bound) if one else ("no price is known", ""))])
    widths = [max(len(row[i]) for row in cells) for i in range(6)]
    for row in cells:
        right = "".join("  " + each.rjust(width) for each, width in zip(row[1:4], widths[1:4], strict=True))
        yield f"  {row[0].ljust(widths[0])}{right}  {row[4].ljust(widths[4])}  {row[5]}".rstrip()
    if numbers.get("usd_per_hour") is not None:
        yield f"  prices: {numbers['usd_per_hour'].note}"


def _prefill(point: Point, count: int, asked: Workload) -> Iterator[str]:
    one, setup = point.replica, point.replica.setup
    tokens = point.chunk * one.lanes
    yield f"  prefill {layout_name(one)}{extras(point)}: {one.gpus} GPUs a replica, bound by {bound(point)}"
    yield (
        f"    a step of {tokens:,} tokens ({point.chunk:,} in each of {one.lanes} lanes) takes "
        f"{point.chunk_s * 1e3:,.1f} ms: {tokens / point.chunk_s / one.gpus:,.0f} tok/s/GPU computed"
    )
    yield f"    {parts(point, point.chunk_s)}"
    yield (
        f"    x {point.busy:.0%} load / {asked.computed:,.0f} computed tokens a prompt = {point.rate:,.2f} requests/s "
        f"a replica; x {count} = {count * point.rate:,.1f}"
    )
    if setup.redundant:
        yield f"    {setup.redundant} copies of experts a layer: balanced to {setup.balanced:.0%}"


def _decode(point: Point, count: int, asked: Workload) -> Iterator[str]:
    one, setup = point.replica, point.replica.setup
    what = "decode" if point.role == "decode" else "one pool"
    yield f"  {what} {layout_name(one)}{extras(point)}: {one.gpus} GPUs a replica, bound by {bound(point)}"
    yield (
        f"    cache: room for {one.room / one.lanes:,.0f} tokens a lane = {one.seats / one.lanes:,.0f} requests of "
        f"{asked.context:,.0f} tokens on average; {point.seats / one.lanes:,.1f} are used, "
        f"{point.mean / one.lanes:,.1f} on average"
    )
    yield f"    a step of {point.mean:,.0f} sequences takes {point.step_s * 1e3:,.1f} ms"
    yield f"    {parts(point, point.step_s)}"
    gained = setup.accepted
    if setup.mtp:
        yield f"    {setup.mtp} draft a step, accepted with {setup.acceptance:.0%}: {gained:.2f} tokens a step"
    if point.role == "both":
        reading, _ = shares(Service(point))
        yield (
            f"    chunks of {point.chunk:,} tokens add {point.chunk_s * 1e3:,.1f} ms to {point.busy:.0%} of a lane's "
            f"steps: {reading:.0%} of the time"
        )
    yield (
        f"    {point.tpot_mean_s * 1e3:,.1f} ms a token x {asked.output:,} tokens: {point.rate:,.2f} requests/s "
        f"a replica; x {count} = {count * point.rate:,.1f}"
    )


def parts(point: Point, seconds: float) -> str:
    """What a step spends its time on, the largest first."""
    step = step_of(point)
    scale = seconds / step.seconds  # the step is of the nearest point of the curve
    found = sorted(step.parts, key=lambda part: -(part.seconds - part.hidden))
    said = [
        f"{part.name} {(part.seconds - part.hidden) * scale * 1e3:,.1f}"
        + (f" (+{part.hidden * scale * 1e3:,.1f} hidden)" if part.hidden else "")
        for part in found
        if part.seconds * scale >= 5e-5
    ]
    return "= " + " + ".join(said) + " ms"


def _trial(found: Found, tried: Trial, numbers: dict[str, Any]) -> Iterator[str]:
    yield (
        f"Tried with the scheduler: {tried.rate:,.1f} requests/s, {tried.lanes} of {tried.all_lanes} lanes of a "
        f"replica, {tried.steps:,} steps, {tried.seconds:,.1f} s"
    )
    yield from (f"  {line}" for line in verdict(found, tried))
    yield (
        f"  output {numbers['output_tried'].value:,.0f} tok/s/GPU; first token p50/p90/p99 "
        f"{tried.ttft.p50 * 1e3:,.0f}/{tried.ttft.p90 * 1e3:,.0f}/{tried.ttft.p99 * 1e3:,.0f} ms, per token "
        f"{tried.tpot.p50 * 1e3:.1f}/{tried.tpot.p90 * 1e3:.1f}/{tried.tpot.p99 * 1e3:.1f} ms"
    )
    if tried.transfer_s:
        yield f"  a prompt's cache moves from prefill to decode in {tried.transfer_s * 1e3:,.1f} ms, counted per token"
    if tried.day is not None:
        first, each = tried.day
        yield (
            f"  over the day: first token p50/p99 {first.p50 * 1e3:,.0f}/{first.p99 * 1e3:,.0f} ms, per token "
            f"{each.p50 * 1e3:.1f}/{each.p99 * 1e3:.1f} ms"
        )


HEAD = ("replies by", "prompts", "tok/s/user", "tok/s/GPU", "requests/GPU", "step [ms]", "bound by")


def _row(point: Pareto) -> tuple[object, ...]:
    one = point.service.decode
    prompts = layout_name(point.service.prefill.replica) if point.service.prefill else "same pool"
    return (
        layout_name(one.replica) + extras(one),
        prompts,
        point.speed,
        point.throughput,
        one.mean / one.gpus,
        one.step_s * 1e3,
        bound(one),
    )


def some(curve: Sequence[Pareto], asked: Workload) -> list[Pareto]:
    """A few of the points, both ends and the one nearest to the target among them."""
    if len(curve) <= ROWS:
        return list(curve)
    nearest = min(range(len(curve)), key=lambda i: abs(curve[i].speed * asked.tpot_s - 1.0))
    picked = {round(i * (len(curve) - 1) / (ROWS - 2)) for i in range(ROWS - 1)} | {nearest}
    return [curve[i] for i in sorted(picked)]


def charts(found: Found) -> list[Chart]:
    """The curve by kind of service, with the plan on it; and what a step of its decodes spends its time on."""
    kinds: dict[str, list[Pareto]] = {"prefill and decode apart": [], "one pool": []}
    for point in found.pareto:
        kinds["one pool" if point.service.prefill is None else "prefill and decode apart"].append(point)
    asked, one = found.workload, found.chosen
    series = [
        Series(name, tuple((p.speed, p.throughput) for p in points), "dots") for name, points in kinds.items() if points
    ]
    curve = Series("frontier", tuple((p.speed, p.throughput) for p in found.pareto), colour="#c9ced4")
    plan = Series("the plan", ((1.0 / one.decode.tpot_mean_s, one.rate_per_gpu * asked.output),), "dots",
                  labels=(layout_name(one.decode.replica),), colour="#a2191f")  # fmt: skip
    step = step_of(one.decode)
    names = tuple(part.name for part in step.parts)
    shown = Series("of a step", tuple((i, (p.seconds - p.hidden) * 1e3) for i, p in enumerate(step.parts)), "bars")
    hidden = Series("hidden behind it", tuple((i, p.hidden * 1e3) for i, p in enumerate(step.parts)), "bars")
    return [
        Chart(f"{found.model}: throughput against speed", "speed of a user [tok/s/user]", "output [tok/s/GPU]",
              (curve, *series, plan)),
        Chart("A step of decodes", "part", "time [ms]", (shown, hidden), names, sideways=True),
    ]  # fmt: skip


def facts(found: Found, numbers: dict[str, Any], tried: Trial | None) -> dict[str, Any]:
    """All of it as plain data, with units in the names or beside the values."""
    one = found.chosen
    return {
        "model": found.model,
        "workload": as_json(found.workload),
        "plan": service_facts(one, found.workload),
        "numbers": as_json(numbers),
        "runner_up": service_facts(found.runner_up, found.workload) if found.runner_up else None,
        "why_not": why_not(found),
        "verdict": verdict(found, tried) if tried else [],
        "trial": as_json(tried),
        "pareto": [
            {
                "speed": {"value": p.speed, "unit": "tok/s/user"},
                "throughput": {"value": p.throughput, "unit": "tok/s/GPU"},
                "service": service_facts(p.service, found.workload),
            }
            for p in found.pareto
        ],
        "searched": {"layouts": found.tried, "fitting": found.fitting, "services": len(found.services)},
    }


def service_facts(one: Service, asked: Workload) -> dict[str, Any]:
    """A service as plain data."""
    pools = [(one.decode, one.decodes)]
    if one.prefill is not None:
        pools.insert(0, (one.prefill, one.prefills))
    return {
        "name": name_of(one),
        "gpus": one.gpus,
        "requests_per_s": one.rate,
        "usd_per_hour": one.usd_per_hour,
        "pools": [point_facts(point, count, asked) for point, count in pools],
    }


def point_facts(point: Point, count: int, asked: Workload) -> dict[str, Any]:
    """A pool as plain data."""
    setup = point.replica.setup
    return {
        "role": point.role,
        "replicas": count,
        "device": setup.device.name,
        "layout": as_json(setup.layout),
        "redundant_experts": setup.redundant,
        "mtp": setup.mtp,
        "overlap": setup.overlap,
        "precision": setup.weights.name,
        "cache": setup.cache,
        "requests_per_s": point.rate,
        "sequences_per_gpu": point.mean / point.gpus,
        "chunk_tokens": point.chunk,
        "ttft_s": point.ttft_s or None,
        "tpot_s": point.tpot_mean_s or None,
        "load": point.busy,
        "bound": bound(point),
        "step": [
            {"part": p.name, "seconds": p.seconds, "hidden_s": p.hidden, "bound": p.bound} for p in step_of(point).parts
        ],
    }
