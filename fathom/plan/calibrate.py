"""A device profile: what one machine measured of our own engine, and hence how long its steps take, with intervals.

    points = choose(config, kind, kernels)     where to measure the engine (engine/probe.py measures)
    profile = calibrated(...)                  the posterior
    predict(profile, step)                     a Quantity; decode(...), prefill(...) for the plain cases
    drift(profile, steps)                      whether steps that were served still lie where they should (drift.py)

A profile is good for the machine, model, width of weights and threads that it was taken with: its kernels are that
model's own. The file is JSON, and holds the measurements too, so that it can be judged and fitted again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import numpy as np

from fathom.config import ModelConfig, build, read_json
from fathom.cost import Kind
from fathom.errors import ConfigError, InputError
from fathom.plan.ownstep import PARTS, Choice, Group, Kernel, Rates, Step, near_keys, part_seconds, place, prior
from fathom.plan.posterior import Array, Fit, choose, fit, student_quantile
from fathom.plan.quantity import COVERAGE, Quantity

FORMAT, VERSION = "fathom device profile", 2
PAGE_TOKENS = 16  # contexts of chunks are whole pages
SEQUENCES = (1, 2, 4, 8, 16, 32)
CONTEXTS = (16, 64, 256, 512, 1024, 2048, 4096, 8192, 16384)
CHUNKS = (16, 64, 128, 256, 512)
POINTS = 16
STRETCHES = 5  # of turns, that show how a machine moves
ROOM = 64  # positions that a measurement leaves free


@dataclass(frozen=True)
class Machine:
    """Where a profile was taken, and with what."""

    processor: str
    cores: int
    threads: int
    kernels: str
    version: str
    torch: str
    commit: str | None = None


@dataclass(frozen=True)
class Point:
    """A measured step of the engine. seconds: the median over its samples. logged_s: the same of what a step log tells,
    which ends before the scheduler takes the tokens in.
    """

    sequences: int
    tokens: int
    context: int
    seconds: float
    logged_s: float
    samples: tuple[float, ...] = ()
    sampling: Choice = "greedy"

    @property
    def group(self) -> Group:
        return Group(self.sequences, self.tokens, self.context, self.sampling)

    @property
    def step(self) -> Step:
        return (self.group,)


@dataclass(frozen=True)
class Profile:
    """One machine with one model.

    Fields: created: when, ISO 8601. kind: of the weights. digest: of the model's configuration, as step logs have it.
            whole, logged: posterior of steps, and of what a step log tells of them; its factors are those of `parts`.
            others_share: what others took of the processors meanwhile, 0 to 1.
    """

    created: str
    machine: Machine
    model: str
    config: dict[str, Any]
    kind: Kind
    digest: str
    kernels: tuple[Kernel, ...]
    points: tuple[Point, ...]
    whole: Fit
    logged: Fit
    others_share: float = 0.0
    parts: tuple[str, ...] = tuple(part.name for part in PARTS)
    format: str = FORMAT
    version: int = VERSION

    def __post_init__(self) -> None:
        if self.parts != tuple(part.name for part in PARTS) or len(self.whole.mean) != len(PARTS):
            raise ConfigError(f"its factors are {', '.join(self.parts)}; this version has others. Calibrate again.")
        _rates(ModelConfig.from_dict(self.config), self.kind, self.kernels)

    def work(self, steps: Sequence[Step]) -> Array:
        """The parts of each step at the speed of the kernels [s]."""
        config = ModelConfig.from_dict(self.config)
        rates = _rates(config, self.kind, self.kernels)
        return np.array([part_seconds(config, self.kind, rates, step) for step in steps])


def _rates(config: ModelConfig, kind: Kind, kernels: Sequence[Kernel]) -> Rates:
    return Rates.of(kernels, near_keys(config, kind))


def calibrated(
    created: str, machine: Machine, model: str, config: ModelConfig, kind: Kind, digest: str,
    kernels: Sequence[Kernel], points: Sequence[Point], others_share: float = 0.0,
) -> Profile:  # fmt: skip
    """The profile that measurements make."""
    rates = _rates(config, kind, kernels)
    work = np.array([part_seconds(config, kind, rates, point.step) for point in points])
    whole, logged = (
        fit(work, [getattr(p, name) for p in points], prior(), swing(points)) for name in ("seconds", "logged_s")
    )
    return Profile(
        created,
        machine,
        model,
        config.to_dict(),
        kind,
        digest,
        tuple(kernels),
        tuple(points),
        whole,
        logged,
        others_share,
    )


def swing(points: Sequence[Point]) -> float:
    """How far the machine itself moves while it is measured: the standard deviation of what all points have in common
    in each of some stretches of turns.
    """
    turns = min((len(point.samples) for point in points), default=0)
    if turns < STRETCHES:
        return 0.0
    moved = np.array([np.log(point.samples[:turns]) - math.log(median(point.samples)) for point in points])
    return float(np.std([np.median(stretch) for stretch in np.array_split(moved, STRETCHES, axis=1)], ddof=1))


# ---- the file ------------------------------------------------------------------------------------------------------


def write_profile(profile: Profile, path: Path) -> None:
    """Write a profile, whole or not at all. Raises: InputError: it cannot be written there."""
    fresh = path.with_name(path.name + ".new")
    facts = {"format": profile.format, "version": profile.version} | asdict(profile)
    try:
        fresh.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        fresh.replace(path)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}); name another file.") from error


def read_profile(path: Path) -> Profile:
    """A profile that was written before. Raises: ConfigError: it is none, is damaged, or is of another version."""
    facts = read_json(path)
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise ConfigError(f"{path} is not a device profile; `fathom plan calibrate --out {path.name}` writes one.")
    if facts.get("version") != VERSION:
        raise ConfigError(f"{path} is of version {facts.get('version')}; this fathom reads {VERSION}. Calibrate again.")
    return build(Profile, facts, str(path))


# ---- where to measure ----------------------------------------------------------------------------------------------


def candidates(config: ModelConfig, *, most_sequences: int = 32, chunk_tokens: int = 512) -> list[Group]:
    """Decodes and chunks of prompts, evenly over the logarithms of their sizes, as far as the model's context goes."""
    longest = config.max_position_embeddings - ROOM
    contexts = [c for c in CONTEXTS if c < longest] + [max(1, longest)]
    found = [Group(s, 1, c) for s in SEQUENCES if s <= most_sequences for c in contexts]
    ways: tuple[Choice, ...] = ("drawn", "filtered")
    found += [Group(s, 1, contexts[1], way) for s in SEQUENCES if s <= most_sequences for way in ways]
    for tokens in (t for t in CHUNKS if t <= chunk_tokens and t < longest):
        pages = ((c - tokens if c == contexts[-1] else c) // PAGE_TOKENS * PAGE_TOKENS for c in (0, *contexts[2:]))
        found += [Group(1, tokens, context) for context in sorted(set(pages)) if 0 <= context <= longest - tokens]
    return found


def preparing_s(config: ModelConfig, kind: Kind, kernels: Sequence[Kernel], groups: Sequence[Group]) -> list[float]:
    """Time to compute the contexts of each before it can be measured, in chunks as long as the kernels' longest [s]."""
    rates = _rates(config, kind, kernels)
    chunk = int(rates.forward[-1][0])
    each: dict[float, float] = {}
    for group in groups:
        starts = range(0, int(group.context), chunk)
        if group.context not in each:
            each[group.context] = sum(
                float(part_seconds(config, kind, rates, (Group(1, chunk, start),)).sum()) for start in starts
            )
    return [group.sequences * each[group.context] for group in groups]


def choose_points(
    config: ModelConfig, kind: Kind, kernels: Sequence[Kernel], *, count: int = POINTS, seconds: float = math.inf,
    **room: int,
) -> list[Group]:  # fmt: skip
    """Where the engine is to be measured.

    Args: seconds: the most that preparing one point may take. room: as in `candidates`.
    """
    if count < 1:
        raise ConfigError(f"points is {count}; it must be at least 1.")
    found = _affordable(config, kind, kernels, candidates(config, **room), seconds)
    work = part_work(config, kind, kernels, found)
    places = np.array([place((group,)) for group in found])
    return [found[i] for i in choose(work, places, prior(), count)]


def unseen_points(
    config: ModelConfig, kind: Kind, kernels: Sequence[Kernel], seen: Iterable[Group], *, count: int, seed: int,
    seconds: float = math.inf, most_sequences: int = 32, chunk_tokens: int = 512,
) -> list[Group]:  # fmt: skip
    """Other points, drawn evenly over the same logarithms: two decodes for each chunk of a prompt."""
    random, longest = Random(seed), config.max_position_embeddings - ROOM
    found: list[Group] = []
    known = set(seen)
    for _ in range(100 * count):
        if len(found) == count:
            return found
        if len(found) % 3 == 2:
            tokens = round(_drawn(random, 8, min(chunk_tokens, longest)))
            context = int(_drawn(random, 16, max(16, longest - tokens))) // PAGE_TOKENS * PAGE_TOKENS
            group = Group(1, tokens, context)
        else:
            group = Group(round(_drawn(random, 1, most_sequences)), 1, round(_drawn(random, 16, longest)))
        if group not in known and _affordable(config, kind, kernels, [group], seconds):
            known.add(group)
            found.append(group)
    raise ConfigError(f"only {len(found)} of {count} points can be prepared in time; give more minutes.")


def part_work(config: ModelConfig, kind: Kind, kernels: Sequence[Kernel], groups: Sequence[Group]) -> Array:
    """The parts of each at the speed of the kernels [s]."""
    rates = _rates(config, kind, kernels)
    return np.array([part_seconds(config, kind, rates, (group,)) for group in groups])


def _affordable(
    config: ModelConfig, kind: Kind, kernels: Sequence[Kernel], groups: list[Group], seconds: float
) -> list[Group]:
    taken = preparing_s(config, kind, kernels, groups)
    return [group for group, each in zip(groups, taken, strict=True) if each <= seconds]


def _drawn(random: Random, low: float, high: float) -> float:
    return math.exp(random.uniform(math.log(low), math.log(high)))


# ---- predictions ---------------------------------------------------------------------------------------------------


def predict(profile: Profile, step: Step) -> Quantity:
    """How long a step of the engine takes [s], scheduler and sampler included."""
    if not step:
        raise ConfigError("a step of no tokens takes no time; give at least one.")
    work = profile.work([step])
    mean, sd = profile.whole.log_seconds(work)
    width = student_quantile((1 + COVERAGE) / 2, profile.whole.dof) * float(sd[0])
    value = math.exp(float(mean[0]))
    bound = max(_by_bound(profile, work).items(), key=lambda item: item[1])[0]
    note = f"{profile.model} on {profile.machine.processor}, {profile.machine.threads} threads, {profile.created[:10]}"
    return Quantity(
        value, "s", "one step of the engine, from the scheduler to its tokens", value * math.exp(-width),
        value * math.exp(width), bound, "fitted", note,
    )  # fmt: skip


def decode(profile: Profile, batch: int, context: float, sampling: Choice = "greedy") -> Quantity:
    """A step in which each of `batch` sequences generates a token after `context` others [s]."""
    return predict(profile, (Group(batch, 1, context, sampling),))


def prefill(profile: Profile, tokens: int, context: float = 0) -> Quantity:
    """A step that reads `tokens` of a prompt, of which `context` are in the cache [s]."""
    return predict(profile, (Group(1, tokens, context),))


def breakdown(profile: Profile, step: Step) -> dict[str, float]:
    """What share of a step each of its resources takes, 0 to 1."""
    return _by_bound(profile, profile.work([step]))


def _by_bound(profile: Profile, work: Array) -> dict[str, float]:
    found: dict[str, float] = {}
    for part, share in zip(PARTS, profile.whole.shares(work)[0], strict=True):
        found[part.bound] = found.get(part.bound, 0.0) + float(share)
    return found
