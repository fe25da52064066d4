"""Continuous batching: which sequences run in the next step, how many of their tokens, and on which pages.

There is no prefill phase and no decode phase: a step has a budget of tokens. Sequences with one token to compute take
theirs first, so nobody's stream waits for another's prompt; the rest goes to chunks of prompts, then to newcomers.

Every choice follows one total order, `Sequence.key`: arrival, shifted by priority. Pages go to smaller keys first,
and who must give pages back has the largest key. The smallest key of all can therefore always advance, and as newer
requests get larger keys, every request comes to be the smallest: nobody starves, whatever the load.

A preempted sequence gives up its pages and is computed again from its tokens, output included. Its full pages stay in
the pool until somebody needs them, so that it often finds most of them again.

Guesses at coming tokens (drafts) are verified with what budget and pages leave over. Only those that came true become
tokens; the latents of the others lie behind `computed`, where the next step writes.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from fathom.batching.pages import PagePool, page_hash, root_hash
from fathom.batching.plan import Plan, Row, Sampled, Sampling
from fathom.batching.request import Output, Request, Sequence
from fathom.errors import ConfigError, EngineError, RequestError


@dataclass(frozen=True)
class SchedulerConfig:
    """Limits of a step and of the cache.

    Fields: max_batch_tokens: tokens computed in a step. max_sequences: sequences in a step. page_tokens: tokens in a
            page. num_pages: pages in the cache. max_context_tokens: longest prompt with its output, as the model
            allows; None if only the cache limits it. priority_steps: a request of priority p is ranked as if it had
            arrived p * priority_steps steps later.
    """

    max_batch_tokens: int = 512
    max_sequences: int = 32
    page_tokens: int = 16
    num_pages: int = 512
    max_context_tokens: int | None = None
    priority_steps: int = 1000

    def __post_init__(self) -> None:
        for name in ("max_batch_tokens", "max_sequences", "page_tokens", "num_pages", "priority_steps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if self.max_batch_tokens < self.max_sequences:
            raise ConfigError(
                f"max_batch_tokens is {self.max_batch_tokens}, less than max_sequences = {self.max_sequences}; a step "
                "must hold one token of every sequence. Raise the first or lower the second."
            )

    @property
    def context_tokens(self) -> int:
        """The longest prompt with its output that one request may have."""
        cached = self.num_pages * self.page_tokens
        return cached if self.max_context_tokens is None else min(cached, self.max_context_tokens)


class Scheduler:
    """Turns requests into Plans: `add`, then `schedule` and `update` in turn while `has_work`.

    A Plan that was never answered (the step failed) is simply planned again: nothing counts as computed before
    `update`. `add` and `abort` are allowed at any time, also between the two.
    """

    def __init__(self, config: SchedulerConfig, eos_token_ids: Iterable[int] = ()) -> None:
        self.config = config
        self.eos_token_ids = frozenset(eos_token_ids)
        self.pool = PagePool(config.num_pages)
        self.live: dict[str, Sequence] = {}
        self.waiting: list[Sequence] = []  # by key
        self.running: list[Sequence] = []  # by key
        self.steps = 0
        self.preemptions = 0
        self.prefix_hit_tokens = 0
        self._drafted: Counter[int] = Counter()  # by depth: 0 is the guess for the token next to come
        self._accepted: Counter[int] = Counter()
        self._added = 0
        self._planned: dict[Sequence, int] = {}  # tokens of each sequence in the plan being made or executed
        self._preempted: list[str] = []

    @property
    def has_work(self) -> bool:
        return bool(self.live)

    @property
    def drafted_by_depth(self) -> tuple[int, ...]:
        """Guesses verified so far: for the token next to come, for the one after it, ..."""
        return tuple(self._drafted[depth] for depth in range(len(self._drafted)))

    @property
    def accepted_by_depth(self) -> tuple[int, ...]:
        """Those of them that were right."""
        return tuple(self._accepted[depth] for depth in range(len(self._drafted)))

    def add(self, request: Request) -> None:
        """Queue a request.

        Raises: RequestError: its id is taken, its prompt is empty, or it could never fit.
        """
        prompt, limit = request.prompt_token_ids, self.config.context_tokens
        if request.id in self.live:
            raise RequestError(f"request id {request.id!r} is in use; choose another.", param="id", code="duplicate_id")
        if not prompt:
            raise RequestError("the prompt has 0 tokens; it must have at least 1.", param="prompt", code="empty_prompt")
        if len(prompt) + request.params.max_tokens > limit:
            raise RequestError(
                f"the prompt has {len(prompt)} tokens and max_tokens is {request.params.max_tokens}, together "
                f"{len(prompt) + request.params.max_tokens}; the context holds {limit}. Shorten one of them.",
                param="max_tokens" if len(prompt) < limit else "prompt",
                code="context_length_exceeded",
            )
        key = (self.steps + request.params.priority * self.config.priority_steps, self._added)
        self._added += 1
        sequence = Sequence(request=request, key=key, tokens=list(prompt))
        self.live[request.id] = sequence
        insort(self.waiting, sequence, key=_key)

    def abort(self, request_id: str) -> Output | None:
        """Stop a request and free its pages; None if there is no such request (any more)."""
        sequence = self.live.get(request_id)
        if sequence is None:
            return None
        sequence.finish_reason = "abort"
        output = self._output(sequence)
        self._retire(sequence)
        return output

    def schedule(self, max_drafts: int = 0) -> Plan:
        """Decide the next step; `plan.rows` is empty only if there is nothing to do.

        Args: max_drafts: guesses per sequence, both to verify in this step and to make for the next.
        """
        self.steps += 1
        self._planned, self._preempted = {}, []
        self._plan_decodes()
        self._plan_prefills()
        self._admit()
        if max_drafts:
            self._plan_drafts(max_drafts)
        rows = tuple(self._row(sequence, count, max_drafts) for sequence, count in self._planned.items())
        return Plan(step=self.steps, rows=rows, preempted=tuple(self._preempted))

    def update(self, plan: Plan, sampled: list[Sampled]) -> list[Output]:
        """Take in what the latest plan computed, one Sampled for each of its sampling rows, in order."""
        if plan.step != self.steps or len(plan.rows) != len(self._planned):
            raise EngineError(f"plan {plan.step} is not under way (the latest is {self.steps}); answer each once.")
        due = sum(row.sampling is not None for row in plan.rows)
        if len(sampled) != due:
            raise EngineError(f"plan {plan.step} samples {due} rows, but {len(sampled)} came back.")
        answers = iter(sampled)
        outputs = []
        for sequence, row in zip(self._planned, plan.rows, strict=True):
            answer = next(answers) if row.sampling is not None else None
            if sequence.finish_reason is not None:
                continue  # aborted while the step ran: its pages are gone and nobody waits for the token
            outputs.append(self._take(sequence, row, answer))
            if sequence.finish_reason is not None:
                self._retire(sequence)
        self._planned = {}
        return outputs

    def _take(self, sequence: Sequence, row: Row, answer: Sampled | None) -> Output:
        """Add what came back for one row, as far as the sequence goes."""
        sequence.computed = row.start + len(row.token_ids) - row.drafts
        if answer is None:
            self._publish(sequence)
            return self._output(sequence)
        before = len(sequence.tokens)
        for token_id in answer.token_ids:
            sequence.append(token_id, self.eos_token_ids)
            if sequence.finish_reason is not None:
                break
        taken = len(sequence.tokens) - before
        sequence.computed += taken - 1
        sequence.drafts = answer.drafts
        self._publish(sequence)
        self._drafted.update(range(row.drafts))
        self._accepted.update(range(taken - 1))
        return self._output(sequence, answer, taken, row.drafts)

    # -- the parts of a step ---------------------------------------------------------------------------------------

    def _plan_decodes(self) -> None:
        """One token for each sequence that needs just one, preempting from the back of the order if need be."""
        for sequence in [s for s in self.running if s.remaining == 1]:
            if not sequence.running:
                continue  # preempted a moment ago, for a smaller key
            if self._grow(sequence, 1):
                self._planned[sequence] = 1
            else:
                self._preempt(sequence)

    def _plan_prefills(self) -> None:
        """Chunks of prompts already begun, shorter ones where pages are short."""
        for sequence in [s for s in self.running if s.remaining > 1]:
            wanted = min(sequence.remaining, self._budget)
            if sequence.running and wanted and (granted := self._grow(sequence, wanted)):
                self._planned[sequence] = granted

    def _admit(self) -> None:
        """Newcomers in order, each only when all its known tokens have pages in sight."""
        while self.waiting and self._budget and len(self.running) < self.config.max_sequences:
            sequence = self.waiting[0]
            matched = self.pool.match(self._full_page_hashes(sequence, len(sequence.tokens) - 1))
            if not self._has_room(sequence, matched):
                return
            self.pool.hold(matched)
            self.waiting.pop(0)
            insort(self.running, sequence, key=_key)
            sequence.running, sequence.pages, sequence.published = True, matched, len(matched)
            sequence.computed = len(matched) * self.config.page_tokens
            if sequence.cached_tokens is None:
                sequence.cached_tokens = sequence.computed
                self.prefix_hit_tokens += sequence.computed
            self._planned[sequence] = self._grow(sequence, min(sequence.remaining, self._budget))

    def _plan_drafts(self, most: int) -> None:
        """Guesses, for rows that need just one token; they take what is left over and preempt nobody."""
        for sequence, count in self._planned.items():
            if count == sequence.remaining:
                drafts = min(len(sequence.drafts), most, self._budget, sequence.room - 1)
                ahead = max(0, min(most, sequence.room - 2) - 1)  # guesses leave provisional latents, but for the first
                self._reserve(sequence, count + drafts + ahead)
                self._planned[sequence] += max(0, min(drafts, self._slots(sequence) - count))

    # -- pages -----------------------------------------------------------------------------------------------------

    @property
    def _budget(self) -> int:
        return self.config.max_batch_tokens - sum(self._planned.values())

    def _pages_for(self, tokens: int) -> int:
        return -(-tokens // self.config.page_tokens)

    def _has_room(self, sequence: Sequence, matched: list[int]) -> bool:
        """Whether its known tokens fit beside what the running ones still need, plus one page of growth for each."""
        needed = self._pages_for(len(sequence.tokens)) - len(matched)
        promised = sum(max(0, self._pages_for(len(s.tokens)) - len(s.pages)) + 1 for s in self.running)
        return needed + promised <= self.pool.available - self.pool.count_idle(matched)

    def _grow(self, sequence: Sequence, tokens: int) -> int:
        """Give `sequence` pages for its next `tokens` tokens; returns for how many of them it has pages now."""
        while len(sequence.pages) < self._pages_for(sequence.computed + tokens):
            if not self.pool.available and (self._slots(sequence) > 0 or not self._make_room(sequence)):
                return self._slots(sequence)
            sequence.pages.append(self.pool.allocate())
        return tokens

    def _reserve(self, sequence: Sequence, tokens: int) -> None:
        """Pages for guesses, as long as a page stays in sight for everyone's next token."""
        while self._slots(sequence) < tokens and self.pool.available > len(self.running):
            sequence.pages.append(self.pool.allocate())

    def _slots(self, sequence: Sequence) -> int:
        """Tokens for which it has pages, beyond those computed."""
        return len(sequence.pages) * self.config.page_tokens - sequence.computed

    def _make_room(self, sequence: Sequence) -> bool:
        """Preempt from the back of the order, sparing rows already planned, until a page is available."""
        for victim in [s for s in reversed(self.running) if s.key > sequence.key and s not in self._planned]:
            self._preempt(victim)
            if self.pool.available:
                return True
        return False

    def _preempt(self, sequence: Sequence) -> None:
        self._stop_running(sequence)
        sequence.drafts = ()
        sequence.preemptions += 1
        self.preemptions += 1
        self._preempted.append(sequence.request.id)
        insort(self.waiting, sequence, key=_key)

    def _stop_running(self, sequence: Sequence) -> None:
        self.pool.release(sequence.pages)
        sequence.running, sequence.pages, sequence.computed, sequence.published = False, [], 0, 0
        _remove(self.running, sequence)

    def _retire(self, sequence: Sequence) -> None:
        if sequence.running:
            self._stop_running(sequence)
        else:
            _remove(self.waiting, sequence)
        del self.live[sequence.request.id]

    def _full_page_hashes(self, sequence: Sequence, tokens: int) -> list[bytes]:
        """Hashes of the full pages among the first `tokens` tokens, computed once each."""
        size, hashes = self.config.page_tokens, sequence.hashes
        while (len(hashes) + 1) * size <= tokens:
            parent = hashes[-1] if hashes else root_hash(sequence.request.cache_salt)
            hashes.append(page_hash(parent, sequence.tokens[len(hashes) * size : (len(hashes) + 1) * size]))
        return hashes[: tokens // size]

    def _publish(self, sequence: Sequence) -> None:
        hashes = self._full_page_hashes(sequence, sequence.computed)
        for index in range(sequence.published, len(hashes)):
            self.pool.publish(sequence.pages[index], hashes[index])
        sequence.published = len(hashes)

    # -- messages --------------------------------------------------------------------------------------------------

    def _row(self, sequence: Sequence, count: int, max_drafts: int) -> Row:
        start, known, pages = sequence.computed, len(sequence.tokens), tuple(sequence.pages)
        end = start + count
        if end < known:
            after = sequence.tokens[end] if max_drafts else None
            return Row(sequence.request.id, tuple(sequence.tokens[start:end]), start, pages, next_token_id=after)
        params = sequence.request.params
        sampling = Sampling(
            position=known,
            params=params,
            thinking_left=sequence.thinking_left,
            prompt_ids=sequence.request.prompt_token_ids if params.penalises_prompt else (),
            output_ids=tuple(sequence.tokens[sequence.prompt_tokens :]) if params.penalises_output else (),
        )
        guesses = sequence.drafts[: end - known]
        propose = max(0, min(max_drafts, sequence.room - 2, self._slots(sequence) - count + 1))
        tokens = (*sequence.tokens[start:], *guesses)
        return Row(sequence.request.id, tokens, start, pages, sampling, len(guesses), propose)

    def _output(self, sequence: Sequence, answer: Sampled | None = None, taken: int = 0, drafts: int = 0) -> Output:
        return Output(
            request_id=sequence.request.id,
            token_ids=() if answer is None else answer.token_ids[:taken],
            finish_reason=sequence.finish_reason,
            read_tokens=min(sequence.computed, sequence.prompt_tokens),
            cached_tokens=sequence.cached_tokens or 0,
            logprobs=() if answer is None else answer.logprobs[:taken],
            accepted_drafts=max(0, taken - 1),
            rejected_drafts=drafts - max(0, taken - 1),
        )


def _key(sequence: Sequence) -> tuple[int, int]:
    return sequence.key


def _remove(ordered: list[Sequence], sequence: Sequence) -> None:
    index = bisect_left(ordered, sequence.key, key=_key)
    if ordered[index] is not sequence:
        raise EngineError(f"sequence {sequence.request.id!r} is not where its key says; please report this.")
    del ordered[index]
