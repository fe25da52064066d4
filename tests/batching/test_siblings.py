"""Samples of one prompt: it is computed once, its pages are shared, and each sample is what it would be alone."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fathom.batching.limits import SchedulerConfig
from fathom.batching.request import sibling_seed
from fathom.batching.scheduler import Scheduler
from tests.batching.remembering import Remembering, alone, request, run


def siblings(prompt, count, seed=3, **params):
    params = {"max_tokens": 9, "ignore_eos": True, **params}
    return [request(f"{i}", prompt, seed=sibling_seed(seed, i), **params) for i in range(count)]


def limits(**more):
    return SchedulerConfig(**{"max_batch_tokens": 32, "max_sequences": 16, "page_tokens": 4, "num_pages": 64, **more})


@pytest.mark.parametrize("prompt_tokens", [1, 3, 4, 5, 50, 52])
def test_a_prompt_is_computed_once_and_each_sample_is_the_lone_one(prompt_tokens):
    scheduler = Scheduler(limits())
    model = Remembering(scheduler.config)
    each = siblings(range(prompt_tokens), 7)
    tokens, _, plans = run(scheduler, {0: each}, model=model)
    assert tokens == {one.id: alone(one) for one in each}
    assert model.computed == prompt_tokens + 7 * 8  # the last of nine tokens is never computed
    joined = [row for plan in plans for row in plan.rows if not row.token_ids]
    assert [row.request_id for row in joined] == ["1", "2", "3", "4", "5", "6"]
    assert all(row.start == prompt_tokens and row.pages == joined[0].pages for row in joined)


def test_all_but_the_last_to_write_into_the_shared_page_get_a_copy():
    scheduler = Scheduler(limits())
    _, _, plans = run(scheduler, {0: siblings(range(6), 5)})
    assert [len(plan.copies) for plan in plans[:3]] == [0, 4, 0]
    assert {source for source, _ in plans[1].copies} == {plans[0].rows[0].pages[1]}
    assert scheduler.tables.copied == 4
    assert not any(
        plan.copies for plan in run(Scheduler(limits()), {0: siblings(range(8), 5)})[2]
    )  # full: never written


def test_pages_of_a_prompt_are_held_once():
    scheduler = Scheduler(limits(num_pages=40))
    for each in siblings(range(100), 8):  # 25 pages, and 8 for what follows; 8 prompts of their own would take 200
        scheduler.add(each)
    model = Remembering(scheduler.config)
    while len(scheduler.running) < 8:
        plan = scheduler.schedule()
        scheduler.update(plan, model.execute(plan))
    assert scheduler.pool.used == 25
    assert scheduler.preemptions == 0


def test_siblings_that_find_no_place_read_the_pages_that_the_others_left():
    scheduler = Scheduler(limits(max_sequences=3))
    model = Remembering(scheduler.config)
    each = siblings(range(10), 8)
    tokens, _, _ = run(scheduler, {0: each}, model=model)
    assert tokens == {one.id: alone(one) for one in each}
    assert model.computed == 10 + 2 + 2 + 8 * 8  # two more groups begin, each with what fills no page


def test_they_join_in_the_order_of_the_queue_or_not_at_all():
    scheduler = Scheduler(limits())
    first, second = siblings(range(6), 2)
    between = request("between", [40, 41], max_tokens=3)
    _, _, plans = run(scheduler, {0: [first, between, second]})
    assert [row.request_id for row in plans[0].rows] == ["0", "between", "1"]
    assert all(row.token_ids for row in plans[0].rows)


def test_only_so_many_join_as_have_a_page_to_grow_into():
    scheduler = Scheduler(limits(num_pages=5))
    tokens, _, plans = run(scheduler, {0: siblings(range(6), 6, max_tokens=3)})
    assert [row.request_id for row in plans[0].rows] == ["0", "1", "2"]  # 2 pages held, 3 to give
    assert scheduler.preemptions == 0
    assert tokens == {each.id: alone(each) for each in siblings(range(6), 6, max_tokens=3)}


def test_another_salt_is_no_sibling():
    scheduler = Scheduler(limits())
    _, _, plans = run(
        scheduler, {0: [request("a", range(6), salt="x", max_tokens=2), request("b", range(6), max_tokens=2)]}
    )
    assert [len(row.token_ids) for row in plans[0].rows] == [6, 6]


def test_a_preempted_sequence_is_no_sibling_of_its_own_prompt():
    config = limits(max_sequences=4, page_tokens=2, num_pages=12)
    each = siblings(range(7), 4, max_tokens=14)
    scheduler = Scheduler(config)
    tokens, _, _ = run(scheduler, {0: each})
    assert scheduler.preemptions > 0
    assert tokens == {one.id: alone(one) for one in each}


def test_an_elder_that_is_aborted_or_ends_at_once_leaves_its_siblings_whole():
    for aborts, max_tokens in (([(0, "0")], 9), ([], 1)):
        scheduler = Scheduler(limits())
        first, *others = siblings(range(6), 4)
        first = siblings(range(6), 1, max_tokens=max_tokens)[0]
        tokens, _, plans = run(scheduler, {0: [first, *others]}, aborts)
        assert {one.id: tokens[one.id] for one in others} == {one.id: alone(one) for one in others}
        assert len(plans[0].rows) == 4


def test_a_plan_that_fails_lets_them_join_again():
    for executed in (True, False):
        scheduler = Scheduler(limits())
        each = siblings(range(6), 4)
        tokens, _, _ = run(scheduler, {0: each}, failures={0: executed, 1: executed, 3: executed})
        assert tokens == {one.id: alone(one) for one in each}


@settings(max_examples=60)
@given(
    st.integers(1, 12), st.integers(2, 6), st.integers(1, 4), st.integers(0, 12), st.integers(1, 6), st.integers(0, 4)
)
def test_any_group_in_any_room_is_what_its_members_are_alone(prompt, count, page, spare, sequences, slots):
    """Pages from "one fits alone" on: copies, joins and preemptions meet."""
    pages = -(-(prompt + 9) // page) + spare
    config = SchedulerConfig(sequences + 5, sequences, page, pages, spill_slots=slots)
    each = siblings([i % 3 for i in range(prompt)], count)
    scheduler = Scheduler(config)
    tokens, _, _ = run(scheduler, {0: each[:2], 3: each[2:]})
    assert tokens == {one.id: alone(one) for one in each}
    assert scheduler.pool.used == 0
