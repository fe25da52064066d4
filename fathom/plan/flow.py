"""From users to a bill: tokens by stream, work, accelerators, servers, capital, money a year, megawatts.

One demand is a TOML file (recipes/plan/*.toml), a table of inputs (inputs.py); `flow` is the arithmetic, on numbers or
on arrays of samples alike:

    answers  = daily users x sessions x turns
    prefill  = answers x (prompt + history x (1 - cached));  cached = answers x history x cached
    decode   = answers x output x reasoning
    accelerators (mean) = prefill / 86,400 / rate of prefill + decode / 86,400 / rate of decode
    bought   = mean x peak-to-average x (1 + spare), in whole servers

or with traffic as it was published in place of the first three lines. A rate is measured (tok/s per accelerator), or
follows from FLOPs: F x utilisation / 2N, as brokers do. demand.py reads one and makes intervals of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from fathom.plan.hardware import Device
from fathom.plan.inputs import Input, Term
from fathom.plan.shape import Shape

DAY_S, YEAR_DAYS = 86_400.0, 365.0
LEAST = 1e-30  # of tokens, users, accelerators or money: below it there is nothing to share a cost among
Z95 = 1.6448536269514722  # standard normal deviate that 5 % of all lie beyond

TERMS: dict[str, Term] = {
    "users.mau": Term("users", "come at least once a month"),
    "users.daily_share": Term("1", "of them, those of a day", "share"),
    "users.dau": Term("users", "come on a day"),
    "users.sessions": Term("1/day", "conversations of a daily user"),
    "users.turns": Term("1", "questions in a conversation"),
    "tokens.prompt": Term("tokens", "of a question"),
    "tokens.history": Term("tokens", "said before it in the conversation, system prompt included"),
    "tokens.cached": Term("1", "of the history, found in a cache", "share"),
    "tokens.output": Term("tokens", "of an answer that is shown"),
    "tokens.reasoning": Term("1", "tokens generated per token shown", least=1.0),
    "traffic.input": Term("tokens/day", "read, cached ones included"),
    "traffic.cached": Term("1", "of them, found in a cache", "share"),
    "traffic.output": Term("tokens/day", "generated"),
    "traffic.total": Term("tokens/day", "read and generated"),
    "traffic.output_share": Term("1", "of them, generated", "share"),
    "traffic.answers": Term("1/day", "answers"),
    "traffic.context": Term("tokens", "in the cache of a sequence, on average"),
    "peak.to_average": Term("1", "load to be met over mean load", least=1.0),
    "peak.percentile": Term("1", "of the hours of a day whose load is met", "share"),
    "peak.window_s": Term("s", "a question may wait in a burst", least=1.0),
    "growth.demand": Term("1/year", "change of the tokens of a day", "rate"),
    "growth.token_price": Term("1/year", "change of what a token is sold for", "rate"),
    "growth.performance_per_dollar": Term("1/year", "change of tok/s per money", "rate"),
    "growth.performance_per_watt": Term("1/year", "change of tok/s per watt", "rate"),
    "fleet.prefill": Term("tok/s/GPU", "input tokens that an accelerator reads", least=1e-9),
    "fleet.decode": Term("tok/s/GPU", "output tokens that an accelerator generates", least=1e-9),
    "fleet.active_parameters": Term("1", "parameters that a token meets (N of 2N FLOP)", least=1.0),
    "fleet.flops": Term("FLOP/s", "peak of an accelerator", least=1.0),
    "fleet.utilisation": Term("1", "of the peak that is reached", "share"),
    "fleet.servers": Term("servers", "in use on average, as published; rates are scaled to agree", least=1e-9),
    "fleet.per_server": Term("GPU", "accelerators of a server", least=1.0),
    "fleet.deployment": Term("servers", "of the smallest deployment, bought in whole ones", least=1.0),
    "fleet.spare": Term("1", "servers more than the peak needs", "share"),
    "fleet.kw": Term("kW", "an accelerator takes from the grid, host and cooling included"),
    "money.server": Term("money", "price of a server"),
    "money.life": Term("years", "a server is used", least=0.1),
    "money.operations": Term("1/year", "of the price, for operation and building", "share"),
    "money.gpu_hour": Term("money/h", "rent of an accelerator"),
    "money.kwh": Term("money/kWh", "price of electricity"),
    "money.per_usd": Term("money/USD", "rate of exchange", least=1e-9),
    "price.input": Term("money/M tokens", "charged for input that was not cached"),
    "price.cached": Term("money/M tokens", "charged for cached input"),
    "price.output": Term("money/M tokens", "charged for output"),
}
DEFAULTS = {
    "tokens.history": 0.0, "tokens.cached": 0.0, "tokens.reasoning": 1.0, "traffic.cached": 0.0, "peak.to_average": 1.0,
    "peak.percentile": 0.95, "growth.demand": 0.0, "growth.token_price": 0.0, "growth.performance_per_dollar": 0.0,
    "growth.performance_per_watt": 0.0, "fleet.per_server": 8.0, "fleet.deployment": 1.0, "fleet.spare": 0.0,
    "money.operations": 0.0,
}  # fmt: skip
OUTPUTS = {
    "users": ("users/day", "daily users"),
    "answers": ("1/day", "answers"),
    "prefill": ("tokens/day", "input that is computed"),
    "cached": ("tokens/day", "input that is found in a cache"),
    "decode": ("tokens/day", "output, reasoning included"),
    "tokens": ("tokens/day", "all of them"),
    "flop": ("FLOP/day", "2 x active parameters per computed token, and attention where the context is said"),
    "accelerators_prefill": ("GPU", "mean, for input"),
    "accelerators_decode": ("GPU", "mean, for output"),
    "accelerators": ("GPU", "in use on average"),
    "servers": ("servers", "in use on average"),
    "peak_to_average": ("1", "load to be met over mean load"),
    "accelerators_peak": ("GPU", "bought: peak and spare"),
    "servers_peak": ("servers", "bought, in whole deployments"),
    "tokens_per_accelerator": ("tok/s/GPU", "mean demand over accelerators bought"),
    "flop_per_token": ("FLOP/token", "peak FLOPs bought per token of mean demand"),
    "capital": ("money", "price of the servers"),
    "capital_per_user": ("money/user", "capital per daily user"),
    "bill_day": ("money/day", "bill of a day"),
    "bill": ("money/year", "bill of a year: rent, or capital by its life, operation and electricity"),
    "bill_prefill": ("money/year", "of it, for input"),
    "bill_decode": ("money/year", "of it, for output"),
    "input_cost": ("money/M tokens", "bill per input token, cached ones included"),
    "output_cost": ("money/M tokens", "bill per output token"),
    "answer_cost": ("money", "bill per answer"),
    "revenue_day": ("money/day", "at the prices charged"),
    "margin": ("%", "revenue less bill, over the bill"),
    "power": ("MW", "from the grid, all servers under load"),
}
Flow = dict[str, Any]  # name of OUTPUTS -> a number or an array of samples
Inputs = dict[str, Input]


@dataclass(frozen=True)
class Published:
    """A figure that somebody published, to compare with: `of` is one of OUTPUTS."""

    of: str
    value: float
    note: str
    scenario: str = ""


@dataclass(frozen=True)
class Demand:
    """What is asked of a fleet, and what it is made of.

    Fields: billed: accelerators that are paid for, all that were bought ("peak") or those in use ("average").
            cached_takes: "prefill" where the rate of input counts cached tokens, "nothing" where they cost nothing.
            hours: load of the hours of a day, in any unit. years: that `growth` is followed. calibration: accelerators
            that were counted, over those that the rates give.
    """

    title: str
    inputs: Inputs
    currency: str = "USD"
    device: Device | None = None
    model: Shape | None = None
    billed: str = "peak"
    cached_takes: str = "nothing"
    hours: tuple[float, ...] = ()
    years: int = 0
    scenarios: Mapping[str, Inputs] = field(default_factory=dict)
    alternatives: Mapping[str, Inputs] = field(default_factory=dict)
    published: tuple[Published, ...] = ()
    about: str = ""
    calibration: float = 1.0

    def unit(self, output: str) -> str:
        """The unit of an output, in this demand's currency."""
        return OUTPUTS[output][0].replace("money", self.currency)

    def changed(self, inputs: Mapping[str, Input]) -> Demand:
        """The same with other inputs."""
        return replace(self, inputs={**self.inputs, **inputs})


def flow(demand: Demand, x: Mapping[str, Any], year: float = 0.0) -> Flow:
    """Every result that the inputs give, of OUTPUTS; what needs an input that is missing is left out.

    Args: x: inputs by name, numbers or arrays of samples. year: so many years of growth and price path later.
    """
    x = {**DEFAULTS, **x}
    made = _streams(x, (1.0 + x["growth.demand"]) ** year)
    made["tokens"] = made["prefill"] + made["cached"] + made["decode"]
    work = _flop(demand, x, made)
    if work is not None:
        made["flop"] = work
    _accelerators(demand, x, made)
    _money(demand, x, made, year)
    return made


def _streams(x: Mapping[str, Any], growth: Any) -> Flow:
    """Tokens of a day, by what is done with them."""
    if "traffic.total" in x:
        total, share = x["traffic.total"] * growth, x["traffic.output_share"]
        read = total * (1.0 - share)
        made = {
            "prefill": read * (1.0 - x["traffic.cached"]),
            "cached": read * x["traffic.cached"],
            "decode": total * share,
        }
    elif "traffic.input" in x:
        read = x["traffic.input"] * growth
        made = {"prefill": read * (1.0 - x["traffic.cached"]), "cached": read * x["traffic.cached"]}
        made["decode"] = x["traffic.output"] * growth
    else:
        users = (x["users.dau"] if "users.dau" in x else x["users.mau"] * x["users.daily_share"]) * growth
        answers = users * x["users.sessions"] * x["users.turns"]
        cached = answers * x["tokens.history"] * x["tokens.cached"]
        fresh = answers * (x["tokens.prompt"] + x["tokens.history"] * (1.0 - x["tokens.cached"]))
        decode = answers * x["tokens.output"] * x["tokens.reasoning"]
        return {"users": users, "answers": answers, "prefill": fresh, "cached": cached, "decode": decode}
    if "traffic.answers" in x:
        made["answers"] = x["traffic.answers"] * growth
    if "users.dau" in x:
        made["users"] = x["users.dau"] * growth
    return made


def _active(demand: Demand, x: Mapping[str, Any]) -> Any:
    return x.get("fleet.active_parameters", demand.model.activated if demand.model else None)


def _flop(demand: Demand, x: Mapping[str, Any], made: Flow) -> Any:
    """FLOPs of a day [FLOP/day]; None where the model is not said. Attention is added where the context is."""
    active = _active(demand, x)
    if active is None:
        return None
    context = x.get("traffic.context")
    if "tokens.prompt" in x:
        context = x["tokens.prompt"] + x["tokens.history"] + x["tokens.output"] * x["tokens.reasoning"] / 2.0
    read = written = 2.0 * active
    if demand.model is not None and context is not None:
        read = read + _attention(demand.model, context, absorbed=False)
        written = written + _attention(demand.model, context, absorbed=True)
    return made["prefill"] * read + made["decode"] * written


def _attention(model: Shape, context: Any, *, absorbed: bool) -> Any:
    def of(tokens: float) -> float:
        return sum(block.count * block.attention.flops(tokens, absorbed=absorbed) for block in model.blocks)

    return np.vectorize(of, otypes=[float])(context) if np.ndim(context) else of(float(context))


def _accelerators(demand: Demand, x: Mapping[str, Any], made: Flow) -> None:
    if "fleet.utilisation" in x:
        peak = x.get("fleet.flops", demand.device.bf16_tflops * 1e12 if demand.device else None)
        rate = peak * x["fleet.utilisation"] / (2.0 * _active(demand, x))
        reading, writing = made["prefill"] / rate, made["decode"] / rate
    else:
        counted = made["prefill"] + (made["cached"] if demand.cached_takes == "prefill" else 0.0)
        reading, writing = counted / x["fleet.prefill"], made["decode"] / x["fleet.decode"]
    scale = demand.calibration / DAY_S
    made["accelerators_prefill"], made["accelerators_decode"] = reading * scale, writing * scale
    mean = made["accelerators"] = made["accelerators_prefill"] + made["accelerators_decode"]
    made["servers"] = mean / x["fleet.per_server"]
    made["peak_to_average"] = _peak(demand, x, made.get("answers"))
    bought = made["accelerators_peak"] = mean * made["peak_to_average"] * (1.0 + x["fleet.spare"])
    least = x["fleet.deployment"]
    made["servers_peak"] = np.ceil(bought / x["fleet.per_server"] / least * (1.0 - 1e-12)) * least
    _ratio(made, "tokens_per_accelerator", made["tokens"] / DAY_S, bought)
    if "fleet.utilisation" in x:
        _ratio(made, "flop_per_token", bought * peak * DAY_S, made["tokens"])


def _ratio(made: Flow, name: str, above: Any, below: Any) -> None:
    """above / below, left out where there is nothing to divide by."""
    if np.all(np.asarray(below) > LEAST):
        made[name] = above / below


def _peak(demand: Demand, x: Mapping[str, Any], answers: Any) -> Any:
    """Load to be met over mean load: of the day's shape, times what chance adds where questions are few.

    Questions arrive as a Poisson stream: in a window of `peak.window_s` there are more than mean + 1.645 sqrt(mean) of
    them one time in twenty.
    """
    factor = x["peak.to_average"]
    if demand.hours:
        ordered = np.asarray(demand.hours) / np.mean(demand.hours)
        factor = factor * np.maximum(1.0, np.quantile(ordered, x["peak.percentile"], method="higher"))
    if "peak.window_s" in x and answers is not None:
        arrivals = answers * factor / DAY_S * x["peak.window_s"]
        factor = factor * (1.0 + Z95 / np.sqrt(np.maximum(arrivals, 1e-9)))
    return factor


def _money(demand: Demand, x: Mapping[str, Any], made: Flow, year: float) -> None:
    cheaper = (1.0 + x["growth.performance_per_dollar"]) ** -year
    owned, rented = made["servers_peak"] * x["fleet.per_server"], made["accelerators"]
    if demand.billed == "average":
        owned = rented
    if "fleet.kw" in x:
        watts = x["fleet.kw"] * (1.0 + x["growth.performance_per_watt"]) ** -year
        made["power"] = made["servers_peak"] * x["fleet.per_server"] * watts / 1e3
    if "money.server" in x:
        made["capital"] = made["servers_peak"] * x["money.server"] * cheaper
        if "users" in made:
            _ratio(made, "capital_per_user", made["capital"], made["users"])
    if "money.gpu_hour" in x:
        made["bill"] = owned * x["money.gpu_hour"] * cheaper * 24.0 * YEAR_DAYS
    elif "money.server" in x and "money.life" in x:
        made["bill"] = made["capital"] * (1.0 / x["money.life"] + x["money.operations"])
        if "power" in made and "money.kwh" in x:
            made["bill"] = made["bill"] + made["power"] * 1e3 * 24.0 * YEAR_DAYS * x["money.kwh"]
    if "price.output" in x and "price.input" in x:
        sold = made["prefill"] * x["price.input"] + made["cached"] * x.get("price.cached", x["price.input"])
        dearer = (1.0 + x["growth.token_price"]) ** year
        made["revenue_day"] = (sold + made["decode"] * x["price.output"]) * dearer / 1e6
    if "bill" in made:
        _unit_costs(made)


def _unit_costs(made: Flow) -> None:
    """The bill by stream and by unit: each stream has the share that its accelerators have."""
    made["bill_day"] = made["bill"] / YEAR_DAYS
    for stream, counted in (("prefill", made["prefill"] + made["cached"]), ("decode", made["decode"])):
        _ratio(made, f"bill_{stream}", made["bill"] * made[f"accelerators_{stream}"], made["accelerators"])
        if f"bill_{stream}" in made:
            name = "input_cost" if stream == "prefill" else "output_cost"
            _ratio(made, name, made[f"bill_{stream}"] / YEAR_DAYS * 1e6, counted)
    if "answers" in made:
        _ratio(made, "answer_cost", made["bill_day"], made["answers"])
    if "revenue_day" in made:
        _ratio(made, "margin", (made["revenue_day"] - made["bill_day"]) * 100.0, made["bill_day"])
