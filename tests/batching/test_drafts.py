"""Guesses in a Plan: verified with what is left over, counted only when they came true, never at another's cost."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fathom.batching.plan import Sampled
from fathom.batching.scheduler import Scheduler, SchedulerConfig
from tests.batching.remembering import EOS, Remembering, alone, check_invariants, choose, digest, request
from tests.batching.test_scheduler import configs

ROOMY = SchedulerConfig(max_batch_tokens=16, max_sequences=4, page_tokens=4, num_pages=32)


class Guessing(Remembering):
    """Verifies guesses and makes new ones, of which a share is right."""

    def __init__(self, config, share=1.0):
        super().__init__(config)
        self.share, self.random = share, Random(0)

    def execute(self, plan):
        self.move(plan)
        answers = []
        for row in plan.rows:
            held = len(row.pages) * self.page_tokens
            assert held >= row.start + len(row.token_ids) + max(0, row.propose - 1), "guesses have nowhere to leave"
            state = self.cache[self.slot(row, row.start - 1)] if row.start else 0
            known = len(row.token_ids) - row.drafts
            assert known == 1 or not row.drafts, "only decodes verify guesses"
            seed = row.sampling.params.seed if row.sampling is not None else 0
            chosen = [] if row.token_ids else [choose(state, seed)]
            for at, token_id in enumerate(row.token_ids):
                if at >= known and chosen[-1] != token_id:
                    break
                state = digest(state, token_id)
                self.cache[self.slot(row, row.start + at)] = state
                if row.sampling is not None and at >= known - 1:
                    chosen.append(choose(state, seed))
            if row.sampling is not None:
                assert row.next_token_id is None and row.sampling.position == row.start + known
                answers.append(
                    Sampled(tuple(chosen), drafts=self.guesses(digest(state, chosen[-1]), seed, row.propose))
                )
        return answers

    def guesses(self, state, seed, count):
        found = []
        for _ in range(count):
            right = choose(state, seed)
            found.append(right if self.random.random() < self.share else right + 1)
            state = digest(state, right)
        return tuple(found)


def run(scheduler, requests, share=1.0, drafts=3):
    """Drive to the end; `drafts`: a number, or a function of the step. Returns tokens and plans."""
    model = Guessing(scheduler.config, share)
    for each in requests:
        scheduler.add(each)
    tokens, plans = {each.id: [] for each in requests}, []
    while scheduler.has_work:
        plan = scheduler.schedule(drafts(len(plans)) if callable(drafts) else drafts)
        check_invariants(scheduler, plan)
        for output in scheduler.update(plan, model.execute(plan)):
            tokens[output.request_id] += output.token_ids
        plans.append(plan)
    return tokens, plans


@settings(max_examples=60)
@given(configs, st.lists(st.tuples(st.integers(1, 5), st.integers(1, 8)), min_size=1, max_size=6), st.floats(0, 1))
def test_tokens_are_those_without_guesses_and_nothing_leaks(config, sizes, share):
    longest = config.context_tokens
    requests = [
        request(i, range(i, i + max(1, min(prompt, longest - output))), max_tokens=min(output, longest - 1))
        for i, (prompt, output) in enumerate(sizes)
    ]
    scheduler = Scheduler(config, [EOS])
    tokens, _ = run(scheduler, requests, share, drafts=lambda step: step % 5)
    assert tokens == {each.id: alone(each) for each in requests}
    assert scheduler.pool.used == 0


@settings(max_examples=60)
@given(configs, st.integers(1, 9), st.integers(2, 6), st.integers(1, 9), st.floats(0, 1))
def test_siblings_guess_ahead_too_and_stay_what_each_is_alone(config, prompt, count, output, share):
    prompt = max(1, min(prompt, config.context_tokens - output))
    output = min(output, config.context_tokens - prompt)
    requests = [request(i, [1] * prompt, max_tokens=output, seed=i, ignore_eos=True) for i in range(count)]
    scheduler = Scheduler(config)
    tokens, _ = run(scheduler, requests, share, drafts=lambda step: step % 5)
    assert tokens == {each.id: alone(each) for each in requests}
    assert scheduler.pool.used == 0


def test_right_guesses_save_steps_and_are_counted():
    scheduler = Scheduler(ROOMY)
    tokens, plans = run(scheduler, [request("a", [1, 2, 3], max_tokens=13, ignore_eos=True)])
    assert len(plans) == 4  # the prompt with 1 token, then 3 times 4
    assert [(len(p.rows[0].token_ids), p.rows[0].drafts) for p in plans] == [(3, 0), (4, 3), (4, 3), (4, 3)]
    assert scheduler.drafted_by_depth == scheduler.accepted_by_depth == (3, 3, 3)
    assert tokens["a"] == alone(request("a", [1, 2, 3], max_tokens=13, ignore_eos=True))


def test_an_output_tells_how_many_guesses_were_right():
    scheduler = Scheduler(ROOMY)
    scheduler.add(request("a", [1], max_tokens=20))
    scheduler.update(scheduler.schedule(3), [Sampled((5,), drafts=(6, 7, 8))])
    plan = scheduler.schedule(3)
    assert plan.rows[0].token_ids == (5, 6, 7, 8)
    (output,) = scheduler.update(plan, [Sampled((6, 9), drafts=(1, 2))])
    assert (output.token_ids, output.accepted_drafts, output.rejected_drafts) == ((6, 9), 1, 2)
    row = scheduler.schedule(3).rows[0]
    assert (row.token_ids, row.start) == ((9, 1, 2), 3)  # 1, 5 and 6 are computed


def test_what_follows_the_end_is_dropped():
    scheduler = Scheduler(ROOMY, [EOS])
    scheduler.add(request("a", [1], max_tokens=20, logprobs=None))
    scheduler.update(scheduler.schedule(3), [Sampled((5,), drafts=(6, EOS, 8))])
    (output,) = scheduler.update(scheduler.schedule(3), [Sampled((6, EOS, 8, 2))])
    assert (output.token_ids, output.finish_reason, output.accepted_drafts) == ((6, EOS), "stop", 1)
    assert not scheduler.has_work and scheduler.pool.used == 0


def test_no_more_is_guessed_than_may_still_come():
    scheduler = Scheduler(ROOMY)
    _, plans = run(scheduler, [request("a", [1], max_tokens=6, ignore_eos=True)], drafts=4)
    assert [(p.rows[0].drafts, p.rows[0].propose) for p in plans] == [(0, 4), (4, 3)]
    scheduler = Scheduler(ROOMY)
    _, plans = run(scheduler, [request("a", [1], max_tokens=4, ignore_eos=True)], share=0.0, drafts=4)
    assert [(p.rows[0].drafts, p.rows[0].propose) for p in plans] == [(0, 2), (2, 1), (1, 0), (0, 0)]


def test_guesses_take_what_the_budget_leaves_over():
    scheduler = Scheduler(SchedulerConfig(max_batch_tokens=6, max_sequences=3, page_tokens=4, num_pages=32))
    for name in "ab":
        scheduler.add(request(name, [1], max_tokens=20))
    scheduler.update(scheduler.schedule(4), [Sampled((5,), drafts=(6, 7, 8, 9))] * 2)
    scheduler.add(request("c", [3, 4], max_tokens=20))
    assert [(row.request_id, row.drafts) for row in scheduler.schedule(4).rows] == [("a", 2), ("b", 0), ("c", 0)]


def test_guesses_leave_everyone_a_page_for_the_next_token():
    scheduler = Scheduler(SchedulerConfig(max_batch_tokens=16, max_sequences=2, page_tokens=1, num_pages=6))
    for name in "ab":
        scheduler.add(request(name, [ord(name)], max_tokens=5))  # two prompts: siblings would share a page
    scheduler.update(scheduler.schedule(), [Sampled((5,), drafts=(6, 7, 8))] * 2)
    rows = scheduler.schedule(4).rows
    assert [len(row.token_ids) for row in rows] == [1, 1]  # 2 pages held, 2 more now, 2 for the step to come
    assert scheduler.pool.available == 2


def test_fewer_are_verified_when_fewer_are_asked_for():
    scheduler = Scheduler(ROOMY)
    scheduler.add(request("a", [1], max_tokens=20))
    scheduler.update(scheduler.schedule(4), [Sampled((5,), drafts=(6, 7, 8, 9))])
    assert scheduler.schedule(1).rows[0].drafts == 1
    plain = scheduler.schedule()
    assert (plain.rows[0].token_ids, plain.rows[0].propose, plain.reads_ahead) == ((5,), 0, False)


def test_chunks_name_the_token_after_them_only_when_it_will_be_needed():
    config = SchedulerConfig(max_batch_tokens=4, max_sequences=1, page_tokens=4, num_pages=8)
    for drafts, after in ((2, 4), (0, None)):
        scheduler = Scheduler(config)
        scheduler.add(request("a", range(6), max_tokens=2))
        assert scheduler.schedule(drafts).rows[0].next_token_id == after


def test_a_preempted_sequence_forgets_its_guesses():
    scheduler = Scheduler(SchedulerConfig(max_batch_tokens=16, max_sequences=4, page_tokens=2, num_pages=8))
    requests = [request(name, [name, 1, 2], max_tokens=12, ignore_eos=True) for name in range(3)]
    tokens, _ = run(scheduler, requests)  # Guessing refuses rows that are computed again and verify guesses too
    assert scheduler.preemptions > 0
    assert tokens == {each.id: alone(each) for each in requests}


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_only_what_came_true_is_shared_with_others(share):
    scheduler = Scheduler(ROOMY)
    first = request("a", [1, 2, 3], max_tokens=15, ignore_eos=True)
    tokens, _ = run(scheduler, [first], share)
    second = request("b", [1, 2, 3, *tokens["a"], 4], max_tokens=5, ignore_eos=True)
    scheduler.add(second)
    assert scheduler.schedule().rows[0].start == 16  # 17 computed tokens fill 4 pages of 4
