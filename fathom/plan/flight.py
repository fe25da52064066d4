"""A fixed number of requests in flight: what each waits for its first token, and then for each of the others.

This is how engines are measured: all requests come at once, and each that ends is followed by the next. Events are the
ends of requests and the steps that read prompts; between them decode steps are alike and taken together. Lengths are
spread evenly over [0.8, 1.0] of a nominal one, and a run is WAVES times the requests in flight, as in InferenceX
(benchmarks/benchmark_lib.sh, utils/bench_serving).

    mixed    one replica reads prompts between its decode steps, or beside them
    split    one replica reads, and hands over to those that decode
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

SHORTEST, LONGEST = 0.8 / 0.9, 1.0 / 0.9  # of lengths, over their mean
GOLDEN = 0.6180339887498949  # multiples of it, modulo 1, are evenly spread and in no order
WAVES = 10
MOST = 256  # requests in flight that are followed one by one; of more, each stands for several
TOTAL = 1024  # requests of a run that are followed; later waves are alike

Seconds = Callable[[float], float]
Arrived = tuple[int, float]  # a request, and when it came


@dataclass(frozen=True)
class Policy:
    """How an engine takes requests in.

    Fields: chunk: tokens of prompts that a step reads at most. poll: decode steps between two looks at the door.
            gather: prompts that it waits for, as many as it has dp ranks, but no longer than `patience` decode steps.
            beside: sequences go on in a step that reads prompts. most: sequences that it decodes at a time.
    """

    chunk: float = 8192
    poll: float = 1
    gather: float = 1
    patience: float = 60
    beside: bool = True
    most: float = 1e9


@dataclass(frozen=True)
class Flight:
    """Means over a run. first_s: until the first token [s]. token_s: (end - first) / (tokens - 1) [s]."""

    first_s: float
    token_s: float


def mixed(
    count: float, prompt: float, output: float, step_s: Seconds, read_s: Seconds, policy: Policy
) -> Flight:  # fmt: skip
    """A replica that decodes and reads prompts.

    Args: count: requests in flight. step_s: seconds of a decode step of so many sequences. read_s: of a step that reads
          so many tokens of prompts, beyond those of a decode step if both go on.
    """
    run = _Run(count, prompt, output, policy)
    while run.done < run.total:
        if run.waiting and len(run.running) < run.most:
            taken, ready = run.take()
            run.now += read_s(taken * run.each)
            if policy.beside and run.running:
                run.now += step_s(len(run.running) * run.each)
                run.steps += 1
            run.start(ready, run.now)
            run.open()
        elif not run.running:  # idle engines look all the time
            run.open()
        else:
            ahead = run.running[0][0] - run.steps
            if run.door:
                ahead = min(ahead, max(0.0, run.opens - run.steps))
            run.now += ahead * step_s(len(run.running) * run.each)
            run.steps += ahead
            if run.door and run.steps >= run.opens - 1e-9:
                run.open()
        run.finish()
    return run.means()


def split(
    count: float, prompt: float, output: float, step_s: Seconds, read_s: Seconds, policy: Policy, moved_s: float = 0.0
) -> Flight:  # fmt: skip
    """A replica that reads, and those that decode for it.

    Args: count: requests in flight, of this reader. step_s: of a decode step while so many of them are decoded.
          moved_s: to hand a cache over.
    """
    run, ready, until = _Run(count, prompt, output, policy), list[Arrived](), -1.0
    while run.done < run.total:
        if until < 0 and run.waiting:
            taken, ready = run.take()
            until = run.now + read_s(taken * run.each)
        each = step_s(len(run.running) * run.each) if run.running else 0.0
        end = run.now + (run.running[0][0] - run.steps) * each if run.running else float("inf")
        if 0 <= until <= end:
            run.steps += (until - run.now) / each if run.running else 0.0
            run.now, until = until, -1.0
            run.start(ready, run.now + moved_s)
        else:
            run.now, run.steps = end, run.running[0][0]
        run.finish()
        run.open()
    return run.means()


class _Run:
    """Requests by number. steps: tokens that each running sequence has got since the start."""

    def __init__(self, count: float, prompt: float, output: float, policy: Policy) -> None:
        self.count = max(1, min(MOST, round(count)))
        self.each = count / self.count
        self.total = max(2 * self.count, min(WAVES * self.count, TOTAL))
        self.policy, self.prompt = policy, prompt
        self.most = max(1.0, policy.most / self.each)
        width = (LONGEST - SHORTEST) * output
        self.outputs = [SHORTEST * output + width * ((n + 1) * GOLDEN % 1.0) for n in range(self.total)]
        self.waiting: deque[Arrived] = deque((n, 0.0) for n in range(self.count))
        self.door: list[Arrived] = []
        self.running: list[tuple[float, int]] = []  # when it ends, in steps
        self.left: dict[int, float] = {}  # tokens of prompts that are partly read
        self.first, self.began, self.ends = ([0.0] * self.total for _ in range(3))
        self.now = self.steps = self.looked = 0.0
        self.done, self.sent = 0, self.count

    @property
    def opens(self) -> float:
        """The step at which those at the door are let in."""
        if len(self.door) * self.each >= self.policy.gather:
            return self.looked + self.policy.poll
        return self.looked + max(self.policy.poll, self.policy.patience)

    def take(self) -> tuple[float, list[Arrived]]:
        """(tokens that the next step reads, requests whose prompts it completes)."""
        room, ready = self.policy.chunk / self.each, list[Arrived]()
        start = room
        while self.waiting and room > 0 and len(self.running) + len(ready) < self.most:
            one = self.waiting[0][0]
            need = self.left.pop(one, self.prompt)
            if need > room:
                self.left[one] = need - room
                room = 0.0
                break
            room -= need
            ready.append(self.waiting.popleft())
        return start - room, ready

    def start(self, ready: list[Arrived], now: float) -> None:
        """First tokens."""
        for one, came in ready:
            self.first[one], self.began[one] = now - came, now
            heapq.heappush(self.running, (self.steps + max(1.0, self.outputs[one] - 1), one))

    def open(self) -> None:
        """Let in who is at the door."""
        self.waiting.extend(self.door)
        self.door.clear()
        self.looked = self.steps

    def finish(self) -> None:
        """Ends of requests; each is followed by the next, if there is one."""
        while self.running and self.running[0][0] <= self.steps + 1e-9:
            one = heapq.heappop(self.running)[1]
            self.ends[one] = self.now
            self.done += 1
            if self.sent < self.total:
                if not self.door and self.steps - self.looked >= self.policy.poll:  # it looked in vain meanwhile
                    self.looked += self.policy.poll * ((self.steps - self.looked) // self.policy.poll)
                self.door.append((self.sent, self.now))
                self.sent += 1

    def means(self) -> Flight:
        """Over a whole run: the first wave weighs 1 / WAVES, however few of the others were followed."""
        spans = zip(self.ends, self.began, self.outputs, strict=True)
        token = [(end - began) / max(1.0, tokens - 1) for end, began, tokens in spans]
        values = []
        for found in (self.first, token):
            early, later = found[: self.count], found[self.count :]
            values.append(sum(early) / len(early) / WAVES + sum(later) / len(later) * (1 - 1 / WAVES))
        return Flight(*values)
