"""What this machine does, measured for a device profile: kernels alone, then steps of the whole engine.

Kernels: weights read from caches and memory, products of few and many rows, forwards without scheduler and sampler.
Engine points: decode steps and chunks of prompts at chosen sizes, scheduler and sampler included (bench.py's engine).
All points share one engine and the beginnings of the same random texts, so each context is computed once; points are
measured in turns, each in another order, so that a slower moment falls on all of them, and count with their medians.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from random import Random
from statistics import median
from time import perf_counter

import torch
from msgspec.structs import replace as change

from fathom.batching.plan import Sampling
from fathom.batching.request import Request, SamplingParams
from fathom.cost import cache_bytes_per_token
from fathom.engine.bench import PAGE_TOKENS, WARM_UP_TOKENS, Dictated
from fathom.engine.engine import Engine, EngineConfig
from fathom.engine.limits import CACHED_BYTES
from fathom.engine.machine import kind as kind_of
from fathom.engine.sampler import choose
from fathom.errors import ConfigError, EngineError
from fathom.model import Model, PackedTransformer
from fathom.ops.speed import LARGE_BYTES, PEAK_SIZE, Reads, multiply_adds_per_s, step_s

FOOTPRINTS = (CACHED_BYTES, 32 << 20, LARGE_BYTES)  # read over and over: what caches of several sizes hold
PRODUCT_ROWS = (1, 8, 64)
FORWARD_ROWS = (1, 2, 4, 8, 16, 64, 256, 512)
# (sequences, tokens, context): what attention adds to a forward; two prompts among them
ATTENTION = ((1, 1, 1024), (8, 1, 256), (16, 1, 1024), (32, 1, 1920), (1, 64, 1024), (1, 256, 512))
TURNS = 3  # of all kernels: the shortest counts, and of attention, which is a difference, the median
MOST_CACHE_BYTES = 1 << 28  # of latents in a kernel
LEAST, ENOUGH_S = 3, 0.15  # runs of a kernel, at least; no more once they have taken so long
# How a token may be chosen: the likeliest, with noise, and among some tokens only.
SAMPLING = {
    "greedy": SamplingParams(temperature=0.0),
    "drawn": SamplingParams(temperature=1.0),
    "filtered": SamplingParams(temperature=1.0, top_p=0.95),
}
DECODED, CHUNKS, FEWEST = 12, 3, 3  # steps of a sample of a decode, and of a chunk; samples of a point
Clock = Callable[[], float]


@dataclass(frozen=True)
class Kernel:
    """One kernel, alone: `tokens` rows in each of `sequences`, after `context` tokens; its time [s].

    threads: of the team that did it. Of "read", bytes: how many, over and over. Of "product", multiply_adds. "forward"
    is the model without its head, at the beginning of texts; "attention" what a context adds to that; "drawn" and
    "filtered" the choice of a token.
    """

    name: str
    seconds: float
    sequences: int = 1
    tokens: int = 1
    context: int = 0
    bytes: float = 0.0
    multiply_adds: float = 0.0
    threads: int = 1


@dataclass(frozen=True)
class Size:
    """A step to measure: `tokens` new ones in each of `sequences` after `context`, and how the next ones are chosen."""

    sequences: int
    tokens: int
    context: int
    sampling: str = "greedy"


@dataclass(frozen=True)
class Sample:
    """A step of the engine, measured: the median over its samples and all of them [s].

    logged_s: the median of what a step log tells, which ends before the scheduler takes the tokens in.
    """

    step: Size
    seconds: float
    logged_s: float
    samples: tuple[float, ...]


# ---- kernels -------------------------------------------------------------------------------------------------------


def count_kernels() -> int:
    """How many `kernels` measures."""
    return len(FOOTPRINTS) + len(PRODUCT_ROWS) + len(FORWARD_ROWS) + len(ATTENTION) + len(SAMPLING) - 1


def kernels(model: Model, clock: Clock = perf_counter) -> Iterator[Kernel]:
    """Each kernel after its last turn: all are measured in turns, so that a slower moment falls on few of any of them.

    Raises: ConfigError: the model does not run on the native kernels.
    """
    if not isinstance(model, PackedTransformer):
        raise ConfigError(
            "a profile is taken of the native kernels, which this machine lacks; install a C compiler (gcc or clang)."
        )
    turns = zip(*[list(_kernels(model, clock)) for _ in range(TURNS)], strict=True)
    for taken in turns:
        counts = median if taken[0].name == "attention" else min
        yield replace(taken[0], seconds=counts([k.seconds for k in taken]))


def _kernels(model: PackedTransformer, clock: Clock) -> Iterator[Kernel]:
    """One turn."""
    kind, threads = kind_of(model), model.kernels.threads
    measured = partial(Kernel, threads=threads)
    for footprint in FOOTPRINTS:
        yield measured("read", step_s(kind, Reads(footprint), threads), bytes=footprint)
    for rows in PRODUCT_ROWS:
        rate = multiply_adds_per_s(kind, threads, rows=rows)
        multiply_adds = float(rows * math.prod(PEAK_SIZE))
        yield measured("product", multiply_adds / rate, rows, multiply_adds=multiply_adds)
    for rows in FORWARD_ROWS:
        yield measured("forward", Forward(model, rows, 1, 0, clock).seconds(), rows)
    longest = model.config.max_position_embeddings
    for sequences, tokens, context in ATTENTION:
        tokens = min(tokens, longest // 2)
        room = MOST_CACHE_BYTES // sequences // cache_bytes_per_token(model.config)
        context = max(1, min(context, longest - tokens, room - tokens))
        late, early = Forward(model, sequences, tokens, context, clock), Forward(model, sequences * tokens, 1, 0, clock)
        added = max(1e-9, late.seconds() - early.seconds())
        yield measured("attention", added, sequences, tokens, context)
    logits = torch.randn(1, model.config.vocab_size, generator=torch.Generator().manual_seed(0))
    for name in ("drawn", "filtered"):
        yield measured(name, _settled(partial(_choice, logits, SAMPLING[name], clock)))


def _choice(logits: torch.Tensor, params: SamplingParams, clock: Clock) -> float:
    """Time to choose one token [s]."""
    began = clock()
    choose(logits, [Sampling(1, params)])
    return clock() - began


def _settled(run: Callable[[], float]) -> float:
    """The lower quartile of some runs [s]: of a kernel's times, what was disturbed is the larger half."""
    taken: list[float] = []
    run()
    while len(taken) < LEAST or sum(taken) < ENOUGH_S:
        taken.append(run())
    return sorted(taken)[len(taken) // 4]


class Forward:
    """The model's forward of `tokens` random tokens in each of `sequences`, after a context of random latents."""

    def __init__(
        self, model: PackedTransformer, sequences: int, tokens: int, context: int, clock: Clock = perf_counter
    ) -> None:
        self._model, self._clock = model, clock
        rows, pages = sequences * tokens, -(-(context + tokens) // PAGE_TOKENS)
        self._draw = torch.Generator().manual_seed(rows + context)
        self._cache = model.new_cache(sequences * pages, PAGE_TOKENS, mtp=False)
        for held in (self._cache.latent, self._cache.rope):
            held.normal_(generator=self._draw)
        table = torch.arange(sequences * pages, dtype=torch.int32).view(sequences, pages)
        positions = torch.arange(context, context + tokens).repeat(sequences)
        self._batch = (positions, [tokens] * sequences, table, self._cache.latent, self._cache.rope)
        self._shape = (rows,)

    def seconds(self) -> float:
        """The time of one [s]."""
        return _settled(self._run)

    def _run(self) -> float:
        ids = torch.randint(self._model.config.vocab_size, self._shape, generator=self._draw)
        began = self._clock()
        self._model.kernels.forward(ids, *self._batch)
        return self._clock() - began


# ---- the engine ----------------------------------------------------------------------------------------------------


class Probe:
    """One engine that is measured at many sizes. clock: what times its steps."""

    def __init__(self, model: Model, steps: Sequence[Size], *, seed: int = 0, clock: Clock = perf_counter) -> None:
        """Room for each of `steps`."""
        longest = model.config.max_position_embeddings
        for step in steps:
            needed = step.context + max(step.tokens, 2 * DECODED + WARM_UP_TOKENS) + 1
            if needed > longest:
                raise ConfigError(
                    f"a step after {step.context} tokens needs {needed} positions; the model has {longest}. Lower it."
                )
            if step.tokens > 1 and (step.sequences > 1 or step.context % PAGE_TOKENS):
                raise ConfigError(
                    f"a chunk of a prompt is one sequence's, after whole pages of {PAGE_TOKENS} tokens, not {step}."
                )
        sequences = max(step.sequences for step in steps)
        pages = sum(
            -(-max(s.context + s.tokens + DECODED for s in steps if s.sequences > i) // PAGE_TOKENS) + 2
            for i in range(sequences)
        )
        config = EngineConfig(
            max_batch_tokens=max(EngineConfig.max_batch_tokens, sequences * PAGE_TOKENS, *(s.tokens for s in steps)),
            max_sequences=sequences,
            num_pages=2 * pages + 64,  # what a sample leaves behind is evicted before the texts are
            spec="off",
        )
        self.engine = Engine(model, config=config)
        self.engine.runner = Dictated(model, self.engine.cache).dictate(seed)
        self.steps, self._clock, self._names = tuple(steps), clock, 0
        self._vocabulary, self._random = model.config.vocab_size, Random(f"chunks of {seed}")
        length = max(step.context for step in steps) + 1
        self._texts = [self._drawn(length, Random(f"{seed}/{i}")) for i in range(sequences)]

    def warm_up(self, step: Size) -> None:
        """Compute the contexts of a step."""
        for text in self._texts[: step.sequences]:
            self._run(text[: max(1, step.context)])

    def sample(self, step: Size) -> tuple[float, float]:
        """One sample of a step [s], and of what a log tells of it: medians over some steps."""
        return self._chunk(step) if step.tokens > 1 else self._decode(step)

    def _decode(self, step: Size) -> tuple[float, float]:
        for text in self._texts[: step.sequences]:  # then all find their prompts in the cache, and begin together
            self._run(text[: max(1, step.context)])
        for text in self._texts[: step.sequences]:
            self._add(text[: max(1, step.context)], WARM_UP_TOKENS + DECODED, step.sampling)
        taken = [self._step(step.sequences) for _ in range(WARM_UP_TOKENS + DECODED)]
        if self.engine.has_work:
            raise EngineError(f"a sample of {step} left some of its sequences unfinished; report this.")
        whole, logged = zip(*taken[WARM_UP_TOKENS:], strict=True)
        return median(whole), median(logged)

    def _chunk(self, step: Size) -> tuple[float, float]:
        """Several in a row, each of another prompt, the first of them only to come into swing."""
        context, taken = self._texts[0][: step.context], []
        if step.context:
            self._run(context)
        for _ in range(1 + CHUNKS):
            self._add((*context, *self._drawn(step.tokens, self._random)), 1, step.sampling)
            before = self.engine.stats().computed_tokens
            taken.append(self._step(1))
            computed = self.engine.stats().computed_tokens - before
            if computed != step.tokens or self.engine.has_work:
                raise EngineError(f"a sample of {step} computed {computed} tokens; report this.")
        whole, logged = zip(*taken[1:], strict=True)
        return median(whole), median(logged)

    def _run(self, prompt: tuple[int, ...]) -> None:
        self._add(prompt, 1)
        while self.engine.has_work:
            self.engine.step()

    def _add(self, prompt: tuple[int, ...], tokens: int, sampling: str = "greedy") -> None:
        self._names += 1
        params = change(SAMPLING[sampling], max_tokens=tokens, ignore_eos=True, seed=self._names)
        self.engine.add(Request(str(self._names), prompt, params))

    def _step(self, expected: int) -> tuple[float, float]:
        began = self._clock()
        outputs = self.engine.step()
        taken = self._clock() - began
        if sum(len(output.token_ids) for output in outputs) != expected:
            raise EngineError(f"a measured step gave tokens to fewer than its {expected} sequences; report this.")
        return taken, self.engine.step_s

    def _drawn(self, tokens: int, random: Random) -> tuple[int, ...]:
        return tuple(random.randrange(self._vocabulary) for _ in range(tokens))


def measure(
    probe: Probe, repeats: int, *, seconds: float = math.inf, seen: Callable[[Size, int, float], None] | None = None
) -> list[Sample]:
    """Every step of the probe `repeats` times, in turns; fewer, but no less than FEWEST, once `seconds` have passed.

    Args: seen: hears of each sample: its step, the turn, its time [s].
    """
    if repeats < 1:
        raise ConfigError(f"repeats is {repeats}; it must be at least 1.")
    taken: list[list[tuple[float, float]]] = [[] for _ in probe.steps]
    order, began, random = list(range(len(probe.steps))), perf_counter(), Random(repeats)
    for i in sorted(order, key=lambda i: -probe.steps[i].context):
        probe.warm_up(probe.steps[i])
    for repeat in range(repeats):
        if repeat >= FEWEST and perf_counter() - began > seconds:
            break
        random.shuffle(order)
        for i in order:
            taken[i].append(probe.sample(probe.steps[i]))
            if seen is not None:
                seen(probe.steps[i], repeat, taken[i][-1][0])
    found = []
    for step, samples in zip(probe.steps, taken, strict=True):
        whole, logged = zip(*samples, strict=True)
        found.append(Sample(step, median(whole), median(logged), whole))
    return found
