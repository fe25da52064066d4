"""The section about training: time, memory of a rank, the bill, and what a headline leaves out."""

from __future__ import annotations

from functools import lru_cache

from fathom.errors import ConfigError, RequestError
from fathom.plan.families import find
from fathom.plan.hardware import Catalogue
from fathom.plan.page.answer import Answer, Plot, Table
from fathom.plan.page.fields import Asked
from fathom.plan.quantity import Quantity, digits
from fathom.plan.report import Chart, Series
from fathom.plan.training.bill import RESEARCH_LINE, Extras
from fathom.plan.training.report import Plan, batch, layout, plan
from fathom.plan.training.search import asked as job_of

USES = ("model", "gpu", "tokens", "trained_on", "train_price")


def training(asked: Asked) -> Plan:
    """The run that the inputs describe. Raises: RequestError: it cannot be."""
    return _plan(
        asked.text("model"), asked.text("gpu"), asked.whole("trained_on"), asked.number("tokens"),
        asked.maybe("train_price"),
    )  # fmt: skip


@lru_cache(maxsize=32)
def _plan(model: str, gpu: str, count: int, tokens: float, price: float | None) -> Plan:
    device = Catalogue.read().find(gpu)
    try:
        job, why = job_of(find(model), device, count)
    except ConfigError as error:
        raise RequestError(str(error), param="trained_on") from error
    try:
        return plan(job, tokens, Extras(price=price), why)
    except ConfigError as error:
        raise RequestError(str(error), param="train_price" if "price" in str(error) else "tokens") from error


def answer(asked: Asked) -> Answer:
    """The section."""
    found = training(asked)
    hours, usd = found.totals
    numbers = found.quantities
    days = numbers["days"]
    shown = [
        ("Cost", usd), ("Device hours", hours), ("Days", days), ("Speed", numbers["speed"]),
        ("Utilisation, BF16 peak", numbers["mfu"]), ("Per trillion tokens", numbers["hours_per_trillion"]),
        ("Hours, as others went", numbers["hours_as_others"]),
    ]  # fmt: skip
    says = f"{digits(days.value)} days on {found.job.gpus:,} {found.job.device.title}: {_money(usd.value)}."
    lines = [f"{layout(found)}{f': {found.why}' if found.why else ''}.", f"{batch(found)}."]
    around = next(line for line in found.lines if line.what == RESEARCH_LINE)
    lines.append(f"{around.what.capitalize()}, not drawn: {_money(around.usd.value)}; {around.note}.")
    return Answer(says, "", shown, lines, (_step(found), _bill(found)), (_lines(found), _rank(found)))


def _money(usd: float) -> str:
    return f"${digits(usd / 1e6)} million" if usd >= 1e6 else f"${usd:,.0f}"


def _step(found: Plan) -> Plot:
    scale, parts = found.quantities["step"].value / found.step.seconds, found.step.ordered
    series = Series("time", tuple((float(i), seconds * scale) for i, (_, seconds) in enumerate(parts)), "bars")
    notes = tuple(f"{seconds / found.step.seconds:.1%} of the step" for _, seconds in parts)
    names = tuple(name for name, _ in parts)
    chart = Chart("Where a training step goes", "", "time [s]", (series,), names, sideways=True)
    return Plot("training-step", chart, {"time": notes})


def _bill(found: Plan) -> Plot:
    lines = [line for line in found.lines if line.what != RESEARCH_LINE]  # ten times as much: it would hide the rest
    kept, names = [], tuple(line.what for line in lines)
    for title, counted in (("in the headline", True), ("left out of it", False)):
        rows = [(i, line) for i, line in enumerate(lines) if line.counted == counted]
        kept.append(Series(title, tuple((float(i), line.usd.value) for i, line in rows), "bars"))
    notes = {one.name: tuple(found.lines[int(x)].note for x, _ in one.points) for one in kept}
    chart = Chart("The training bill", "", "cost [USD]", tuple(kept), names, sideways=True)
    return Plot("training-bill", chart, notes)


def _lines(found: Plan) -> Table:
    head = ("line", "GPU-h", "days", "USD", "low 80 % [USD]", "high 80 % [USD]", "in the headline", "from")
    rows = []
    for line in found.lines:
        days = line.hours.value / found.job.gpus / 24
        ends = (line.usd.low, line.usd.high)
        rows.append(
            (line.what, line.hours.value, days, line.usd.value, *ends, "yes" if line.counted else "no", line.note)
        )
    return Table("The training bill, line by line", head, tuple(rows))


def _rank(found: Plan) -> Table:
    total = Quantity(sum(found.memory.values()), "B")
    rows = [(part, size / 1e9) for part, size in found.memory.items()] + [("in all", total.value / 1e9)]
    title = f"The fullest rank, of {found.job.device.memory_gb:g} GB"
    return Table(title, ("part", "GB"), tuple(rows))
