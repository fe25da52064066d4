"""`fathom plan serve`: the search, the trial of what it chose, and every number of it with unit, interval and bound."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fathom.config import ModelConfig
from fathom.errors import ConfigError
from fathom.plan.arrivals import Arrival
from fathom.plan.hardware import Device
from fathom.plan.latency import Step
from fathom.plan.points import Point, at_rate
from fathom.plan.pools import Choices, Replica, Workload, replicas, setups
from fathom.plan.quantity import Quantity
from fathom.plan.search import Pareto, Pools, Service, check_found, cost, pareto, pools, price, services
from fathom.plan.shape import Shape
from fathom.plan.trial import ROWS, Trial, trial

EIGHTY = 1.2816  # standard deviations on both sides that hold 80 % of a normal distribution
TPOT = "(end to end - time to first token) / (output tokens - 1)"
TTFT = "from a request's arrival to its first token"


@dataclass(frozen=True)
class Found:
    """What the search came to.

    Fields: services: all that meet the targets, the best first. fitting: replicas that fit; tried: ways to lay one out.
            runner_up: the best with other layouts. pareto: by falling speed of a user.
    """

    model: str
    workload: Workload
    services: tuple[Service, ...]
    pools: Pools
    runner_up: Service | None
    pareto: tuple[Pareto, ...]
    fitting: int
    tried: int

    @property
    def chosen(self) -> Service:
        """The plan."""
        return self.services[0]

    @property
    def offered(self) -> float:
        """Requests that come to it in the busiest hour [1/s]."""
        return self.chosen.rate if self.workload.rps is None else self.workload.rps * self.workload.peak

    @property
    def loaded(self) -> Point:
        """The pool that decodes, with what comes to it."""
        return at_rate(self.chosen.decode, self.offered / self.chosen.decodes, self.workload)

    def alike(self, share: float = 0.05) -> int:
        """How many layouts serve as many requests per GPU, but for so small a share."""
        least = (1.0 - share) * self.chosen.rate_per_gpu
        return len({one.key for one in self.services if one.rate_per_gpu >= least})


def find(
    shape: Shape,
    devices: Sequence[Device],
    workload: Workload,
    choices: Choices | None = None,
    *,
    config: ModelConfig | None = None,
    model: str = "",
    curve: bool = True,
) -> Found:
    """Search the layouts of every device; a split service has both its pools on the same one.

    Args: config: of a DeepSeek model, which knows more about what divides. curve: work out throughput against speed.

    Raises: ConfigError: nothing fits, nothing meets the targets, or requests are longer than the model's context.
    """
    choices, tokens = choices or Choices(), workload.input + workload.output
    if shape.context and tokens > shape.context:
        raise ConfigError(
            f"a request has {tokens:,} tokens; {model or shape.name} is made for {shape.context:,}. Shorten it."
        )
    if workload.gpus is not None:
        choices = replace(choices, gpus=min(choices.gpus, workload.gpus))
    made: list[Pools] = []
    found: list[Service] = []
    points: list[Pareto] = []
    fitting = tried = 0
    for device in devices:
        ways = [*setups(shape, device, choices, config)]
        there = [*replicas(ways, workload)]
        tried, fitting = tried + len(ways), fitting + len(there)
        own = pools(there, workload, choices.split)
        made.append(own)
        found += services(own, workload)
        points += pareto(there, own, workload, choices.split) if curve else []
    pooled = Pools(*(tuple(p for one in made for p in getattr(one, role)) for role in ("decode", "prefill", "both")))
    check_found(found, pooled, fitting, workload)
    ordered = ranked(found, workload)
    other = next((one for one in ordered if one.decode.key != ordered[0].decode.key), None)
    return Found(
        model or shape.name, workload, tuple(ordered), pooled, other, tuple(front(points)), fitting, tried
    )  # fmt: skip


def ranked(found: Sequence[Service], workload: Workload) -> list[Service]:
    """The best first: by cost for a rate that is given, by rate for GPUs that are given, else by cost of a request."""
    if workload.rps is not None:
        return sorted(found, key=lambda one: (cost(one), -one.rate, one.decode.tpot_s))
    if workload.gpus is not None:
        return sorted(found, key=lambda one: (-one.rate, cost(one), one.decode.tpot_s))
    return sorted(found, key=lambda one: (cost(one) / one.rate, one.gpus, one.decode.tpot_s))


def front(points: Sequence[Pareto]) -> list[Pareto]:
    """Those that no other beats in both, by falling speed."""
    best: list[Pareto] = []
    for each in sorted(points, key=lambda p: (-p.speed, -p.throughput)):
        if not best or each.throughput > best[-1].throughput * 1.0001:
            best.append(each)
    return best


def interval(value: float, sd: float) -> tuple[float, float]:
    """(low, high) that hold 80 %, for a relative standard deviation: log-normal."""
    return value * math.exp(-EIGHTY * sd), value * math.exp(EIGHTY * sd)


def bound(point: Point) -> str:
    """The resource that sets the largest part of its steps."""
    return step_of(point).bound


def step_of(point: Point) -> Step:
    """The step that it mostly makes: of decodes, or of prompts."""
    one = point.replica
    return one.prefill.step(point.chunk * one.lanes) if point.role == "prefill" else one.decode.step(point.mean)


def shares(service: Service) -> tuple[float, float]:
    """Parts of the cost that reading prompts and writing replies have; where one pool does both, by time."""
    if service.prefill is not None:
        prefill, decode = service.prefills * price(service.prefill), service.decodes * price(service.decode)
        return prefill / (prefill + decode), decode / (prefill + decode)
    point = service.decode
    reading = 1.0 - point.step_s / max(point.step_s, point.tpot_mean_s * gained(point))
    return reading, 1.0 - reading


def gained(point: Point) -> float:
    """Tokens of a sequence in a step; fewer where full chunks leave no room for drafts."""
    drafted = point.replica.setup.accepted
    return drafted - (drafted - 1.0) * (point.busy if point.role == "both" else 0.0)


def quantities(
    found: Found, tried: Trial | None, slow: Trial | None = None, fast: Trial | None = None
) -> dict[str, Any]:
    """The numbers of the chosen plan, each a Quantity; None where a price is missing."""
    one, asked = found.chosen, found.workload
    loaded, sd = found.loaded, step_of(one.decode).sd
    rate = asked.rps if asked.rps is not None else one.rate / asked.peak
    made: dict[str, Any] = {
        "gpus": Quantity(one.gpus, "GPUs"),
        "rate": Quantity(rate, "requests/s", "on average over a day", source="given" if asked.rps else "computed"),
        "rate_possible": _spread(one.rate, "requests/s", "within the targets", sd, bound(one.decode)),
        "output_throughput": _spread(
            one.rate * asked.output / one.gpus, "tok/s/GPU", "output tokens over all GPUs, at full load", sd,
            bound(one.decode),
        ),
        "tpot": _spread(loaded.tpot_mean_s * 1e3, "ms", TPOT + ", mean", sd, bound(loaded)),
        "speed": _spread(1.0 / loaded.tpot_mean_s, "tok/s/user", "1 / mean tpot", sd, bound(loaded)),
        "ttft": Quantity(one.ttft_s * 1e3, "ms", f"{TTFT}, p{asked.percentile:g}, by queueing formulas"),
    }  # fmt: skip
    if one.prefill is not None:
        made["decode_throughput"] = _spread(
            one.decode.rate_per_gpu * asked.output, "tok/s/GPU", "output tokens over the GPUs that decode", sd,
            bound(one.decode),
        )  # fmt: skip
        made["prefill_throughput"] = _spread(
            one.prefill.rate_per_gpu * asked.input, "tok/s/GPU",
            "input tokens with those found, over the GPUs that prefill", step_of(one.prefill).sd, bound(one.prefill),
        )  # fmt: skip
    made |= _money(found, rate, sd)
    if tried is not None:
        made |= _tried(tried, slow, fast, one)
    return made


def _spread(value: float, unit: str, meaning: str, sd: float, bound_by: str) -> Quantity:
    low, high = interval(value, sd)
    return Quantity(value, unit, meaning, low, high, bound_by)


def _money(found: Found, rate: float, sd: float) -> dict[str, Any]:
    one, asked = found.chosen, found.workload
    per_hour = one.usd_per_hour
    if per_hour is None:
        return {"usd_per_hour": None, "usd_per_million_in": None, "usd_per_million_out": None}
    device = one.decode.replica.setup.device
    note = f"{device.price_source or device.source}; {device.price_date or 'no date'}"
    reading, writing = shares(one)
    tokens_in, tokens_out = rate * asked.input * 3600 / 1e6, rate * asked.output * 3600 / 1e6
    made: dict[str, Any] = {"usd_per_hour": Quantity(per_hour, "USD/h", "all GPUs", note=note)}
    for name, share, tokens, what in (
        ("usd_per_million_in", reading, tokens_in, "input tokens, those found too"),
        ("usd_per_million_out", writing, tokens_out, "output tokens"),
    ):
        value = per_hour * share / tokens
        low, high = interval(value, sd)
        made[name] = Quantity(value, "USD/M tokens", f"{what}, at the average rate", low, high, note=note)
    return made


def _tried(tried: Trial, slow: Trial | None, fast: Trial | None, one: Service) -> dict[str, Any]:
    """Percentiles as the scheduler had them; their ends are those of trials whose steps take longer, or less."""
    made: dict[str, Any] = {}
    for name, meaning in (("ttft", TTFT), ("tpot", TPOT)):
        for percent in ("p50", "p90", "p99"):
            value = getattr(getattr(tried, name), percent) * 1e3
            ends = [getattr(getattr(each, name), percent) * 1e3 for each in (fast, slow) if each is not None]
            low, high = (min(value, *ends), max(value, *ends)) if len(ends) == 2 else (None, None)
            where = bound(one.prefill or one.decode) if name == "ttft" else bound(one.decode)
            made[f"{name}_{percent}"] = Quantity(
                value, "ms", f"{meaning}, {percent} of {getattr(tried, name).count} requests", low, high, where,
                note="the scheduler, driven by the latency model",
            )  # fmt: skip
    made["output_tried"] = Quantity(
        tried.tokens_per_s / one.gpus, "tok/s/GPU", "output tokens over all GPUs, in the trial"
    )
    return made


def trials(
    found: Found,
    *,
    seed: int = 0,
    trace: Sequence[Arrival] = (),
    spread: float = 0.2,
    rows: int = ROWS,
    progress: Callable[[str, float], None] = lambda what, share: None,
) -> tuple[Trial, Trial, Trial]:
    """(as predicted, slower, faster): the plan tried with steps as predicted and at both ends of their interval."""
    sd = step_of(found.chosen.decode).sd
    made = [
        trial(
            found.chosen, found.workload, seed=seed, trace=trace, spread=spread, progress=progress,
            pace=math.exp(side * EIGHTY * sd), rows=rows if side == 0 else rows * 2 // 5,
        )
        for side in (0, 1, -1)
    ]  # fmt: skip
    return made[0], made[1], made[2]


def verdict(found: Found, tried: Trial) -> list[str]:
    """What the trial says of the formulas, and of the targets."""
    asked, said, loaded = found.workload, [], found.loaded
    low, high = interval(loaded.tpot_mean_s, step_of(loaded).sd)
    inside = low <= tried.tpot.p50 <= high
    said.append(
        f"median time per token {tried.tpot.p50 * 1e3:.1f} ms {'lies within' if inside else 'lies OUTSIDE'} the plan's "
        f"{low * 1e3:.1f} to {high * 1e3:.1f} ms"
    )
    for name, option, value, target in (
        ("first token", "ttft", tried.ttft.at(asked.percentile), asked.ttft_s),
        ("time per token", "tpot", tried.tpot.at(asked.percentile), asked.tpot_s),
    ):
        kept = value <= target * 1.001
        hint = "" if kept else f"; a plan with --{option} {target * target / value * 1e3:,.1f}ms has the room"
        said.append(
            f"{name} p{_nearest(asked.percentile)} {value * 1e3:,.1f} ms {'keeps' if kept else 'MISSES'} the target of "
            f"{target * 1e3:,.0f} ms{hint}"
        )
    return said


def _nearest(percent: float) -> int:
    return 50 if percent <= 50 else 90 if percent <= 90 else 99


def why_not(found: Found) -> str:
    """One sentence: what the runner-up costs more, and which part of which pool is to blame."""
    best, other, asked = found.chosen, found.runner_up, found.workload
    if other is None:
        return "no other layout meets the targets."
    more = 1.0 - other.rate_per_gpu / best.rate_per_gpu
    head = f"{name_of(other)} serves {abs(more):.1%} {'fewer' if more >= 0 else 'more'} requests per GPU"
    if asked.rps is not None and other.gpus == best.gpus:
        head = f"{name_of(other)} takes {best.gpus:,} GPUs too, and at most {other.rate:,.1f} requests/s"
    elif asked.gpus is not None:
        fewer = best.rate - other.rate
        head = f"{name_of(other)} gives {other.rate:,.1f} requests/s on {other.gpus:,} GPUs, {fewer:,.1f} fewer"
    elif other.gpus != best.gpus:
        head += f" ({other.gpus:,} GPUs for {other.rate:,.1f}/s against {best.gpus:,} for {best.rate:,.1f}/s)"
    mine, theirs = (each.decode for each in (best, other))
    seats = [point.seats / point.gpus for point in (mine, theirs)]
    if (other.prefill is None) != (best.prefill is None):
        mixed = other if other.prefill is None else best
        return (
            f"{head}: where one pool does both, chunks of prompts take {shares(mixed)[0]:.0%} of the time, and "
            f"{seats[1]:.1f} requests per GPU are in work instead of {seats[0]:.1f}."
        )
    part, (a, b) = _blame(step_of(mine), step_of(theirs))
    return (
        f"{head}: {seats[1]:.1f} requests per GPU instead of {seats[0]:.1f} decode within the target, at "
        f"{theirs.tpot_mean_s * 1e3:.1f} instead of {mine.tpot_mean_s * 1e3:.1f} ms a token; of a step, {part} takes "
        f"{b * 1e3:.1f} instead of {a * 1e3:.1f} ms."
    )


def _blame(mine: Step, theirs: Step) -> tuple[str, tuple[float, float]]:
    """The part of a step in which the other differs most."""
    times = [{p.name: p.seconds - p.hidden for p in step.parts} for step in (mine, theirs)]
    names = {*times[0], *times[1]}
    name = max(sorted(names), key=lambda n: abs(times[1].get(n, 0.0) - times[0].get(n, 0.0)))
    return name, (times[0].get(name, 0.0), times[1].get(name, 0.0))


def layout_name(one: Replica) -> str:
    """Such as "EP144", "TP8", "PP2 DP8 EP8 +32 copies"."""
    setup, made = one.setup, one.setup.layout
    parts = [f"PP{made.pp}"] if made.pp > 1 else []
    parts += [f"EP{made.ep}"] if made.ep > 1 else []
    parts += [f"TP{made.tp}"] if made.tp > 1 else []
    parts += [f"DP{made.dp}"] if made.dp > 1 and made.dp != made.ep else []
    return " ".join([*(parts or ["1 GPU"]), *([f"+{setup.redundant}"] if setup.redundant else [])])


def name_of(service: Service) -> str:
    """A plan in a few words."""
    decode = layout_name(service.decode.replica)
    if service.prefill is None:
        return f"aggregated {decode}"
    return f"prefill {layout_name(service.prefill.replica)}, decode {decode}"
