"""What one replica can do: every layout that fits, and its step times as curves over batch and chunk.

    setups(shape, device, ...)        layouts, copies of experts, overlap, drafts, precisions that a replica may have
    Curve(setup, workload)            seconds of a step against sequences, or against tokens of prompts

A Workload is what is asked: lengths, hits, targets. Nothing here chooses; search.py does.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

from fathom.config import ModelConfig
from fathom.errors import ConfigError
from fathom.layout import Layout
from fathom.plan.hardware import Device
from fathom.plan.knobs import shipped
from fathom.plan.latency import Setup, Step, decode_step, prefill_step
from fathom.plan.memory import memory
from fathom.plan.shape import Shape

STEPS_PER_OCTAVE = 3  # points of a curve from one number of sequences to its double: between them it is a straight line
MOST_TP, MOST_PP = 8, 4
MOST_DRAFTS = 4
MOST_COPIES = 0.25  # of the experts: what DeepSeek's own largest pool adds (64 of 256, arXiv:2412.19437, section 3.4)
MOST_SEATS = 4096  # requests of a lane, where a model keeps next to nothing of each
LEAST_CHUNK = 64  # the smallest that is looked at: what is left of a prompt
OWN = (
    "dense products",
    "attention",
    "passes",
    "host",
    "all-reduce",
)  # parts of a step that a lane spends on its own tokens
CHUNKS = (512, 1024, 2048, 4096, 8192, 16384)  # prompt tokens of a lane in one step


@dataclass(frozen=True)
class Workload:
    """What is asked of a service.

    Fields: input, output: tokens of a request, on average. hit: share of the input whose cache exists already.
            ttft_s, tpot_s: targets that `percentile` of the requests keep; tpot is (end to end - ttft) / (output - 1).
            rps: requests per second on average, or gpus: how many there are; neither: per GPU. peak: the rate of the
            busiest hour over the average.
    """

    input: int = 4096
    output: int = 1024
    hit: float = 0.0
    ttft_s: float = 2.0
    tpot_s: float = 0.05
    percentile: float = 90.0
    rps: float | None = None
    gpus: int | None = None
    peak: float = 1.0

    def __post_init__(self) -> None:
        for name, unit in (("input", "tokens"), ("output", "tokens"), ("ttft_s", "s"), ("tpot_s", "s")):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ConfigError(f"{name} is {value:g} {unit}; it must be above 0.")
        if self.output < 2:
            raise ConfigError("output is 1 token, which has no time per token; ask for 2 or more.")
        if not 0.0 <= self.hit < 1.0:
            raise ConfigError(f"hit is {self.hit:g}; it must be a share of at least 0 and below 1, such as 0.5.")
        if not 1.0 <= self.percentile < 100.0:
            raise ConfigError(f"percentile is {self.percentile:g}; it must be at least 1 and below 100, such as 90.")
        if not (math.isfinite(self.peak) and self.peak >= 1.0):
            raise ConfigError(f"peak is {self.peak:g}; the busiest hour has at least the average rate, 1.")
        if self.rps is not None and self.gpus is not None:
            raise ConfigError("rps and gpus are both given; one follows from the other, so give one.")
        if self.rps is not None and not (math.isfinite(self.rps) and self.rps > 0):
            raise ConfigError(f"rps is {self.rps:g} requests/s; it must be above 0.")
        if self.gpus is not None and self.gpus < 1:
            raise ConfigError(f"gpus is {self.gpus}; it must be at least 1.")

    @property
    def computed(self) -> float:
        """Tokens of a prompt that are computed; at least the last one."""
        return max(1.0, self.input * (1.0 - self.hit))

    @property
    def cached(self) -> float:
        """Tokens of a prompt that are found."""
        return self.input - self.computed

    @property
    def context(self) -> float:
        """Tokens that a request has behind it while it decodes, on average."""
        return self.input + self.output / 2

    @property
    def sigmas(self) -> float:
        """Standard deviations above the mean that the percentile lies; none for those below the median."""
        return max(0.0, NormalDist().inv_cdf(self.percentile / 100))


@dataclass(frozen=True)
class Choices:
    """What may be varied. gpus: of one replica, at most. precisions: "" is the checkpoint's. mtp: drafts per step."""

    gpus: int = 320
    precisions: tuple[str, ...] = ("",)
    caches: tuple[str, ...] = ("bf16",)
    mtp: tuple[int, ...] = (0, 1)
    acceptance: float = 0.8
    overlap: tuple[bool, ...] = (False, True)
    split: tuple[bool, ...] = (False, True)
    engine: str = ""

    def __post_init__(self) -> None:
        for name in ("precisions", "caches", "mtp", "overlap", "split"):
            if not getattr(self, name):
                raise ConfigError(f"{name} names nothing to try; name one, or leave it out.")
        if wrong := [n for n in self.mtp if not 0 <= n <= MOST_DRAFTS]:
            raise ConfigError(f"mtp is {wrong[0]}; an engine drafts 0 to {MOST_DRAFTS} tokens a step.")
        if self.gpus < 1:
            raise ConfigError(f"gpus of a replica is {self.gpus}; it must be at least 1.")
        known = sorted(key.removeprefix("engine ") for key in shipped().added if key.startswith("engine "))
        if self.engine and self.engine not in known:
            named = [name for name in known if name]
            raise ConfigError(f"engine {self.engine!r} was never measured; use {', '.join(named)}, or none.")


def setups(shape: Shape, device: Device, choices: Choices, config: ModelConfig | None = None) -> Iterator[Setup]:
    """Every way to lay out one replica, whether it fits or not.

    Args: config: of a DeepSeek model; it knows more about what divides (Layout.check).
    """
    drafts = sorted({n if shape.mtp else 0 for n in choices.mtp})
    for layout, copies in layouts(shape, device, choices.gpus, config):
        for overlap in sorted({flag and layout.ep > 1 for flag in choices.overlap}):
            for precision in choices.precisions:
                for cache in choices.caches:
                    for mtp in drafts:
                        yield Setup(
                            shape, device, layout, precision=precision, cache=cache, engine=choices.engine, mtp=mtp,
                            acceptance=choices.acceptance, overlap=overlap, redundant=copies,
                        )  # fmt: skip


def layouts(shape: Shape, device: Device, most: int, config: ModelConfig | None = None) -> Iterator[tuple[Layout, int]]:
    """(layout, copies of experts per layer) of replicas of up to `most` ranks.

    Models with experts spread them over all ranks of a stage (ep = dp * tp), so that dp lanes of attention share them;
    others have one lane. tp stays within the fast links, and divides the heads.
    """
    experts = shape.moe.experts if shape.moe else 0
    for stage in stage_sizes(most):
        for tp in (1, 2, 4, 8):
            if tp > min(stage, device.link_world, MOST_TP) or stage % tp or not _divides(shape, tp):
                continue
            if not experts and stage != tp:
                continue
            layout = Layout(dp=stage // tp, tp=tp, ep=stage if experts else 1)
            for copies in _copies(experts, stage):
                for pp in (1, 2, MOST_PP):
                    if pp * stage > most or (pp > 1 and (stage > device.link_world or pp > shape.layers)):
                        continue
                    if device.network_gbs is None and (pp > 1 or stage > device.link_world):
                        continue  # nothing leads from one machine to another
                    made = replace(layout, pp=pp)
                    if _allowed(made, copies, config):
                        yield made, copies


def stage_sizes(most: int) -> Iterator[int]:
    """Ranks of a stage: parts of a node of 8, then whole nodes."""
    yield from (n for n in (1, 2, 4) if n <= most)
    yield from range(8, most + 1, 8)


def _divides(shape: Shape, tp: int) -> bool:
    return all(
        block.attention.heads % tp == 0 and (block.attention.kv_heads % tp == 0 or tp % block.attention.kv_heads == 0)
        for block in shape.blocks
    )


def _copies(experts: int, ranks: int) -> Iterator[int]:
    """The fewest copies with which experts divide among ranks, and one more for each rank, if that is few enough."""
    if not experts or ranks == 1:
        yield 0
        return
    least = -experts % ranks
    yield from (n for n in (least, least + ranks) if n <= MOST_COPIES * experts)


def _allowed(layout: Layout, copies: int, config: ModelConfig | None) -> bool:
    if config is None:
        return True
    try:
        layout.check(config, copies)
    except ConfigError:
        return False
    return True


class Curve:
    """A step's seconds against its load, computed on a fixed grid when it is asked for and straight between.

    Args: step: load -> Step. Attributes: known: what was computed, by load.
    """

    def __init__(self, step: Callable[[float], Step], least: float, most: float) -> None:
        self._step, self.most = step, most
        count = max(1, math.ceil(math.log2(max(most / least, 1.0)) * STEPS_PER_OCTAVE) + 1)
        self.grid = [least * 2 ** (i / STEPS_PER_OCTAVE) for i in range(count)]
        self.known: dict[float, Step] = {}

    def step(self, load: float) -> Step:
        """The Step at the nearest grid point from above: what it consists of."""
        return self._at(self.grid[min(bisect_left(self.grid, load), len(self.grid) - 1)])

    def seconds(self, load: float) -> float:
        """Of a step with so much to do; below the grid, as at its first point [s]."""
        index = bisect_left(self.grid, load)
        if index == 0 or len(self.grid) == 1:
            return self._at(self.grid[0]).seconds
        index = min(index, len(self.grid) - 1)
        low, high = self.grid[index - 1 : index + 1]
        first, second = self._at(low).seconds, self._at(high).seconds
        return first + (second - first) * (load - low) / (high - low)

    def _at(self, load: float) -> Step:
        if load not in self.known:
            self.known[load] = self._step(load)
        return self.known[load]


@dataclass(frozen=True)
class Replica:
    """One setup that fits, with its curves.

    Fields: room: tokens of cache; seats: requests that they hold. mixed: what prompts add to a step of decodes, over
            what they take alone (knobs.py).
    """

    setup: Setup
    room: float
    seats: float
    decode: Curve
    prefill: Curve
    mixed: float = 1.0

    @property
    def gpus(self) -> int:
        """Ranks of it."""
        return self.setup.layout.world_size

    @property
    def lanes(self) -> int:
        """Batches side by side: data-parallel attention."""
        return self.setup.layout.dp

    @property
    def own_prefill(self) -> float:
        """Share of a step of prompts that a lane spends on its own."""
        return lane_share(self.prefill.step(CHUNKS[1] * self.lanes))

    @property
    def own_decode(self) -> float:
        """The same of a step of decodes, half full."""
        return lane_share(self.decode.step(max(self.lanes, self.seats / 2)))


def replicas(found: Iterator[Setup] | Sequence[Setup], workload: Workload) -> Iterator[Replica]:
    """Those setups that have room for one request in every lane at least."""
    for setup in found:
        if (one := replica(setup, workload)) is not None:
            yield one


def replica(setup: Setup, workload: Workload) -> Replica | None:
    """A setup with its curves for a workload; None: it does not fit."""
    dp, held = setup.layout.dp, memory(setup)
    if held.sequences(workload.input + workload.output) < dp:
        return None
    seats = min(held.sequences(workload.context), MOST_SEATS * dp)
    knob = shipped().of(setup.keys, setup.date)
    return Replica(
        setup, min(held.room, seats * workload.context), seats,
        decode=decode_curve(setup, workload.context, seats),
        prefill=Curve(
            lambda load: prefill_step(setup, load, workload.cached, workload.computed), LEAST_CHUNK * dp,
            CHUNKS[-1] * dp,
        ),
        mixed=knob.prompt,
    )  # fmt: skip


def decode_curve(setup: Setup, context: float, most: float) -> Curve:
    """A step of decodes against sequences of the replica, from one for each lane on."""
    dp = setup.layout.dp
    return Curve(lambda load: decode_step(setup, load, context), dp, max(most, dp))


def lane_share(step: Step) -> float:
    """Share of a step that each lane spends on its own tokens; experts, exchanges and launches are of all together."""
    times = {part.name: part.seconds - part.hidden for part in step.parts}
    total = sum(times.values())
    return sum(times.get(name, 0.0) for name in OWN) / total if total > 0 else 1.0
