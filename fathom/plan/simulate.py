"""The scheduler that serves, with a latency model for its clock: time to first token and between tokens, by percentile.

    drive(lanes, arrivals, clock)     the loop of the engine, without a model: who runs when, and what each step takes

Nothing is imitated: `fathom.batching.Scheduler` decides, with the limits that the deployment gives its engines, and
learns of its steps' times as the engine's lanes do. What a day has too much of is left out by sampling: of one replica
of each pool, some lanes; of the time, a window that begins in the middle of the day, with replies half written.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import ceil, inf

from fathom.batching import Output, Plan, Request, Row, Sampled, SamplingParams, Scheduler, SchedulerConfig, StepTime
from fathom.plan.arrivals import Arrival

Clock = Callable[[Sequence[Plan]], float]
TOKEN = 1  # what every reply consists of
WINDOW = 32  # tokens of a reply that tell its speed, at least


class Lane:
    """A scheduler with pages of its own, and what it learns of its steps."""

    def __init__(self, limits: SchedulerConfig) -> None:
        self.step_time = StepTime()
        self.scheduler = Scheduler(limits, step_time=self.step_time)

    @property
    def due(self) -> int:
        """Tokens that its requests may still take, computed or generated."""
        live = self.scheduler.live.values()
        return sum(len(one.request.prompt_token_ids) + one.request.params.max_tokens - one.computed for one in live)


class Life:
    """What became of one request. Times in seconds; warm: it was under way when the window began."""

    def __init__(self, at_s: float, *, warm: bool = False) -> None:
        self.at_s, self.warm = at_s, warm
        self.first_s = self.last_s = 0.0
        self.tokens = 0
        self.done = False

    def take(self, tokens: int, now_s: float) -> None:
        """So many tokens came at once."""
        if not tokens:
            return
        if not self.tokens:
            self.first_s = now_s
        self.tokens, self.last_s = self.tokens + tokens, now_s


@dataclass
class Drive:
    """What `drive` saw. Fields: now_s: the end. step_s: of the latest step. row_steps: rows planned."""

    lives: dict[str, Life] = field(default_factory=dict)
    now_s: float = 0.0
    step_s: float = 0.0
    steps: int = 0
    row_steps: int = 0
    tokens: int = 0
    prompts: int = 0


def drive(
    lanes: Sequence[Lane],
    arrivals: Iterator[tuple[float, Request]],
    clock: Clock,
    answer: Callable[[Row], Sampled],
    *,
    drafts: int = 0,
    enough: Callable[[Drive], bool] = lambda seen: False,
    more: Callable[[Drive], Iterable[tuple[float, Request]]] = lambda seen: (),
    seen: Drive | None = None,
    told: Callable[[Sequence[Plan], list[Output]], None] = lambda plans, outputs: None,
) -> Drive:
    """Run steps until the arrivals and their work are done, or it is `enough`.

    All lanes step together, and a step takes what `clock` says of its plans. Requests that came during a step are
    there for the next one. Where nothing is to be done, time passes to the next arrival.

    Args: answer: the tokens that come back for a sampling row. more: requests that depend on what was seen, asked for
          before each step. seen: what was seen before, to go on from.
    """
    seen = seen or Drive()
    following = next(arrivals, None)
    while not enough(seen):
        while following is not None and following[0] <= seen.now_s:
            add(lanes, following[1], Life(following[0]), seen)
            following = next(arrivals, None)
        for at_s, request in more(seen):
            add(lanes, request, Life(at_s), seen)
        if not any(lane.scheduler.has_work for lane in lanes):
            if following is None:
                break
            seen.now_s = following[0]
            continue
        plans = [
            lane.scheduler.schedule(drafts) if lane.scheduler.has_work else Plan(step=lane.scheduler.steps)
            for lane in lanes
        ]
        seconds = clock(plans)
        seen.now_s, seen.step_s = seen.now_s + seconds, seconds
        told(plans, _update(lanes, plans, seconds, answer, seen))
    return seen


def add(lanes: Sequence[Lane], request: Request, life: Life, seen: Drive) -> None:
    """To the lane with least to do."""
    min(lanes, key=lambda lane: lane.due).scheduler.add(request)
    seen.lives[request.id] = life


def _update(
    lanes: Sequence[Lane], plans: Sequence[Plan], seconds: float, answer: Callable[[Row], Sampled], seen: Drive
) -> list[Output]:
    most = max(plan.num_tokens for plan in plans)
    found: list[Output] = []
    for lane, plan in zip(lanes, plans, strict=True):
        if not plan.rows:
            continue
        if plan.num_tokens == most:  # the step took as long as its fullest lane
            lane.step_time.observe(plan, seconds)
        seen.row_steps += len(plan.rows)
        found += lane.scheduler.update(plan, [answer(row) for row in plan.sampling_rows])
    seen.steps += 1
    for output in found:
        life = seen.lives[output.request_id]
        life.take(len(output.token_ids), seen.now_s)
        life.done = output.finish_reason is not None
        seen.tokens += len(output.token_ids)
        seen.prompts += life.tokens > 0 and life.first_s == seen.now_s
    return found


class Prompts:
    """Makes requests of arrivals. No two prompts share a page but for the leading share that hits are made of.

    What hits is one of `families` beginnings that all lanes keep; the tokens of each are counted as found.
    """

    def __init__(self, *, hit: float = 0.0, families: int = 4, page_tokens: int = 64, chance: random.Random) -> None:
        self.hit, self.page_tokens, self._chance = hit, page_tokens, chance
        self.families = families
        self._next, self._count = 1 << 30, 0

    def request(self, one: Arrival, *, emitted: int = 0, output: int | None = None) -> Request:
        """A request for it. Args: emitted: tokens of its reply that there are already."""
        shared = self.shared(one.input)
        family = self._chance.randrange(self.families) << 20
        own = range(self._next, self._next + one.input - shared)
        self._next, self._count = self._next + len(own), self._count + 1
        return Request(
            id=str(self._count),
            prompt_token_ids=(*range(family, family + shared), *own),
            params=SamplingParams(max_tokens=output or one.output, ignore_eos=True),
            arrival_s=one.at_s,
            emitted_token_ids=(TOKEN,) * emitted,
        )

    def shared(self, tokens: int) -> int:
        """Of a prompt of so many tokens, those that are found: whole pages."""
        return int(tokens * self.hit) // self.page_tokens * self.page_tokens

    def beginnings(self, tokens: int, name: str) -> Iterator[Request]:
        """What brings the families into a cache: each alone, with one token to follow."""
        for family in range(self.families if self.shared(tokens) else 0):
            ids = (*range(family << 20, (family << 20) + self.shared(tokens)), TOKEN)
            yield Request(f"{name}-{family}", ids, SamplingParams(max_tokens=1, ignore_eos=True))


def answers(acceptance: float, chance: random.Random) -> Callable[[Row], Sampled]:
    """What a model would say: always the same token, and of the guesses before it as many as come true in a row."""

    def answer(row: Row) -> Sampled:
        right = 0
        while right < row.drafts and chance.random() < acceptance:
            right += 1
        return Sampled((TOKEN,) * (right + 1), drafts=(TOKEN,) * row.propose)

    return answer


def settle(lanes: Sequence[Lane], requests: Iterable[Request], seen: Drive, *, drafts: int = 0) -> None:
    """Bring requests to where they stand without letting time pass: all their known tokens are computed at once."""
    for request in requests:
        add(lanes, request, Life(seen.now_s, warm=True), seen)
    limits = [lane.scheduler.config for lane in lanes]
    for lane, own in zip(lanes, limits, strict=True):
        most = sum(one.remaining for one in lane.scheduler.live.values())
        lane.scheduler.config = replace(own, max_batch_tokens=max(most, own.max_batch_tokens), max_stretch=inf)
        if lane.scheduler.has_work:
            plan = lane.scheduler.schedule()
            lane.scheduler.update(plan, [Sampled((TOKEN,)) for _ in plan.sampling_rows])
        lane.scheduler.config = own
    for life in seen.lives.values():
        life.first_s = life.last_s = seen.now_s
        life.tokens = 1 if life.warm else life.tokens


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that `percent` of them do not exceed, straight between neighbours; 0 of none."""
    if not values:
        return 0.0
    ordered = sorted(values)
    place = percent / 100.0 * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def first_tokens(seen: Drive, since_s: float, until_s: float) -> list[float]:
    """Times to first token of those that came in between; who has none yet waited until the end at least."""
    found = [life for life in seen.lives.values() if not life.warm and since_s <= life.at_s <= until_s]
    return [(life.first_s if life.tokens else seen.now_s) - life.at_s for life in found]


def token_times(seen: Drive, *, waiting: bool = False, late_s: float = 0.0) -> list[float]:
    """Seconds per token of each reply, of which many tokens are there or all.

    Args: waiting: the first token came from elsewhere, `late_s` before the request; otherwise it is not counted.
    """
    found = []
    for life in seen.lives.values():
        gaps = life.tokens - (0 if waiting and not life.warm else 1)
        if gaps < 1 or not (life.tokens > WINDOW or (life.done and not life.warm)):
            continue
        begun = life.at_s - late_s if waiting and not life.warm else life.first_s
        found.append((life.last_s - begun) / gaps)
    return found


def pages(tokens: float, page_tokens: int) -> int:
    """Pages for so many tokens."""
    return max(1, ceil(tokens / page_tokens))
