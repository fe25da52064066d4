"""The loop: requests in, one step at a time, outputs out.

    engine = Engine(load_model("nano"), eos_token_ids=(1,))
    engine.add(Request("a", (0, 17, 4), SamplingParams(max_tokens=16)))
    while engine.has_work:
        for output in engine.step():
            print(output.request_id, output.token_ids, output.finish_reason)

A step is: the scheduler makes a Plan, the runner executes it, the scheduler takes in the tokens. Not thread-safe.
A model loaded with its MTP module guesses ahead (`EngineConfig.spec`): that changes how fast a text comes, not which.
With a crew, the model is divided among several processes, and there is a lane for each of their batches (crew.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import zip_longest
from time import perf_counter
from typing import Any, Literal

from fathom.batching.limits import SchedulerConfig
from fathom.batching.plan import Plan, Sampled
from fathom.batching.request import Output, Request
from fathom.batching.scheduler import Scheduler
from fathom.batching.steptime import StepTime
from fathom.engine.balance import Balancer
from fathom.engine.crew import Crew
from fathom.engine.kept import KeptFile
from fathom.engine.lane import Lane, Lanes
from fathom.engine.load import pages_that_fit, read_bits, read_load, read_numerics
from fathom.engine.record import StepLog, StepRecord
from fathom.engine.replay import describe_engine
from fathom.engine.runner import Runner
from fathom.engine.seeing import Seeing
from fathom.engine.spec_policy import SpecPolicy, drafts_of, read_spec
from fathom.engine.spill import LostPages, SpillFile
from fathom.engine.timeline import Timeline
from fathom.engine.transfer import PageStore, page_format
from fathom.errors import ConfigError, RequestError
from fathom.layout.load import Rebalance
from fathom.model import LatentCache, Model

SAVED_AT_ONCE = 16  # pages; a request that arrives meanwhile waits for them


@dataclass(frozen=True)
class EngineConfig:
    """Limits of an engine; SchedulerConfig says what the first ones and max_stretch mean.

    Fields: num_pages: None takes `memory_fraction` of the free memory, or less if that holds `max_sequences` whole
            contexts. bits, threads, numerics, load: as `load_model` has them, for a model loaded by name; bits sets the
            width of the cached latents then. record: path of a step log; None keeps none.
            spill_path: a free name on a fast disk for the file that keeps pages evicted from memory, up to
            `spill_bytes`; None keeps none. cache_dir: instead, a folder that keeps them for later processes with the
            same model too; not with `record`, which tells of a cache that began empty. spec: tokens to guess per
            sequence and step with the model's MTP module: 1 to 4, off, or auto for as many as pay (none without one).
            eplb: whether the experts of a crew follow their load, looked at every `eplb_every` steps.
    """

    max_batch_tokens: int = 512
    max_sequences: int = 32
    page_tokens: int = 16
    num_pages: int | None = None
    memory_fraction: float = 0.5
    bits: str | int = "auto"
    threads: int | None = None
    numerics: str = "exact"
    load: str = "map"
    record: str | None = None
    max_stretch: float = SchedulerConfig.max_stretch
    spill_path: str | None = None
    cache_dir: str | None = None
    spill_bytes: int = 8 * 10**9
    spec: str | int = "auto"
    eplb: Literal["off", "auto", "manual"] = "off"
    eplb_every: int = Rebalance.every

    def __post_init__(self) -> None:
        read_spec(self.spec)
        read_bits(self.bits)
        read_numerics(self.numerics)
        read_load(self.load)
        if not 0.0 < self.memory_fraction <= 1.0:
            raise ConfigError(f"memory_fraction is {self.memory_fraction}; it must be above 0 and at most 1.")
        for name in ("spill_path", "record"):
            if self.cache_dir is not None and getattr(self, name) is not None:
                raise ConfigError(
                    f"cache_dir is {self.cache_dir} and {name} is {getattr(self, name)}; only one of them can be "
                    "given. Leave one out."
                )

    @property
    def loading(self) -> dict[str, Any]:
        """What `load_model` is to be told."""
        return {"bits": self.bits, "threads": self.threads, "numerics": self.numerics, "load": self.load}

    @property
    def mtp(self) -> bool | None:
        """Whether the model's MTP modules are needed; None: taken if there are any."""
        drafts = read_spec(self.spec)
        return None if drafts is None else drafts > 0


@dataclass(frozen=True)
class EngineStats:
    """The engine now, and its counts since it began. step_s: duration of the latest step [s].

    prefix_hit_tokens were found, not computed; disk_hit_tokens are those of them that a file gave back. copied_pages
    were shared by siblings until one wrote into them; spilled_pages went to the file, restored_pages came back from it,
    lost_pages would have, but were damaged; slots_used are in the file now.
    drafted_by_depth, accepted_by_depth: guesses that were verified, and those that were right: first the ones for the
    token next to come, then for the one after it, and so on.
    """

    running: int
    waiting: int
    pages_used: int
    pages_total: int
    steps: int
    preemptions: int
    prefix_hit_tokens: int
    evictions: int
    copied_pages: int
    spilled_pages: int
    restored_pages: int
    lost_pages: int
    computed_tokens: int
    sampled_tokens: int
    step_s: float
    drafted_by_depth: tuple[int, ...] = ()
    accepted_by_depth: tuple[int, ...] = ()
    disk_hit_tokens: int = 0
    slots_used: int = 0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class Engine:
    """One model, one cache, many requests at a time. `step_s` is how long the latest step took [s]."""

    def __init__(
        self, model: Model, *, config: EngineConfig | None = None, eos_token_ids: Iterable[int] = (),
        crew: Crew | None = None,
    ) -> None:  # fmt: skip
        self.config, self.model, self.crew = config or EngineConfig(), model, crew
        # the first stage of a pipeline has no MTP module itself
        modules = model.mtp_modules if crew is None else model.config.num_nextn_predict_layers
        drafts = drafts_of(modules, self.config.spec)
        limits, mtp = self._limits(model, mtp=drafts != 0), drafts != 0
        self.timeline = Timeline() if crew is None else crew.timeline
        self.mtp, spill = mtp, None
        if crew is not None:
            _check_crew(self.config)
            self.runner = crew.open(limits.num_pages, limits.page_tokens, mtp=mtp)
        else:
            cache = LatentCache(
                model.config, limits.num_pages, limits.page_tokens, dtype=model.compute_dtype, device=model.device,
                mtp=mtp,
            )  # fmt: skip
            spill = self._spill_file(cache)
            if spill is not None:
                limits = replace(limits, spill_slots=spill.num_slots)
            self.runner = Runner(model, cache, spill, self.timeline)
        self.cache, ends = self.runner.cache, tuple(eos_token_ids)
        self.balancer: Balancer | None = None
        if crew is not None and self.config.eplb != "off":
            self.balancer = Balancer(crew, Rebalance(self.config.eplb, every=self.config.eplb_every))
        self.seeing = Seeing(model, crew, self.balancer, self.timeline)
        self.lanes = Lanes([Lane(limits, ends, drafts) for _ in range(1 if crew is None else crew.lanes)])
        if isinstance(spill, KeptFile):
            self.scheduler.tables.keep(spill.kept())
        self._log: StepLog | None = None
        if self.config.record:
            self._log = StepLog(self.config.record, describe_engine(model, self.cache, limits))
        self.step_s = 0.0
        self._computed_tokens = 0
        self._sampled_tokens = 0

    @cached_property
    def pages(self) -> PageStore:
        """Its pages by name, to be given to other engines and taken from them."""
        return PageStore(self)

    @property
    def scheduler(self) -> Scheduler:
        """The first lane's; there is only one unless a crew has more."""
        return self.lanes.lanes[0].scheduler

    @property
    def policy(self) -> SpecPolicy:
        return self.lanes.lanes[0].policy

    @property
    def step_time(self) -> StepTime:
        return self.lanes.lanes[0].step_time

    @property
    def running(self) -> list[str]:
        """Requests that are being computed."""
        return [sequence.request.id for lane in self.lanes.lanes for sequence in lane.scheduler.running]

    @property
    def live(self) -> list[str]:
        """Requests that are not finished."""
        return [request_id for lane in self.lanes.lanes for request_id in lane.scheduler.live]

    @property
    def context_tokens(self) -> int:
        """The longest prompt with its output that one request may have."""
        return self.scheduler.config.context_tokens

    @property
    def has_work(self) -> bool:
        return any(lane.scheduler.has_work for lane in self.lanes.lanes)

    def add(self, request: Request) -> None:
        """Queue a request.

        Raises: RequestError: it cannot be served; `param` names the field at fault.
        """
        self._check_ids("prompt", request.prompt_token_ids)
        self._check_ids("emitted_token_ids", request.emitted_token_ids)
        if request.params.thinking is not None:
            self._check_ids("thinking.end_think_id", (request.params.thinking.end_think_id,))
            self._check_ids("thinking.think_id", (request.params.thinking.think_id or 0,))
        self.lanes.add(request)

    def abort(self, request_id: str) -> Output | None:
        """Stop a request and free its pages; None if it is not here (any more)."""
        lane = self.lanes.of(request_id)
        self.lanes.forget(request_id)
        return None if lane is None else lane.scheduler.abort(request_id)

    def step(self) -> list[Output]:
        """Compute one Plan; what it did for each request in it, also where that was only reading on in the prompt.

        Raises: EngineError: the model gave no numbers. The step then did not happen: abort what is at fault, go on.
        """
        if not self.has_work:
            return []
        self.timeline.begin("schedule")
        outputs = self._step_alone() if self.crew is None else self._step_together(self.crew)
        self.timeline.begin("wait")
        self.seeing.after_step()
        return outputs

    def _step_alone(self) -> list[Output]:
        plan, sampled = self._execute()
        self._computed_tokens += plan.num_tokens
        if self._log is not None:
            self._log.write(StepRecord(plan, tuple(sampled), self.step_s, self.runner.draft_s))
        return self._take(self.lanes.lanes[0], plan, sampled)

    def _take(self, lane: Lane, plan: Plan, sampled: list[Sampled]) -> list[Output]:
        self.timeline.begin("update")
        outputs = lane.scheduler.update(plan, sampled)
        self._sampled_tokens += sum(len(output.token_ids) for output in outputs)
        return outputs

    def _step_together(self, crew: Crew) -> list[Output]:
        """One step of every lane; those without work lend their experts."""
        started = perf_counter()
        plans = [lane.schedule() for lane in self.lanes.lanes]
        answers = crew.execute(plans)
        self.step_s = perf_counter() - started
        outputs: list[Output] = []
        most = max(plan.num_tokens for plan in plans)
        for lane, plan, sampled in zip(self.lanes.lanes, plans, answers, strict=True):
            if not plan.rows:
                continue
            if plan.num_tokens == most:  # the step took as long as its fullest lane
                lane.observe(plan, sampled, self.step_s, self.runner.draft_s)
            self._computed_tokens += plan.num_tokens
            outputs += self._take(lane, plan, sampled)
        if self.balancer is not None:
            self.balancer.after_step(sum(plan.num_tokens for plan in plans), self.step_s)
        return outputs

    def save_pages(self, most: int = SAVED_AT_ONCE) -> bool:
        """Write up to `most` pages that are only in memory to the cache folder; whether more are left.

        For moments without work: then they are there for the next process, and need no writing once they are evicted.
        """
        tables = self.scheduler.tables
        if moves := tables.save(most):
            self.runner.write_spills([move[:2] for move in moves], [name for _, _, name in moves])
            tables.spill.settle()
        return bool(moves) and tables.unsaved > 0

    def _execute(self) -> tuple[Plan, list[Sampled]]:
        """The next plan, carried out and timed; planned again as long as it relies on pages that prove lost."""
        lane = self.lanes.lanes[0]
        while True:
            started = perf_counter()
            plan = lane.schedule()
            self.timeline.step = plan.step
            try:
                sampled = self.runner.execute(plan)
            except LostPages as lost:
                self.scheduler.forget(lost.slots)
                continue
            self.step_s = perf_counter() - started
            if plan.restores:
                self.step_time.observe_restores(len(plan.restores), self.runner.restore_s)
            lane.observe(plan, sampled, self.step_s - self.runner.restore_s, self.runner.draft_s)
            return plan, sampled

    def watch(self, on_lost: Callable[[str], None]) -> None:
        """`on_lost` hears, from any thread, why the engine cannot go on, if that happens while it has no work."""
        if self.crew is not None:
            self.crew.on_lost = on_lost

    def close(self) -> None:
        """Let the ranks of a crew go."""
        if self.crew is not None:
            self.crew.close()

    def stats(self) -> EngineStats:
        schedulers = [lane.scheduler for lane in self.lanes.lanes]
        return EngineStats(
            running=sum(len(s.running) for s in schedulers),
            waiting=sum(len(s.waiting) for s in schedulers),
            pages_used=sum(s.pool.used for s in schedulers),
            pages_total=sum(s.pool.num_pages for s in schedulers),
            steps=max(s.steps for s in schedulers),
            preemptions=sum(s.preemptions for s in schedulers),
            prefix_hit_tokens=sum(s.prefix_hit_tokens for s in schedulers),
            disk_hit_tokens=sum(s.disk_hit_tokens for s in schedulers),
            evictions=sum(s.pool.evictions for s in schedulers),
            copied_pages=sum(s.tables.copied for s in schedulers),
            spilled_pages=sum(s.tables.spill.spilled for s in schedulers),
            restored_pages=sum(s.tables.spill.restored for s in schedulers),
            lost_pages=sum(s.tables.spill.lost for s in schedulers),
            slots_used=sum(len(s.tables.spill) for s in schedulers),
            computed_tokens=self._computed_tokens,
            sampled_tokens=self._sampled_tokens,
            step_s=self.step_s,
            drafted_by_depth=_added(s.drafted_by_depth for s in schedulers),
            accepted_by_depth=_added(s.accepted_by_depth for s in schedulers),
        )

    def _spill_file(self, cache: LatentCache) -> SpillFile | None:
        """The file beside the memory, should there be one."""
        config = self.config
        if config.spill_path is not None:
            return SpillFile(config.spill_path, config.spill_bytes, cache)
        if config.cache_dir is not None:
            return KeptFile(config.cache_dir, config.spill_bytes, cache, page_format(self.model, cache))
        return None

    def _limits(self, model: Model, *, mtp: bool) -> SchedulerConfig:
        config = self.config
        fraction = config.memory_fraction / (1 if self.crew is None else self.crew.config.here)
        num_pages = config.num_pages or pages_that_fit(
            model.config, config.page_tokens, config.max_sequences, fraction, model.compute_dtype,
            model.device, mtp=mtp,
        )  # fmt: skip
        return SchedulerConfig(
            max_batch_tokens=config.max_batch_tokens,
            max_sequences=config.max_sequences,
            page_tokens=config.page_tokens,
            num_pages=num_pages,
            max_context_tokens=model.config.max_position_embeddings,
            max_stretch=config.max_stretch,
            numerics=model.numerics,
        )

    def _check_ids(self, name: str, token_ids: Iterable[int]) -> None:
        vocab_size = self.model.config.vocab_size
        for token_id in token_ids:
            if not 0 <= token_id < vocab_size:
                raise RequestError(
                    f"{name} holds token id {token_id}; the model's ids are 0 to {vocab_size - 1}.",
                    param=name,
                    code="invalid_token_id",
                )


def _added(counts: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
    """Counts by depth of several, together."""
    return tuple(map(sum, zip_longest(*counts, fillvalue=0)))


def _check_crew(config: EngineConfig) -> None:
    """Raise ConfigError for what several ranks do not do."""
    for name in ("record", "spill_path", "cache_dir"):
        if getattr(config, name) is not None:
            raise ConfigError(f"{name} is {getattr(config, name)!r}; a layout of several ranks has none. Leave it out.")
    if config.numerics != "exact":
        raise ConfigError(f"numerics is {config.numerics!r}; several ranks are always exact. Leave it out.")
