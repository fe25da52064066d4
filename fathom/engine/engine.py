"""The loop: requests in, one step at a time, outputs out.

    engine = Engine(load_model("nano"), eos_token_ids=(1,))
    engine.add(Request("a", (0, 17, 4), SamplingParams(max_tokens=16)))
    while engine.has_work:
        for output in engine.step():
            print(output.request_id, output.token_ids, output.finish_reason)

A step is: the scheduler makes a Plan, the runner executes it, the scheduler takes in the tokens. Not thread-safe.
A model loaded with its MTP module guesses ahead (`EngineConfig.spec`): that changes how fast a text comes, not which.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from time import perf_counter
from typing import Any

from fathom.batching.limits import SchedulerConfig
from fathom.batching.plan import Plan, Sampled
from fathom.batching.request import Output, Request
from fathom.batching.scheduler import Scheduler
from fathom.batching.steptime import StepTime
from fathom.engine.kept import KeptFile
from fathom.engine.load import pages_that_fit, read_bits, read_load, read_numerics
from fathom.engine.record import StepLog, StepRecord
from fathom.engine.replay import describe_engine
from fathom.engine.runner import Runner
from fathom.engine.spec_policy import SpecPolicy, read_spec
from fathom.engine.spill import LostPages, SpillFile
from fathom.engine.transfer import PageStore, page_format
from fathom.errors import ConfigError, RequestError
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
    lost_pages would have, but were damaged.
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

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class Engine:
    """One model, one cache, many requests at a time. `step_s` is how long the latest step took [s]."""

    def __init__(
        self, model: Model, *, config: EngineConfig | None = None, eos_token_ids: Iterable[int] = ()
    ) -> None:
        self.config = config or EngineConfig()
        self.model = model
        self.policy = SpecPolicy(_drafts(model, self.config))
        limits, mtp = self._limits(model), self.policy.fixed != 0
        self.cache = LatentCache(
            model.config, limits.num_pages, limits.page_tokens, dtype=model.compute_dtype, device=model.device, mtp=mtp
        )
        spill = self._spill_file()
        if spill is not None:
            limits = replace(limits, spill_slots=spill.num_slots)
        self.step_time = StepTime()
        self.scheduler = Scheduler(limits, eos_token_ids, self.step_time)
        if isinstance(spill, KeptFile):
            self.scheduler.tables.keep(spill.kept())
        self.runner = Runner(model, self.cache, spill)
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
    def context_tokens(self) -> int:
        """The longest prompt with its output that one request may have."""
        return self.scheduler.config.context_tokens

    @property
    def has_work(self) -> bool:
        return self.scheduler.has_work

    def add(self, request: Request) -> None:
        """Queue a request.

        Raises: RequestError: it cannot be served; `param` names the field at fault.
        """
        self._check_ids("prompt", request.prompt_token_ids)
        if request.params.thinking is not None:
            self._check_ids("thinking.end_think_id", (request.params.thinking.end_think_id,))
        self.scheduler.add(request)

    def abort(self, request_id: str) -> Output | None:
        """Stop a request and free its pages; None if it is not here (any more)."""
        return self.scheduler.abort(request_id)

    def step(self) -> list[Output]:
        """Compute one Plan; what it did for each request in it, also where that was only reading on in the prompt.

        Raises: EngineError: the model gave no numbers. The step then did not happen: abort what is at fault, go on.
        """
        if not self.has_work:
            return []
        plan, sampled = self._execute()
        self._computed_tokens += plan.num_tokens
        if self._log is not None:
            self._log.write(StepRecord(plan, tuple(sampled), self.step_s, self.runner.draft_s))
        outputs = self.scheduler.update(plan, sampled)
        self._sampled_tokens += sum(len(output.token_ids) for output in outputs)
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
        while True:
            started = perf_counter()
            sequences = min(len(self.scheduler.live), self.scheduler.config.max_sequences)
            plan = self.scheduler.schedule(self.policy.choose(sequences))
            try:
                sampled = self.runner.execute(plan)
            except LostPages as lost:
                self.scheduler.forget(lost.slots)
                continue
            self.step_s = perf_counter() - started
            if plan.restores:
                self.step_time.observe_restores(len(plan.restores), self.runner.restore_s)
            computing_s = self.step_s - self.runner.restore_s
            self.step_time.observe(plan, computing_s - self.runner.draft_s)
            self.policy.observe(plan, sampled, computing_s, self.runner.draft_s)
            return plan, sampled

    def stats(self) -> EngineStats:
        scheduler, pool, tables = self.scheduler, self.scheduler.pool, self.scheduler.tables
        return EngineStats(
            running=len(scheduler.running),
            waiting=len(scheduler.waiting),
            pages_used=pool.used,
            pages_total=pool.num_pages,
            steps=scheduler.steps,
            preemptions=scheduler.preemptions,
            prefix_hit_tokens=scheduler.prefix_hit_tokens,
            disk_hit_tokens=scheduler.disk_hit_tokens,
            evictions=pool.evictions,
            copied_pages=tables.copied,
            spilled_pages=tables.spill.spilled,
            restored_pages=tables.spill.restored,
            lost_pages=tables.spill.lost,
            computed_tokens=self._computed_tokens,
            sampled_tokens=self._sampled_tokens,
            step_s=self.step_s,
            drafted_by_depth=scheduler.drafted_by_depth,
            accepted_by_depth=scheduler.accepted_by_depth,
        )

    def _spill_file(self) -> SpillFile | None:
        """The file beside the memory, should there be one."""
        config = self.config
        if config.spill_path is not None:
            return SpillFile(config.spill_path, config.spill_bytes, self.cache)
        if config.cache_dir is not None:
            return KeptFile(config.cache_dir, config.spill_bytes, self.cache, page_format(self.model, self.cache))
        return None

    def _limits(self, model: Model) -> SchedulerConfig:
        config = self.config
        num_pages = config.num_pages or pages_that_fit(
            model.config, config.page_tokens, config.max_sequences, config.memory_fraction, model.compute_dtype,
            model.device, mtp=self.policy.fixed != 0,
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


def _drafts(model: Model, config: EngineConfig) -> int | None:
    """Guesses per step that `config.spec` means for this model; None: as many as pay."""
    drafts = read_spec(config.spec)
    if model.mtp_modules:
        return drafts
    if drafts:
        raise ConfigError(f"spec is {config.spec}; this model was loaded without an MTP module. Use auto or off.")
    return 0
