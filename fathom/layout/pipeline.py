"""Pipeline schedules as data: what each rank does, in order, and how long it waits.

A schedule is a list of slots per rank. `play` runs it against durations and dependencies, slot by slot, so that idle
time is counted and not assumed; `bubble` is the formula that the count agrees with (tests/layout/test_pipeline.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from fathom.errors import ConfigError

#: forward; whole backward; backward for inputs only; gradient of weights
Kind = Literal["F", "B", "I", "W"]
NAMES = ("1f1b", "interleaved", "zb1p", "dualpipe", "dualpipev")


@dataclass(frozen=True)
class Work:
    """One kind of work on one micro-batch at one of the `stages` of a path; DualPipe has two paths, one each way."""

    kind: Kind
    path: int
    stage: int
    micro: int


Slot = tuple[Work, ...]  # one work, or a forward and a backward that run at once


@dataclass(frozen=True)
class Durations:
    """Time of one stage of a path on one micro-batch, in any unit.

    Fields: forward; backward: for inputs and weights; weight: the part of it for weights; both: a forward and a
            backward that run at once (0: as one after the other).
    """

    forward: float
    backward: float
    weight: float = 0.0
    both: float = 0.0

    def of(self, slot: Slot) -> float:
        """Time of a slot."""
        if len(slot) == 2:
            return self.both or self.forward + self.backward
        return {"F": self.forward, "B": self.backward, "I": self.backward - self.weight, "W": self.weight}[slot[0].kind]


@dataclass(frozen=True)
class Schedule:
    """Slots of each rank, in order. stages: of a path, over all ranks."""

    name: str
    stages: int
    micro_batches: int
    ranks: tuple[tuple[Slot, ...], ...]

    def in_flight(self, rank: int) -> int:
        """The most stage inputs that a rank keeps at once: from a forward until the weights have their gradient."""
        kept, most = 0, 0
        for slot in self.ranks[rank]:
            kept += sum(work.kind == "F" for work in slot)
            most = max(most, kept)
            kept -= sum(work.kind in "BW" for work in slot)
        return most


@dataclass(frozen=True)
class Played:
    """When a schedule was done, and how long each rank waited until then."""

    span: float
    idle: tuple[float, ...]


def schedule(name: str, ranks: int, micro_batches: int, chunks: int = 1) -> Schedule:
    """The slots of a schedule on so many pipeline ranks.

    Args:   chunks: model chunks of a rank, for "interleaved".
    Source: 1F1B arXiv:2104.04473; ZB1P (ZB-H1) arXiv:2401.10241; DualPipe(V): deepseek-ai/DualPipe.
    """
    check(name, ranks, micro_batches, chunks)
    if name in ("dualpipe", "dualpipev"):
        rows = [tuple(_dual(name == "dualpipev", ranks, rank, micro_batches)) for rank in range(ranks)]
        return Schedule(name, ranks * (2 if name == "dualpipev" else 1), micro_batches, tuple(rows))
    if name == "interleaved":
        rows = [tuple(_interleaved(ranks, rank, micro_batches, chunks)) for rank in range(ranks)]
        return Schedule(name, ranks * chunks, micro_batches, tuple(rows))
    rows = [tuple(_one_by_one(ranks, rank, micro_batches, name == "zb1p")) for rank in range(ranks)]
    return Schedule(name, ranks, micro_batches, tuple(rows))


def check(name: str, ranks: int, micro_batches: int, chunks: int = 1) -> None:
    """Raise ConfigError, with what would do, if there is no such schedule."""
    if name not in NAMES:
        raise ConfigError(f"schedule {name!r} is not known; use one of {', '.join(NAMES)}.")
    if ranks < 1 or micro_batches < 1 or chunks < 1:
        raise ConfigError(f"{name}: ranks {ranks}, micro-batches {micro_batches}, chunks {chunks}; each is at least 1.")
    if name == "interleaved" and micro_batches % ranks:
        raise ConfigError(
            f"interleaved: {micro_batches} micro-batches are not a multiple of {ranks} ranks; "
            f"use {-(-micro_batches // ranks) * ranks}."
        )
    if name == "dualpipe" and (ranks % 2 or micro_batches % 2 or micro_batches < 2 * ranks):
        raise ConfigError(
            f"dualpipe: {ranks} ranks and {micro_batches} micro-batches; both are even, and micro-batches at least "
            f"twice the ranks. Use {max(2 * ranks, micro_batches + micro_batches % 2)} micro-batches, or zb1p."
        )
    if name == "dualpipev" and micro_batches < 2 * ranks:
        raise ConfigError(
            f"dualpipev: {micro_batches} micro-batches are fewer than twice {ranks} ranks; use {2 * ranks}, or zb1p."
        )


def bubble(name: str, ranks: int, times: Durations, chunks: int = 1) -> float:
    """How long a rank waits in one step, where stages are alike and transfers free; in the unit of `times`.

    Times are those of one stage, a 1 / (ranks x chunks) of the model; of a DualPipe(V), of one of a rank's two chunks.
    Source: DeepSeek-V3, arXiv:2412.19437, table 2; interleaved: arXiv:2104.04473, section 2.2.
    """
    forward, backward, weight = times.forward, times.backward, times.weight
    if name in ("dualpipe", "dualpipev"):
        half = ranks // 2 if name == "dualpipe" else ranks
        both = times.both or forward + backward
        return (half - 1) * max(0.0, both + backward - 3 * weight)
    if name == "zb1p":
        return (ranks - 1) * (forward + backward - 2 * weight)
    return (ranks - 1) * (forward + backward)  # a chunk of "interleaved" takes 1 / chunks of a rank's time


def play(plan: Schedule, times: Durations) -> Played:
    """Run a schedule: a slot starts when its rank is free and what it needs is there; transfers take no time."""
    done: dict[Work, float] = {}
    free = [0.0] * len(plan.ranks)
    busy = [0.0] * len(plan.ranks)
    at = [0] * len(plan.ranks)
    waiting = sum(len(row) for row in plan.ranks)
    while waiting:
        moved = False
        for rank, row in enumerate(plan.ranks):
            while at[rank] < len(row):
                slot = row[at[rank]]
                needs = [need for work in slot for need in _needs(work, plan.stages)]
                if any(need not in done for need in needs):
                    break
                start = max([free[rank], *(done[need] for need in needs)])
                took = times.of(slot)
                free[rank] = start + took
                busy[rank] += took
                done.update((_result(work), free[rank]) for work in slot)
                at[rank] += 1
                waiting -= 1
                moved = True
        assert moved, f"{plan.name}: each rank waits for another"
    span = max(free)
    return Played(span, tuple(span - one for one in busy))


def _needs(work: Work, stages: int) -> Iterator[Work]:
    if work.kind == "F":
        if work.stage:
            yield Work("F", work.path, work.stage - 1, work.micro)
    elif work.kind != "W":
        yield Work("F", work.path, work.stage, work.micro)
        if work.stage < stages - 1:
            yield Work("I", work.path, work.stage + 1, work.micro)


def _result(work: Work) -> Work:
    """What others wait for: gradients of inputs are there after a whole backward too."""
    return Work("I", work.path, work.stage, work.micro) if work.kind == "B" else work


def _one_by_one(ranks: int, rank: int, micro_batches: int, split: bool) -> Iterator[Slot]:
    """1F1B; with `split`, the gradients of weights follow `rank` micro-batches later and fill the drain (ZB-H1)."""
    ahead = min(ranks - 1 - rank, micro_batches)
    lag = min(rank, micro_batches)
    weights = 0
    for micro in range(ahead):
        yield (Work("F", 0, rank, micro),)
    for micro in range(micro_batches):
        if micro + ahead < micro_batches:
            yield (Work("F", 0, rank, micro + ahead),)
        yield (Work("I" if split else "B", 0, rank, micro),)
        if split and micro >= lag:
            yield (Work("W", 0, rank, weights),)
            weights += 1
    if split:
        for micro in range(weights, micro_batches):
            yield (Work("W", 0, rank, micro),)


def _interleaved(ranks: int, rank: int, micro_batches: int, chunks: int) -> Iterator[Slot]:
    """Each rank takes every `ranks`-th stage; `ranks` micro-batches pass a chunk before the next chunk has its turn."""
    total = micro_batches * chunks
    ahead = min(2 * (ranks - 1 - rank) + (chunks - 1) * ranks, total)

    def work(kind: Kind, turn: int) -> Slot:
        group, inside = divmod(turn, ranks * chunks)
        chunk, micro = divmod(inside, ranks)
        chunk = chunk if kind == "F" else chunks - 1 - chunk
        return (Work(kind, 0, chunk * ranks + rank, group * ranks + micro),)

    for turn in range(ahead):
        yield work("F", turn)
    for turn in range(total):
        if turn + ahead < total:
            yield work("F", turn + ahead)
        yield work("B", turn)


def _dual(folded: bool, ranks: int, rank: int, micro_batches: int) -> Iterator[Slot]:
    """DualPipe, and its fold DualPipeV: a rank runs the forward of one of its chunks with the backward of the other.

    In DualPipe the chunks belong to two copies of the model, passed in opposite directions; in DualPipeV to one.
    """
    half = ranks if folded else ranks // 2
    near = rank if folded else min(rank, ranks - 1 - rank)
    count = micro_batches if folded else micro_batches // 2
    counters: dict[tuple[str, int], int] = {}
    queued: list[Work] = []

    ends = 2 * ranks if folded else ranks

    def take(kind: Kind, phase: int) -> Work:
        way = phase if folded else phase ^ (rank >= half)
        counted = ("F" if kind == "F" else "B", phase)
        micro = counters[counted] = counters.get(counted, -1) + 1
        path, stage = 0 if folded else way, rank if way == 0 else ends - 1 - rank
        if kind == "I":
            queued.append(Work("W", path, stage, micro))
        return Work(kind, path, stage, micro)

    return _dual_steps(half, near, count, take, queued)


def _dual_steps(
    half: int, near: int, count: int, take: Callable[[Kind, int], Work], queued: list[Work]
) -> Iterator[Slot]:
    """The eight steps of deepseek-ai/DualPipe, for the rank `near` steps from its end of `half` ranks."""
    rest = half - near - 1
    for _ in range(2 * rest):
        yield (take("F", 0),)
    for _ in range(near + 1):
        yield (take("F", 0),)
        yield (take("F", 1),)
    for _ in range(rest):
        yield (take("I", 1),)
        yield (queued.pop(0),)
        yield (take("F", 1),)
    for turn in range(count - 2 * half + near + 1):
        if turn == 0 and rest == 0:  # the middle rank does not run these two at once: its bubble is shorter so
            yield (take("F", 0),)
            yield (take("B", 1),)
        else:
            yield take("F", 0), take("B", 1)
        yield take("F", 1), take("B", 0)
    for _ in range(rest):
        yield (take("B", 1),)
        yield take("F", 1), take("B", 0)
    split = False
    for turn in range(near + 1):
        split = split or (turn == (near + 1) // 2 and near % 2 == 1)
        yield (take("I" if split else "B", 1),)
        split = split or (turn == (near + 1) // 2 and near % 2 == 0)
        yield (take("I" if split else "B", 0),)
    for _ in range(rest):
        yield (queued.pop(0),)
        yield (take("I", 0),)
    for _ in range(near + 1):
        yield (queued.pop(0),)
    assert not queued, "every gradient of weights has its slot"
