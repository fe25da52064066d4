"""Requests go where there is least to do, or where their beginning is known already, and can be found again."""

from __future__ import annotations

import pytest

from fathom.batching.limits import SchedulerConfig
from fathom.batching.plan import Plan, Sampled
from fathom.batching.request import Request, SamplingParams
from fathom.engine.lane import Lane, Lanes
from fathom.errors import RequestError

LIMITS = SchedulerConfig(max_batch_tokens=64, max_sequences=4, page_tokens=4, num_pages=64)
PROMPT = tuple(range(20))


def lanes(count: int = 3, drafts: int | None = 0) -> Lanes:
    return Lanes([Lane(LIMITS, (1,), drafts) for _ in range(count)])


def request(name: str, prompt: tuple[int, ...] = PROMPT, tokens: int = 4, salt: str = "") -> Request:
    return Request(name, prompt, SamplingParams(max_tokens=tokens), cache_salt=salt)


def place(group: Lanes, name: str) -> int:
    lane = group.of(name)
    assert lane is not None
    return group.lanes.index(lane)


def step(lane: Lane) -> Plan:
    plan = lane.schedule()
    lane.scheduler.update(plan, [Sampled((3,)) for _ in plan.sampling_rows])
    return plan


def test_requests_spread_by_what_there_is_to_do() -> None:
    group = lanes()
    for i, tokens in enumerate((40, 4, 12, 4)):  # different prompts of one length
        group.add(request(str(i), tuple(range(i, i + 20)), tokens))
    assert [place(group, str(i)) for i in range(4)] == [0, 1, 2, 1]
    assert [lane.outstanding_tokens() for lane in group.lanes] == [60, 48, 32]


def test_siblings_stay_together_whatever_there_is_to_do() -> None:
    group = lanes()
    for i in range(5):
        group.add(request(str(i)))
    assert {place(group, str(i)) for i in range(5)} == {0}
    group.add(request("other salt", salt="x"))
    assert place(group, "other salt") == 1


def test_a_known_beginning_outweighs_some_work() -> None:
    group = lanes(2)
    group.add(request("first"))
    while group.lanes[0].scheduler.has_work:
        step(group.lanes[0])
    group.add(request("busy", tuple(range(100, 110)), 6))  # 16 tokens to do where 16 are known: 32 are worth it
    assert place(group, "busy") == 0
    group.add(request("again", (*PROMPT, 7)))
    assert place(group, "again") == 0
    group.add(request("another", (*PROMPT[::-1], 7)))
    assert place(group, "another") == 1


def test_an_id_in_use_is_refused_wherever_it_is() -> None:
    group = lanes()
    group.add(request("a", tokens=30))
    with pytest.raises(RequestError, match="in use"):
        group.add(request("a", (5, 6)))
    assert sum(len(lane.scheduler.live) for lane in group.lanes) == 1


def test_who_is_gone_is_in_no_lane() -> None:
    group = lanes()
    group.add(request("a"))
    assert place(group, "a") == 0
    group.lanes[0].scheduler.abort("a")
    assert group.of("a") is None and group.of("never") is None


def test_a_lane_without_work_plans_nothing_and_counts_no_step() -> None:
    lane = lanes(1).lanes[0]
    assert lane.schedule() == Plan(0) and lane.schedule() == Plan(0)
    lane.scheduler.add(request("a"))
    assert step(lane).step == 1
    lane.scheduler.abort("a")
    assert lane.schedule() == Plan(1)


def test_guesses_are_asked_for_as_the_policy_says() -> None:
    lane = lanes(1, drafts=2).lanes[0]
    lane.scheduler.add(request("a", tokens=9))
    (row,) = lane.schedule().rows
    assert row.propose == 2


def test_it_learns_from_what_steps_take() -> None:
    lane = lanes(1).lanes[0]
    lane.scheduler.add(request("a", tokens=9))
    for _ in range(4):
        plan = lane.schedule()
        answers = [Sampled((3,)) for _ in plan.sampling_rows]
        lane.scheduler.update(plan, answers)
        lane.observe(plan, answers, 0.01, 0.0)
    assert lane.schedule().predicted_s > 0


def test_a_place_that_is_reserved_counts_as_work_until_the_request_comes_or_is_forgotten() -> None:
    lanes = Lanes([Lane(LIMITS, (), 0) for _ in range(2)])
    first, second, third = (Request(str(n), tuple(range(n, n + 20)), SamplingParams(max_tokens=5)) for n in range(3))
    assert [lanes.reserve(first), lanes.reserve(second)] == [0, 1]
    assert lanes.choose(second) is lanes.lanes[1]  # and is no longer reserved
    assert lanes.reserve(third) == 1
    lanes.forget("0")
    lanes.forget("0")
    other = Request("x", (7,) * 30)
    assert lanes.choose(other) is lanes.lanes[0]
    assert Lanes([Lane(LIMITS, (), 0)]).reserve(first) == 0
