"""Continuous batching: which sequences run in the next step, how many of their tokens, and on which pages.

There is no prefill phase and no decode phase: a step has a budget of tokens. Sequences with one token to compute take
theirs first, so nobody's stream waits for another's prompt; the rest goes to chunks of prompts, then to newcomers. So
that prompts do not slow the streams either, they get no more tokens than keep the step, as StepTime predicts it, within
`max_stretch` times what the decodes take alone, where somebody reads along. There is no clock here: the prediction is
part of the Plan.

Every choice follows one total order, `Sequence.key`: arrival, shifted by priority. Pages go to smaller keys first,
and who must give pages back has the largest key. The smallest key of all can therefore always advance, and as newer
requests get larger keys, every request comes to be the smallest: nobody starves, whatever the load.

Requests for the same prompt that wait next in line when it is done being computed join it: they are siblings, sample
from the same logits and share its pages. A preempted sequence gives up its pages and is computed again from its tokens,
output included. Its full pages stay in the pool until somebody needs them, so that it often finds most of them again.

Guesses at coming tokens (drafts) are verified with what budget and pages leave over. Only those that came true become
tokens; the latents of the others lie behind `computed`, where the next step writes.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterable

from fathom.batching.limits import SchedulerConfig
from fathom.batching.plan import Plan, Row, Sampled
from fathom.batching.request import Output, Request, Sequence
from fathom.batching.rows import knows, output_of, row_of
from fathom.batching.steptime import Budget, StepTime
from fathom.batching.tables import PageTables
from fathom.errors import EngineError, RequestError


class Scheduler:
    """Turns requests into Plans: `add`, then `schedule` and `update` in turn while `has_work`.

    A Plan that was never answered (the step failed) is simply planned again: nothing counts as computed before
    `update`. `add` and `abort` are allowed at any time, also between the two.

    Args: step_time: predicts steps; without it only `max_batch_tokens` limits the prompts in a step.
    """

    def __init__(
        self, config: SchedulerConfig, eos_token_ids: Iterable[int] = (), step_time: StepTime | None = None
    ) -> None:
        self.config = config
        self.eos_token_ids = frozenset(eos_token_ids)
        self.step_time = step_time
        self.tables = PageTables(
            config.num_pages, config.page_tokens, spill_slots=config.spill_slots, numerics=config.numerics
        )
        self.pool = self.tables.pool
        self.live: dict[str, Sequence] = {}
        self.waiting: list[Sequence] = []  # by key
        self.running: list[Sequence] = []  # by key
        self.steps = 0
        self.preemptions = 0
        self.prefix_hit_tokens = 0
        self.disk_hit_tokens = 0
        self._drafted: Counter[int] = Counter()  # by depth: 0 is the guess for the token next to come
        self._accepted: Counter[int] = Counter()
        self._added = 0
        self._planned: dict[Sequence, int] = {}  # tokens of each sequence in the plan being made or executed
        self._preempted: list[str] = []
        self._guesses = False  # whether this plan may ask for guesses
        self._budget = Budget(0)

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
        """Queue a request; one with emitted tokens goes on after them, and its outputs hold only what is new.

        Raises: RequestError: its id is taken, its prompt is empty, it could never fit, or it has ended already.
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
        sequence = Sequence(request=request, key=key, tokens=list(prompt))
        sequence.resume(self.eos_token_ids)
        self._added += 1
        self.live[request.id] = sequence
        insort(self.waiting, sequence, key=_key)

    def abort(self, request_id: str) -> Output | None:
        """Stop a request and free its pages; None if there is no such request (any more)."""
        sequence = self.live.get(request_id)
        if sequence is None:
            return None
        sequence.finish_reason = "abort"
        output = output_of(sequence)
        self._retire(sequence)
        return output

    def forget(self, slots: Iterable[int]) -> None:
        """These slots of the spill file could not be read back: the plan that reads them is void, `schedule` again."""
        self.tables.spill.lose(slots)

    def schedule(self, max_drafts: int = 0) -> Plan:
        """Decide the next step; `plan.rows` is empty only if there is nothing to do.

        Args: max_drafts: guesses per sequence, both to verify in this step and to make for the next.
        """
        self.steps += 1
        self._planned, self._preempted = {}, []
        self._undo()
        decodes: list[Sequence] = []
        prompts: list[Sequence] = []
        for sequence in self.running:
            (decodes if len(sequence.tokens) - sequence.computed == 1 else prompts).append(sequence)
        self._plan_decodes(decodes)
        alone_s, limit_s = self._open_budget()
        self._plan_prefills(prompts)
        self._admit()
        if max_drafts and not any(map(knows, self._planned)):
            max_drafts = 0  # there is nothing to guess on, so MTP need not read either
        self._guesses = max_drafts > 0
        if self._guesses:
            self._plan_drafts(max_drafts)
        tables = self.tables
        return Plan(
            step=self.steps,
            rows=tuple([row_of(sequence, count, tables, max_drafts) for sequence, count in self._planned.items()]),
            spills=tuple(tables.spills),
            spill_names=tuple(tables.spill_names),
            copies=tuple(tables.copies),
            restores=tuple(tables.restores),
            preempted=tuple(self._preempted),
            predicted_s=alone_s + self._budget.spent_s if alone_s else 0.0,
            limit_s=limit_s,
        )

    def update(self, plan: Plan, sampled: list[Sampled]) -> list[Output]:
        """Take in what the latest plan computed, one Sampled for each of its sampling rows, in order."""
        if plan.step != self.steps or len(plan.rows) != len(self._planned):
            raise EngineError(f"plan {plan.step} is not under way (the latest is {self.steps}); answer each once.")
        due = sum(row.sampling is not None for row in plan.rows)
        if len(sampled) != due:
            raise EngineError(f"plan {plan.step} samples {due} rows, but {len(sampled)} came back.")
        answers, reads = iter(sampled), self._guesses and plan.reads_ahead  # MTP, that is
        outputs = []
        for sequence, row in zip(self._planned, plan.rows, strict=True):
            answer = next(answers) if row.sampling is not None else None
            if sequence.finish_reason is not None:
                continue  # aborted while the step ran: its pages are gone and nobody waits for the token
            outputs.append(self._take(sequence, row, answer, reads=reads))
            if sequence.finish_reason is not None:
                self._retire(sequence)
        self._planned = {}
        self.tables.settle()
        return outputs

    def _take(self, sequence: Sequence, row: Row, answer: Sampled | None, *, reads: bool) -> Output:
        """Add what came back for one row, as far as the sequence goes. reads: whether MTP has read it too."""
        sequence.computed, taken = row.start + len(row.token_ids) - row.drafts, 0
        if answer is not None:
            before = len(sequence.tokens)
            for token_id in answer.token_ids:
                sequence.append(token_id, self.eos_token_ids)
                if sequence.finish_reason is not None:
                    break
            taken = len(sequence.tokens) - before
            sequence.computed += taken - 1
            sequence.drafts = answer.drafts
            self._drafted.update(range(row.drafts))
            self._accepted.update(range(taken - 1))
        if not reads:
            sequence.unread += sequence.computed - row.start
        self.tables.publish(sequence)
        return output_of(sequence, answer, taken, row.drafts)

    # -- the parts of a step ---------------------------------------------------------------------------------------

    def _plan_decodes(self, decodes: list[Sequence]) -> None:
        """One token for each sequence that needs just one, preempting from the back of the order if need be."""
        for sequence in decodes:
            if not sequence.running:
                continue  # preempted a moment ago, for a smaller key
            if self._grow(sequence, 1):
                self._plan(sequence, 1)
            else:
                self._preempt(sequence)

    def _plan_prefills(self, prompts: list[Sequence]) -> None:
        """Chunks of prompts already begun, shorter ones where pages are short."""
        for sequence in prompts:
            if sequence.running and self._reuse(sequence):
                self._read(sequence)

    def _admit(self) -> None:
        """Newcomers in order, each only when all its known tokens have pages in sight."""
        while self.waiting and len(self.running) < self.config.max_sequences:
            sequence = self.waiting[0]
            if not self._budget.tokens_at(0) or not self._has_room(sequence):
                return
            self._start(sequence)
            if self._reuse(sequence):
                self._read(sequence)

    def _open_budget(self) -> tuple[float, float]:
        """What prompts may take of this step; returns how long its decodes take alone, and may take with prompts."""
        tokens = self.config.max_batch_tokens - sum(self._planned.values())
        time, stretch = self.step_time, self.config.max_stretch
        self._budget = Budget(tokens, time)
        if not self._planned or time is None:
            return 0.0, 0.0
        keys = [sequence.computed + 1 for sequence, count in self._planned.items() if count]
        alone_s, decodes = time.alone_s(len(keys), sum(keys)), len(keys)
        if stretch == math.inf or not any(sequence.request.streamed for sequence in self._planned):
            return alone_s, 0.0
        timing = time.wants_alone(decodes)
        least = 0 if timing else self.config.min_chunk_tokens
        self._budget = Budget(0 if timing else tokens, time, (stretch - 1.0) * alone_s, least)
        return alone_s, stretch * alone_s

    def _reuse(self, sequence: Sequence) -> bool:
        """Take over what exists of a prompt; whether the step can go on to compute from there."""
        before = sequence.computed
        restored, more = self.tables.reuse(sequence, self._budget.pages)
        self._budget.spend_pages(restored)
        if sequence.preemptions == 0 and not sequence.request.emitted_token_ids:
            sequence.cached_tokens += sequence.computed - before
            sequence.disk_tokens += restored * self.config.page_tokens
            self.prefix_hit_tokens += sequence.computed - before
            self.disk_hit_tokens += restored * self.config.page_tokens
        return not more

    def _read(self, sequence: Sequence) -> None:
        """A chunk of a prompt, as the budget and the pages allow."""
        start = sequence.computed
        wanted = min(sequence.remaining, self._budget.tokens_at(start))
        if wanted and (granted := self._grow(sequence, wanted)):
            self._budget.spend(granted, start)
            self._plan(sequence, granted)

    def _plan(self, sequence: Sequence, count: int) -> None:
        """A row for `count` tokens; if they are the last of a prompt, its siblings next in line join."""
        self._planned[sequence] = count
        known = len(sequence.tokens)
        if not self.waiting or known != sequence.prompt_tokens or sequence.computed + count != known:
            return
        while self.waiting and len(self.running) < self.config.max_sequences:
            sibling = self.waiting[0]
            if not sibling.is_sibling(sequence) or self._spare_pages < 1:
                return
            self._start(sibling)
            self.tables.share(sequence, sibling)
            sibling.unread = sequence.unread
            sibling.cached_tokens = known
            self.prefix_hit_tokens += known
            self._planned[sibling] = 0

    def _plan_drafts(self, most: int) -> None:
        """Guesses, for rows that need just one token; they take what is left over and preempt nobody."""
        left = self.config.max_batch_tokens - sum(self._planned.values())
        for sequence, count in self._planned.items():
            if count and count == sequence.remaining:
                drafts = min(len(sequence.drafts), most, left, sequence.room - 1)
                ahead = max(0, min(most, sequence.room - 2) - 1)  # guesses leave provisional latents, but for the first
                self._reserve(sequence, count + drafts + ahead)
                drafts = max(0, min(drafts, self.tables.slots(sequence) - count))
                self._planned[sequence] += drafts
                self._budget.spend_decodes(drafts, sequence.computed + 1)
                left -= drafts

    # -- pages -----------------------------------------------------------------------------------------------------

    @property
    def _spare_pages(self) -> int:
        """Pages beyond what the running sequences still need for their known tokens, and one of growth for each."""
        tables = self.tables
        promised = sum(max(0, tables.pages_for(len(s.tokens)) - len(s.pages)) + 1 for s in self.running)
        return self.pool.available - promised

    @property
    def starved(self) -> bool:
        """Whether requests wait, none runs, and yet the first has no room: the pages are held by somebody else."""
        return bool(self.waiting) and not self.running and not self._has_room(self.waiting[0])

    def _has_room(self, sequence: Sequence) -> bool:
        """Whether its known tokens fit into the spare pages, but for those that exist already."""
        spare = self._spare_pages
        if spare < 1:
            return False  # it needs at least one: its last token is always computed
        matched = self.tables.match(sequence)
        needed = self.tables.pages_for(len(sequence.tokens)) - len(matched)
        return needed + self.pool.count_idle(matched) <= spare

    def _grow(self, sequence: Sequence, tokens: int) -> int:
        """Give `sequence` pages for its next `tokens` tokens; returns for how many of them it has pages now."""
        tables, pool = self.tables, self.pool
        if tables.shares_next(sequence):
            if not pool.available:
                self._make_room(sequence)
            if tables.shares_next(sequence):  # still: those who gave up their pages were not the other holders
                if not pool.available:
                    return 0
                tables.copy_next(sequence)
        held = len(sequence.pages) * tables.page_tokens - sequence.computed
        while held < tokens:
            if not pool.available and (held > 0 or not self._make_room(sequence)):
                return held
            sequence.pages.append(pool.allocate())
            held += tables.page_tokens
        return tokens

    def _reserve(self, sequence: Sequence, tokens: int) -> None:
        """Pages for guesses, as long as a page stays in sight for everyone's next token."""
        while self.tables.slots(sequence) < tokens and self.pool.available > len(self.running):
            sequence.pages.append(self.pool.allocate())

    def _make_room(self, sequence: Sequence) -> bool:
        """Preempt from the back of the order, sparing who is part of the plan already, until a page is available."""
        spared = self._planned.keys() | self.tables.moved.keys()
        for victim in [s for s in reversed(self.running) if s.key > sequence.key and s not in spared]:
            self._preempt(victim)
            if self.pool.available:
                return True
        return False

    def _undo(self) -> None:
        """If the last plan went unanswered, take back what relied on its moves: it is computed again."""
        for sequence in self.tables.moved:
            if sequence.running:
                self._preempt(sequence)
        self.tables.cancel()

    def _start(self, sequence: Sequence) -> None:
        _remove(self.waiting, sequence)
        insort(self.running, sequence, key=_key)
        sequence.running = True

    def _preempt(self, sequence: Sequence) -> None:
        self._stop(sequence)
        sequence.drafts = ()
        sequence.preemptions += 1
        self.preemptions += 1
        self._preempted.append(sequence.request.id)
        insort(self.waiting, sequence, key=_key)

    def _stop(self, sequence: Sequence) -> None:
        self.tables.release(sequence)
        sequence.running = False
        _remove(self.running, sequence)

    def _retire(self, sequence: Sequence) -> None:
        if sequence.running:
            self._stop(sequence)
        else:
            _remove(self.waiting, sequence)
        del self.live[sequence.request.id]


def _key(sequence: Sequence) -> tuple[int, int]:
    return sequence.key


def _remove(ordered: list[Sequence], sequence: Sequence) -> None:
    index = bisect_left(ordered, sequence.key, key=_key)
    if ordered[index] is not sequence:
        raise EngineError(f"sequence {sequence.request.id!r} is not where its key says; please report this.")
    del ordered[index]
