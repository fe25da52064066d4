"""A training plan as a table, as one JSON object and as a page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fathom.plan.quantity import Quantity, digits
from fathom.plan.report import Chart, Series, save
from fathom.plan.training.bill import RESEARCH_LINE, Extras, Line, bill, hours, quantity, rate
from fathom.plan.training.job import Job
from fathom.plan.training.knobs import Knobs, shipped
from fathom.plan.training.memory import memory, verdict
from fathom.plan.training.step import Step, step


@dataclass(frozen=True)
class Plan:
    """All that is said of a run."""

    job: Job
    tokens: float
    step: Step
    memory: dict[str, float]
    lines: list[Line]
    knobs: Knobs
    why: str = ""

    @property
    def quantities(self) -> dict[str, Quantity]:
        """What the table's middle says, by name."""
        job, share = self.job, self.knobs.of(self.job)
        speed, peak = rate(job), job.device.bf16_tflops * 1e12
        wide = job.device.peak("fp8" if job.precision == "fp8" else "bf16")
        bound = self.step.bound
        run = hours(job, self.tokens, self.knobs)
        longer = quantity(
            run.value * self.knobs.step.value,
            "GPU-h",
            self.knobs.run,
            "with restarts, idle hours, untuned",
            bound,
            -1,
        )
        found = {
            "step": quantity(self.step.seconds, "s", share, "one optimizer step", bound, -1),
            "speed": quantity(speed, "tok/s/GPU", share, "tokens of a step over its time", bound),
            "mfu": quantity(speed * job.flops_per_token() / peak, "1", share, "causal, over the BF16 peak", bound),
            "mfu_noncausal": quantity(
                speed * job.flops_per_token(causal=False) / peak, "1", share, "all pairs, over the BF16 peak", bound
            ),
            "mfu_fp8": quantity(speed * job.flops_per_token() / wide, "1", share, "causal, over the FP8 peak", bound),
            "hours_per_trillion": quantity(1e12 / speed / 3600, "GPU-h", share, "per 1e12 tokens", bound, -1),
            "days": run.times(1 / job.gpus / 24, "days"),
            "as_others_went": quantity(1 / share.value, "1", self.knobs.run, "computed over reported hours, pooled"),
            "hours_as_others": longer,
        }
        if job.precision != "fp8":
            del found["mfu_fp8"]
        return found

    @property
    def totals(self) -> tuple[Quantity, Quantity]:
        """(hours, dollars) of the lines in the headline."""
        counted = [line for line in self.lines if line.counted]
        return added([line.hours for line in counted]), added([line.usd for line in counted])


def plan(job: Job, tokens: float, extras: Extras | None = None, why: str = "") -> Plan:
    """A run of so many tokens, with its bill."""
    knobs = shipped()
    return Plan(job, tokens, step(job), memory(job), bill(job, tokens, extras or Extras(), knobs), knobs, why)


def added(parts: list[Quantity]) -> Quantity:
    """Their sum; ends add up too, since one share moves them all."""
    low = sum(part.value if part.low is None else part.low for part in parts)
    high = sum(part.value if part.high is None else part.high for part in parts)
    return Quantity(sum(part.value for part in parts), parts[0].unit, "sum", low, high)


def title(one: Plan) -> str:
    """Model, tokens and machines in a line."""
    job = one.job
    return (
        f"{job.shape.name}: {one.tokens / 1e12:g}T tokens on {job.gpus:,} {job.device.title} in {job.precision.upper()}"
    )


def layout(one: Plan) -> str:
    """How the job is divided, in a line."""
    job, cut = one.job, one.job.layout
    axes = [("PP", cut.pp), ("TP", cut.tp), ("CP", job.cp), ("EP", cut.ep), ("DP", job.replicas)]
    said = [f"{axis}{degree}" for axis, degree in axes if degree > 1] or ["one device"]
    if cut.pp > 1:
        said.append(job.schedule + (f" of {job.chunks} chunks" if job.chunks > 1 else ""))
    said += [f"ZeRO-{job.zero}", f"recompute {job.recompute}", f"software {job.software.name}"]
    return ", ".join(said)


def batch(one: Plan) -> str:
    """What a step reads, in a line."""
    job = one.job
    count = f"{job.micro_batches} micro-batch{'es' if job.micro_batches > 1 else ''}"
    return f"{job.batch:,} sequences of {job.seq:,} tokens a step, {count} on a rank"


def table(one: Plan) -> Iterator[str]:
    """The lines that a person reads, at most 120 wide."""
    yield title(one)
    yield f"  {layout(one)}{f': {one.why}' if one.why else ''}"
    yield f"  {batch(one)}"
    share = one.knobs.step.value
    yield ""
    yield f"  {'a step':<32}{'s':>10}{'share':>9}"
    for part, seconds in one.step.ordered:
        yield f"  {part:<32}{digits(seconds / share):>10}{seconds / one.step.seconds:>9.1%}"
    yield ""
    yield f"  {'the fullest rank':<32}{'GB':>10}   of {one.job.device.memory_gb:g}"
    for part, size in one.memory.items():
        yield f"  {part:<32}{size / 1e9:>10.1f}"
    total = sum(one.memory.values())
    yield f"  {'in all':<32}{total / 1e9:>10.1f}   {verdict(one.job)}"
    yield ""
    for name, said in one.quantities.items():
        yield f"  {name.replace('_', ' '):<32}{said!s:<44}{said.meaning}"
    yield ""
    yield from _bill(one)


def _bill(one: Plan) -> Iterator[str]:
    yield f"  {'the bill':<28}{'GPU-h':>12}{'days':>8}{'USD':>14}   80 % interval, USD"
    for line in (line for line in one.lines if line.counted):
        yield _line(one, line.what, line.hours, line.usd, line.note)
    yield _line(one, "in all", *one.totals, "the headline")
    yield ""
    yield "  what it leaves out"
    for line in (line for line in one.lines if not line.counted):
        yield _line(one, line.what, line.hours, replace(line.usd, low=None, high=None), line.note)


def _line(one: Plan, what: str, time: Quantity, usd: Quantity, note: str) -> str:
    ends = "" if usd.low is None or usd.high is None else f"{usd.low:,.0f} to {usd.high:,.0f}; "
    days = time.value / one.job.gpus / 24
    return f"  {what:<28}{time.value:>12,.0f}{days:>8.1f}{usd.value:>14,.0f}   {ends}{note}"


def to_dict(one: Plan) -> dict[str, Any]:
    """As one JSON object, every number with its unit."""
    hours_in_all, usd_in_all = one.totals
    share = one.knobs.step.value
    return {
        "title": title(one), "layout": layout(one), "batch": batch(one), "why": one.why,
        "parts": {part: Quantity(s / share, "s", "part of a step").to_dict() for part, s in one.step.parts.items()},
        "memory": {part: Quantity(b, "B", "of the fullest rank").to_dict() for part, b in one.memory.items()},
        **{name: said.to_dict() for name, said in one.quantities.items()},
        "bill": [{**asdict(x), "hours": x.hours.to_dict(), "usd": x.usd.to_dict()} for x in one.lines],
        "hours_in_all": hours_in_all.to_dict(), "usd_in_all": usd_in_all.to_dict(),
    }  # fmt: skip


def charts(one: Plan) -> list[Chart]:
    """Where the time of a step goes, and the bill with what it leaves out."""
    share = one.knobs.step.value
    parts = one.step.ordered
    spent = Series("seconds", tuple((float(i), seconds / share) for i, (_, seconds) in enumerate(parts)), "bars")
    step_s = one.quantities["step"]
    lines = [line for line in one.lines if line.usd.value > 0 and line.what != RESEARCH_LINE]
    bars = [
        Series(name, tuple((float(i), x.usd.value / 1e6) for i, x in enumerate(lines) if x.counted == counted), "bars")
        for name, counted in (("in the headline", True), ("left out", False))
    ]
    return [
        Chart(
            f"a step of {step_s}", "", "seconds", (spent,), tuple(part for part, _ in parts), sideways=True,
        ),
        Chart(
            "the bill", "", "million USD", tuple(bar for bar in bars if bar.points), tuple(x.what for x in lines),
            sideways=True,
        ),
    ]  # fmt: skip


def write(one: Plan, path: Path) -> None:
    """The plan as a page (.html), a picture (.png, .svg) or data (.json), as the name ends."""
    save(path, title(one), charts(one), ["\n".join(table(one))], to_dict(one))
