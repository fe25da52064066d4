"""A model that remembers everything it has seen, and the loop around it, to hold the scheduler's promises against.

Each slot of a page keeps a digest of all tokens up to there, so a wrong page, a stale page, a wrong position or a
missing token changes every token that follows. Whole pages are moved as a plan says, in its order.
"""

from collections import Counter
from zlib import crc32

import msgspec

from fathom.batching.plan import Plan, Sampled
from fathom.batching.request import Request, SamplingParams

VOCABULARY = 50
EOS = 7


def digest(before, token_id):
    return crc32(token_id.to_bytes(4, "little"), before)


def choose(state, seed=0):
    return (state + 7919 * seed) % VOCABULARY


def request(name, prompt, salt="", **params):
    return Request(str(name), tuple(prompt), SamplingParams(**params), cache_salt=salt)


def alone(request, eos=(EOS,)):
    """What a request gets from the model if nobody else exists."""
    state, output, params = 0, [], request.params
    for token_id in request.prompt_token_ids:
        state = digest(state, token_id)
    while len(output) < params.max_tokens:
        output.append(choose(state, params.seed))
        if output[-1] in eos and not params.ignore_eos:
            break
        state = digest(state, output[-1])
    return output


class Lost(Exception):
    """Some slots of the spill file cannot be read back."""

    def __init__(self, slots):
        super().__init__(f"slots {slots}")
        self.slots = slots


class Remembering:
    """Fields: bad: slots whose content is damaged; they are noticed when they are read."""

    def __init__(self, config):
        self.page_tokens = config.page_tokens
        self.cache = {}
        self.file = {}
        self.bad = set()
        self.computed = 0

    def execute(self, plan):
        self.move(plan)
        sampled, written = [], set()
        for row in plan.rows:
            assert len(row.pages) * self.page_tokens >= row.start + len(row.token_ids)
            state = self.cache[self.slot(row, row.start - 1)] if row.start else 0
            for position, token_id in enumerate(row.token_ids, row.start):
                state = digest(state, token_id)
                slot = self.slot(row, position)
                assert slot not in written, "two sequences write the same slot"
                written.add(slot)
                self.cache[slot] = state
            self.computed += len(row.token_ids)
            if row.sampling is not None:
                assert row.sampling.position == row.start + len(row.token_ids)
                forced, seed = row.sampling.forced_token_id, row.sampling.params.seed
                sampled.append(Sampled((choose(state, seed) if forced is None else forced,)))
        return sampled

    def move(self, plan):
        for page, slot in plan.spills:
            self.file[slot] = self.page(page)
            self.bad.discard(slot)
        for source, target in plan.copies:
            self.fill(target, self.page(source))
        if lost := [slot for slot, _ in plan.restores if slot in self.bad]:
            raise Lost(lost)
        for slot, page in plan.restores:
            self.fill(page, self.file[slot])

    def page(self, page):
        return [self.cache.get((page, inside)) for inside in range(self.page_tokens)]

    def fill(self, page, content):
        for inside, state in enumerate(content):
            self.cache[page, inside] = state

    def slot(self, row, position):
        return row.pages[position // self.page_tokens], position % self.page_tokens


def planned(scheduler):
    """The next plan, checked: pages and their holders agree, nothing is out of order, no stream misses a token."""
    streams = {sequence.request.id for sequence in scheduler.running if sequence.remaining == 1}
    plan = scheduler.schedule()
    check_invariants(scheduler, plan)
    missing = streams - {row.request_id for row in plan.rows} - set(plan.preempted)
    assert not missing, "a decode waits for a prefill"
    return plan


def check_invariants(scheduler, plan):
    config = scheduler.config
    held = Counter(page for sequence in scheduler.live.values() for page in sequence.pages)
    assert scheduler.pool.refs == [held[page] for page in range(config.num_pages)]
    assert plan.num_tokens <= config.max_batch_tokens
    assert len(plan.rows) <= len(scheduler.running) <= config.max_sequences
    assert scheduler.running == sorted(scheduler.running, key=lambda s: s.key)
    assert scheduler.waiting == sorted(scheduler.waiting, key=lambda s: s.key)
    assert len({row.request_id for row in plan.rows}) == len(plan.rows)
    assert all(row.token_ids or row.sampling for row in plan.rows)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(plan), type=Plan) == plan
    assert all(sequence.table in ((), tuple(sequence.pages)) for sequence in scheduler.running)
    check_writes(scheduler, plan)


def check_writes(scheduler, plan):
    """Nobody writes into a page that others hold, joining siblings aside; nothing moves over what is to be read."""
    size, joining = scheduler.config.page_tokens, [row for row in plan.rows if not row.token_ids]
    for row in plan.rows:
        for page in {row.pages[at // size] for at in range(row.start, row.start + len(row.token_ids))}:
            assert scheduler.pool.refs[page] == 1 + sum(page in sibling.pages for sibling in joining)
    targets = [page for _, page in plan.copies] + [page for _, page in plan.restores]
    assert len(set(targets)) == len(targets)


def run(scheduler, arrivals, aborts=(), model=None, failures=None, damage=()):
    """Drive to the end. Returns tokens, reasons and plans.

    arrivals: {step: [Request]}. aborts: {(step, id)}. failures: {step: whether the plan that goes unanswered was
    executed}. damage: steps before which everything in the spill file goes bad.
    """
    model = model or Remembering(scheduler.config)
    tokens, reasons, plans = {name: [] for name in scheduler.live}, {}, []
    last = max(arrivals, default=0)
    for step in range(20_000):
        for each in arrivals.get(step, ()):
            scheduler.add(each)
            tokens[each.id] = []
        if not scheduler.has_work and step > last:
            return tokens, reasons, plans
        if step in damage:
            model.bad |= model.file.keys()
        plan, sampled = executed(scheduler, model, (failures or {}).get(step))
        for _, request_id in (pair for pair in aborts if pair[0] == step):
            if (output := scheduler.abort(request_id)) is not None:
                reasons[request_id] = output.finish_reason
        for output in scheduler.update(plan, sampled):
            tokens[output.request_id] += output.token_ids
            if output.finish_reason:
                reasons[output.request_id] = output.finish_reason
        plans.append(plan)
    raise AssertionError("the scheduler does not come to an end")


def executed(scheduler, model, failure=None):
    """The next plan that is carried out whole, and what it sampled; `failure`: a first one goes unanswered."""
    while True:
        plan = planned(scheduler)
        assert plan.rows or not scheduler.has_work, "work to do, and nothing done"
        try:
            if failure is None:
                return plan, model.execute(plan)
            if failure:
                model.execute(plan)
            failure = None
        except Lost as lost:
            scheduler.forget(lost.slots)
