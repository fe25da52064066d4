"""The loop is the scheduler's own: the same decisions as driving it by hand, and times that add up."""

import random
from itertools import islice

import pytest

from fathom.batching import Plan, Request, Sampled, SamplingParams, Scheduler, SchedulerConfig, StepTime
from fathom.plan.arrivals import Arrival, poisson
from fathom.plan.simulate import (
    TOKEN,
    Drive,
    Lane,
    Life,
    Prompts,
    add,
    answers,
    drive,
    first_tokens,
    pages,
    percentile,
    settle,
    token_times,
)

LIMITS = SchedulerConfig(max_batch_tokens=24, max_sequences=4, page_tokens=4, num_pages=64)


def requests(count: int, seed: int = 0) -> list[tuple[float, Request]]:
    chance = random.Random(seed)
    prompts = Prompts(page_tokens=4, chance=chance)
    return [(one.at_s, prompts.request(one)) for one in islice(poisson(3.0, 20, 8, chance), count)]


def rows(plan: Plan) -> list[tuple[str, int, int]]:
    return [(row.request_id, row.start, len(row.token_ids)) for row in plan.rows]


def test_the_loop_decides_as_the_scheduler_driven_by_hand() -> None:
    """With recorded step times: the same rows in every step, for any trace; StepTime learns of them alike."""
    recorded = [random.Random(5).uniform(0.01, 0.3) for _ in range(2000)]
    by_hand, scheduler, time = [], Scheduler(LIMITS, step_time=StepTime()), 0.0
    waiting, times = requests(40), iter(recorded)
    while waiting or scheduler.has_work:
        while waiting and waiting[0][0] <= time:
            scheduler.add(waiting.pop(0)[1])
        if not scheduler.has_work:
            time = waiting[0][0]
            continue
        plan, seconds = scheduler.schedule(), next(times)
        time += seconds
        assert scheduler.step_time is not None
        scheduler.step_time.observe(plan, seconds)
        by_hand.append(rows(plan))
        scheduler.update(plan, [Sampled((TOKEN,)) for _ in plan.sampling_rows])
    simulated, again = [], iter(recorded)
    drive(
        [Lane(LIMITS)], iter(requests(40)), lambda plans: next(again), answers(0.0, random.Random(0)),
        told=lambda plans, outputs: simulated.append(rows(plans[0])),
    )  # fmt: skip
    assert simulated == by_hand and len(simulated) > 60


def test_every_request_gets_its_tokens_once() -> None:
    come = requests(30)
    seen = drive([Lane(LIMITS), Lane(LIMITS)], iter(come), lambda plans: 0.05, answers(0.0, random.Random(0)))
    assert {name: life.tokens for name, life in seen.lives.items()} == {
        request.id: request.params.max_tokens for _, request in come
    }
    assert seen.tokens == sum(request.params.max_tokens for _, request in come)
    assert all(life.done and life.at_s <= life.first_s <= life.last_s <= seen.now_s for life in seen.lives.values())


def test_one_request_alone_takes_a_step_for_each_chunk_and_token() -> None:
    """20 tokens in chunks of 8 are 3 steps; the third gives the first of 5 tokens."""
    request = Request("a", tuple(range(20)), SamplingParams(max_tokens=5))
    limits = SchedulerConfig(max_batch_tokens=8, max_sequences=4, page_tokens=4, num_pages=64)
    seen = drive([Lane(limits)], iter([(1.0, request)]), lambda plans: 0.5, answers(0.0, random.Random(0)))
    assert first_tokens(seen, 0.0, 9.0) == [pytest.approx(1.5)]
    assert token_times(seen) == [pytest.approx(0.5)] and seen.steps == 7 and seen.now_s == pytest.approx(1.0 + 7 * 0.5)


def test_drafts_that_come_true_give_tokens_for_nothing() -> None:
    def tokens_a_step(acceptance: float) -> float:
        request = Request("a", (1, 2, 3), SamplingParams(max_tokens=400))
        limits = SchedulerConfig(max_batch_tokens=8, max_sequences=4, page_tokens=4, num_pages=256)
        answer = answers(acceptance, random.Random(3))
        seen = drive([Lane(limits)], iter([(0.0, request)]), lambda plans: 1.0, answer, drafts=1)
        return seen.tokens / seen.steps

    assert tokens_a_step(0.0) == pytest.approx(1.0, abs=0.02)
    assert tokens_a_step(0.8) == pytest.approx(1.8, abs=0.08)
    assert tokens_a_step(1.0) == pytest.approx(2.0, abs=0.02)


def test_lanes_are_filled_evenly() -> None:
    lanes, seen = [Lane(LIMITS) for _ in range(3)], Drive()
    for at_s, request in requests(12):
        add(lanes, request, Life(at_s), seen)
    assert max(lane.due for lane in lanes) - min(lane.due for lane in lanes) < 60
    assert sum(len(lane.scheduler.live) for lane in lanes) == 12


def test_prompts_share_pages_only_where_they_hit() -> None:
    prompts = Prompts(hit=0.5, families=1, page_tokens=4, chance=random.Random(0))
    one, two = (prompts.request(Arrival(0.0, 40, 3)).prompt_token_ids for _ in range(2))
    assert one[:20] == two[:20] and not set(one[20:]) & set(two[20:])
    lane = Lane(LIMITS)
    settle([lane], prompts.beginnings(40, "lane"), Drive())
    assert not lane.scheduler.has_work
    seen = drive(
        [lane], iter([(0.0, prompts.request(Arrival(0.0, 40, 3)))]), lambda p: 1.0, answers(0, random.Random(0))
    )
    assert lane.scheduler.prefix_hit_tokens == 20 and seen.steps == 3  # 20 tokens are left, which fit into one step


def test_settled_requests_stand_where_they_should_and_no_time_passed() -> None:
    lane, seen = Lane(LIMITS), Drive()
    prompts = Prompts(page_tokens=4, chance=random.Random(0))
    settle([lane], [prompts.request(Arrival(0.0, 30, 9), emitted=n) for n in (3, 5)], seen)
    assert seen.now_s == 0.0 and seen.steps == 0
    assert sorted(one.output_tokens for one in lane.scheduler.running) == [4, 6]
    assert all(one.remaining == 1 for one in lane.scheduler.running) and lane.scheduler.config is LIMITS


def test_requests_may_depend_on_what_was_seen() -> None:
    """A closed loop keeps its number of requests."""
    limits = SchedulerConfig(max_batch_tokens=99, max_sequences=4, page_tokens=4, num_pages=64)
    lanes, prompts = [Lane(limits)], Prompts(page_tokens=4, chance=random.Random(0))
    counts = []

    def refill(seen: Drive):
        for _ in range(3 - len(lanes[0].scheduler.live)):
            yield seen.now_s, prompts.request(Arrival(seen.now_s, 10, 5))

    drive(
        lanes, iter(()), lambda plans: 1.0, answers(0.0, random.Random(0)), more=refill,
        enough=lambda seen: seen.steps >= 30, told=lambda plans, outputs: counts.append(len(plans[0].rows)),
    )  # fmt: skip
    assert set(counts) == {3}


def test_the_same_seed_gives_the_same_times() -> None:
    def times(seed: int) -> list[float]:
        clock = random.Random(seed)
        seen = drive(
            [Lane(LIMITS)], iter(requests(20, seed)), lambda p: clock.random(), answers(0, random.Random(seed))
        )
        return token_times(seen)

    assert times(1) == times(1) != times(2)


@pytest.mark.parametrize(("percent", "value"), [(0, 1.0), (50, 3.0), (100, 5.0), (90, 4.6)])
def test_percentiles_are_straight_between_neighbours(percent, value) -> None:
    assert percentile([5.0, 1.0, 3.0, 2.0, 4.0], percent) == pytest.approx(value)
    assert percentile([], percent) == 0.0


def test_pages_round_up() -> None:
    assert [pages(n, 64) for n in (0.5, 64, 65)] == [1, 1, 2]
