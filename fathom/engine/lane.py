"""One data-parallel lane: a scheduler with pages of its own, and what it learns of the time its steps take."""

from __future__ import annotations

from collections.abc import Iterable

from fathom.batching.limits import SchedulerConfig
from fathom.batching.plan import Plan, Sampled
from fathom.batching.request import Request
from fathom.batching.scheduler import Scheduler
from fathom.batching.steptime import StepTime
from fathom.engine.spec_policy import SpecPolicy


class Lane:
    """Who runs next on one set of pages. drafts: guesses per step; None is as many as pay."""

    def __init__(self, limits: SchedulerConfig, eos_token_ids: Iterable[int], drafts: int | None) -> None:
        self.step_time = StepTime()
        self.policy = SpecPolicy(drafts)
        self.scheduler = Scheduler(limits, eos_token_ids, self.step_time)

    def schedule(self) -> Plan:
        """The next step; one without rows if there is nothing to do."""
        if not self.scheduler.has_work:
            return Plan(step=self.scheduler.steps)
        sequences = min(len(self.scheduler.live), self.scheduler.config.max_sequences)
        return self.scheduler.schedule(self.policy.choose(sequences))

    def observe(self, plan: Plan, sampled: list[Sampled], computing_s: float, draft_s: float) -> None:
        """What a step took [s]; draft_s of it went into guesses."""
        self.step_time.observe(plan, computing_s - draft_s)
        self.policy.observe(plan, sampled, computing_s, draft_s)

    def outstanding_tokens(self) -> int:
        """Tokens that its requests may still take, computed or generated."""
        return sum(s.remaining + s.room for s in self.scheduler.live.values())


class Lanes:
    """Gives each request a lane: the one with least to do, unless another holds its prompt's first pages already."""

    def __init__(self, lanes: list[Lane]) -> None:
        self.lanes = lanes
        self._latest: tuple[tuple[int, ...], str, Lane] | None = None
        self._reserved: dict[str, tuple[Lane, int]] = {}

    def choose(self, request: Request) -> Lane:
        """Siblings come one after another and stay together: they share their prompt."""
        if len(self.lanes) == 1:
            return self.lanes[0]
        prompt, salt = request.prompt_token_ids, request.cache_salt
        if request.id not in self._reserved and self._latest is not None and self._latest[:2] == (prompt, salt):
            return self._latest[2]
        lane, _ = self._reserved.pop(request.id, (None, 0))
        if lane is None:
            loads = [self._due(lane) - 2 * lane.scheduler.tables.known_tokens(request) for lane in self.lanes]
            lane = self.lanes[loads.index(min(loads))]
        self._latest = (prompt, salt, lane)
        return lane

    def reserve(self, request: Request) -> int:
        """Settle now which lane a request will be given once it is added, or forgotten: its number."""
        if len(self.lanes) == 1:
            return 0
        lane = self.choose(request)
        self._reserved[request.id] = lane, len(request.prompt_token_ids) + request.params.max_tokens
        return self.lanes.index(lane)

    def forget(self, request_id: str) -> None:
        """It is not going to be added."""
        self._reserved.pop(request_id, None)

    def _due(self, lane: Lane) -> int:
        return lane.outstanding_tokens() + sum(tokens for kept, tokens in self._reserved.values() if kept is lane)

    def add(self, request: Request) -> None:
        """Raises: RequestError: it cannot be served."""
        for lane in self.lanes:  # an id that is in use is refused wherever it is
            if request.id in lane.scheduler.live:
                return lane.scheduler.add(request)
        self.choose(request).scheduler.add(request)
        return None

    def of(self, request_id: str) -> Lane | None:
        """The lane a request is in."""
        return next((lane for lane in self.lanes if request_id in lane.scheduler.live), None)
