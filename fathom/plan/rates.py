"""What replicas in service give: tokens per second and device, time per token, time to the first one.

aggregated: each replica reads prompts between decode steps. split: some only read, others only decode. Both at a fixed
number of requests in flight (flight.py). saturated: as many sequences as memory and a limit on the time per token
allow.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from fathom.errors import ConfigError
from fathom.plan import flight
from fathom.plan.flight import Flight, Policy, Seconds
from fathom.plan.knobs import Knobs, shipped
from fathom.plan.latency import Setup, Step, decode_step, prefill_step
from fathom.plan.memory import memory
from fathom.plan.offered import Load, Tails, tails

FIRST = ("start", "steps", "waits", "text")  # constants of the first token: first_token_s
STEP_TOKENS = 16384  # of prompts, that a rank reads in one step where it does nothing else
TRIED = 10  # rates, each the middle of what is left
LEAST = 256.0  # tokens of prompts that are told apart in a step
#: How engines read prompts: tokens of a step, and whether sequences go on meanwhile. SGLang stops them; the others mix.
#: As InferenceX starts them (benchmarks/single_node/fixed_seq_len).
ENGINES = {"sglang": Policy(chunk=16384, beside=False), "trtllm": Policy(chunk=8192), "vllm": Policy(chunk=16384)}


@dataclass(frozen=True)
class Rates:
    """Fields: tpot_s: (end to end - first token) / (tokens - 1). ttft_s: at a fixed number of requests in flight.
    output: tokens generated per second and device, of all devices. running: sequences of a replica that decode at a
    time, on average. step: their decode step. sd: relative, of tpot."""

    tpot_s: float
    ttft_s: float
    output: float
    running: float
    step: Step
    sd: float


@dataclass(frozen=True)
class Service:
    """Requests of `prompt` tokens, `concurrency` of them in flight, each answered with `output` tokens.

    Fields: decodes: a replica that decodes; reads: one that reads prompts for it, None: itself. replicas: how many
            (read, decode), all sharing the requests. poll: decode steps between two looks at the door (flight.Policy).
            ran: it did, so it fitted, whatever is counted of its memory.
    """

    decodes: Setup
    concurrency: float
    prompt: float
    output: float
    reads: Setup | None = None
    replicas: tuple[int, int] = (1, 1)
    poll: float = 1
    ran: bool = False

    def __post_init__(self) -> None:
        if min(self.replicas) < 1:
            raise ConfigError(
                f"{self.replicas[0]} replicas that read and {self.replicas[1]} that decode; use 1 or more."
            )
        if not (self.concurrency > 0 and self.prompt > 0 and self.output > 0):
            raise ConfigError(
                f"{self.concurrency:g} requests of {self.prompt:g} tokens, answered with {self.output:g}; each must be "
                f"above 0."
            )

    @property
    def context(self) -> float:
        """Tokens of a sequence that is decoded, on average."""
        return self.prompt + self.output / 2

    @property
    def devices(self) -> int:
        """All devices."""
        if self.reads is None:
            return self.replicas[1] * self.decodes.devices
        return self.replicas[0] * self.reads.devices + self.replicas[1] * self.decodes.devices

    @property
    def each(self) -> float:
        """Requests in flight of a decoding replica."""
        return self.concurrency / self.replicas[1]


def measured(service: Service, knobs: Knobs | None = None) -> Rates:
    """What a run measures. Raises: ConfigError: no sequence fits in memory."""
    knobs = knobs or shipped()
    found = fly(service, knobs)
    tpot = found.token_s
    rate = service.concurrency / (tpot * max(1.0, service.output - 1) + found.first_s)  # requests per second
    running = max(1e-3, min(service.each, rate / service.replicas[1] * service.output * tpot))
    step = decode_step(service.decodes, running, service.context, knobs)
    full = decode_step(service.decodes, max(1.0, service.each), service.context, knobs)
    ttft = first_token_s(service, found.first_s, full.seconds, knobs)
    return Rates(tpot, ttft, rate * service.output / service.devices, running, step, step.sd)


@lru_cache(maxsize=4096)
def fly(service: Service, knobs: Knobs) -> Flight:
    """The requests of a run, followed (flight.py)."""
    decodes, reads = service.decodes, service.reads or service.decodes
    most = memory(decodes).sequences(service.prompt + service.output)
    if most < 1 and service.ran:
        most = math.inf
    if most < 1:
        raise ConfigError(
            f"{decodes.shape.name} on {decodes.devices} x {decodes.device.name} leaves no room for a sequence of "
            f"{service.prompt + service.output:g} tokens; use more devices or fewer bits."
        )
    top = max(1.0, min(service.each, most))
    sizes = doubling(1.0, top)
    step_s = between(sizes, [decode_step(decodes, n, service.context, knobs).seconds / decodes.accepted for n in sizes])
    policy = ENGINES.get(reads.engine, Policy()) if service.reads is None else Policy(chunk=STEP_TOKENS)
    lanes = reads.layout.dp
    chunk = max(policy.chunk, 2 * service.prompt if reads.engine == "vllm" else 0.0) * lanes
    together = top if policy.beside and service.reads is None else 0.0
    read_s = _reading(reads, service.prompt, chunk, knobs, together)
    if service.reads is None:
        policy = replace(policy, chunk=chunk, poll=service.poll, gather=lanes, most=most)
        return flight.mixed(service.each, service.prompt, service.output, step_s, read_s, policy)
    mine = service.concurrency / service.replicas[0]
    load = service.replicas[0] / service.replicas[1]

    def decode_s(running: float) -> float:
        return step_s(max(1.0, running * load))

    return flight.split(mine, service.prompt, service.output, decode_s, read_s, replace(policy, chunk=chunk))


def _reading(setup: Setup, prompt: float, chunk: float, knobs: Knobs, beside: float = 0.0) -> Seconds:
    """Seconds of a step that reads so many tokens of prompts, up to `chunk`.

    Args: beside: sequences that go on in the same step, whose products read the weights anyway; then what it adds.
    """
    tokens = doubling(min(prompt, LEAST), max(chunk, 2 * prompt))
    share = knobs.of(setup.keys, setup.date).prompt
    shared = prefill_step(setup, beside, 0.0, prompt, knobs).seconds if beside else 0.0
    return between(
        tokens, [(prefill_step(setup, n + beside, 0.0, prompt, knobs).seconds - shared) * share for n in tokens]
    )


def first_token_s(service: Service, waited: float, step_s: float, knobs: Knobs | None = None) -> float:
    """Seconds to the first token: what a request waits for others and its own prompt, some steps, the text of all that
    are in flight, and the way in and out.

    Args: waited: as flight.py says.
    """
    knobs, keys = knobs or shipped(), first_keys(service)
    return sum(math.exp(knobs.total(name, keys)) * term for name, term in
               zip(FIRST, first_terms(service, waited, step_s), strict=True))  # fmt: skip


def first_terms(service: Service, waited: float, step_s: float) -> tuple[float, ...]:
    """What each of FIRST is multiplied with [s]; the text: a microsecond for each token of a prompt in flight."""
    return 1.0, step_s, waited, service.prompt * service.concurrency / service.replicas[1] * 1e-6


def first_keys(service: Service) -> tuple[str, ...]:
    """What the constants of the first token are named by."""
    return (f"first {service.decodes.engine} {'mixed' if service.reads is None else 'split'}",)


def saturated(
    setup: Setup, prompt: float, output: float, *, tpot_s: float = math.inf, variation: float = 0.0,
    knobs: Knobs | None = None,
) -> Rates | None:  # fmt: skip
    """The most that a replica gives within its memory and a time per token; None: no sequence fits, or none in time.

    Prompts fill whole steps, and are always there. Args: variation: squared, of the lengths of answers; a long one is
    met more often than a short one, and so the mean context grows.
    """
    if not (prompt > 0 and output > 0):
        raise ConfigError(f"prompts of {prompt:g} tokens and answers of {output:g}; both must be above 0.")
    knobs = knobs or shipped()
    context = prompt + output * (1 + variation) / 2
    most = memory(setup).sequences(context + 0.1 * output)  # ends are spread out, so few have their full length
    most = min(most, 4096 * setup.layout.dp)
    tokens = STEP_TOKENS * setup.layout.dp
    reading = prefill_step(setup, tokens, 0.0, prompt, knobs).seconds * prompt / tokens
    best = None
    count = float(setup.layout.dp)
    while count <= most:
        step = decode_step(setup, count, context, knobs)
        tpot = step.seconds / setup.accepted + count / output * reading
        rate = count / tpot / setup.devices
        if tpot <= tpot_s and (best is None or rate > best.output):
            best = Rates(tpot, reading, rate, count, step, step.sd)
        count *= 1.25
    return best


@lru_cache(maxsize=1024)
def served(
    setup: Setup, prompt: float, output: float, *, first_s: float, token_s: float, variation: float = 0.0,
    knobs: Knobs | None = None,
) -> Rates | None:  # fmt: skip
    """The largest rate of requests at random at which 99 of 100 keep limits on the first token and the time per token.

    None: not even a small one.

    Args: first_s, token_s: the limits [s]. variation: as saturated takes it.
    """
    knobs = knobs or shipped()
    context = prompt + output * (1 + variation) / 2
    most = min(memory(setup).sequences(context + 0.1 * output), 4096 * setup.layout.dp)
    if most < 1:
        return None
    lanes, policy = setup.layout.dp, ENGINES.get(setup.engine, Policy())
    sizes = doubling(float(lanes), most)
    step_s = between(sizes, [decode_step(setup, n, context, knobs).seconds for n in sizes])
    read_s = _reading(setup, prompt, policy.chunk * lanes, knobs, lanes if policy.beside else 0.0)
    start, steps, waits = (math.exp(knobs.total(name, (f"first {setup.engine} mixed",))) for name in FIRST[:3])

    def tried(rate: float) -> Tails | None:
        load = Load(rate, prompt, output, variation, setup.accepted, lanes, policy.chunk * lanes)
        found = tails(load, step_s, read_s)
        if not (found.running <= most and found.token_s <= token_s):
            return None
        return found if start + steps * step_s(found.running) + waits * found.first_s <= first_s else None

    high = most * setup.accepted / step_s(most) / output
    low, best = 0.0, None
    for _ in range(TRIED):
        middle = (low + high) / 2
        if found := tried(middle):
            low, best = middle, found
        else:
            high = middle
    if best is None:
        return None
    step = decode_step(setup, best.running, context, knobs)
    return Rates(best.mean_s, best.first_s, low * output / setup.devices, best.running, step, step.sd)


def reading(setup: Setup, tokens: float, prompt: float, cached: float = 0.0, knobs: Knobs | None = None) -> float:
    """Prompt tokens per second and device of a replica that only reads. Args: tokens: of a dp rank, in a step."""
    step = prefill_step(setup, tokens * setup.layout.dp, cached, prompt, knobs)
    return tokens * setup.layout.dp / step.seconds / setup.devices


def doubling(first: float, last: float) -> list[float]:
    """first, twice as much, ... up to `last` or beyond; at least two."""
    found = [first, 2 * first]
    while found[-1] < last:
        found.append(2 * found[-1])
    return found


def between(at: Sequence[float], values: Sequence[float]) -> Seconds:
    """A function through these points: straight lines, the first value before and the last line beyond."""
    slopes = [(b - a) / (y - x) for a, b, x, y in zip(values, values[1:], at, at[1:], strict=False)]

    def value(x: float) -> float:
        place = min(max(0, bisect_left(at, x) - 1), len(slopes) - 1)
        return values[place] + slopes[place] * (max(x, at[0]) - at[place])

    return value
