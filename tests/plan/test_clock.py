"""A step of the trial takes what the model of latency says of the same load."""

from dataclasses import replace
from math import inf

import pytest

from fathom.batching import Plan, Row, Sampling, SamplingParams
from fathom.errors import ConfigError
from fathom.plan.clock import PAGE_TOKENS, Steps, limits, transfer_s
from fathom.plan.latency import Setup, decode_step, prefill_step
from fathom.plan.points import both_point, decode_point, prefill_points
from fathom.plan.pools import Workload
from tests.plan.served import there

ASK = Workload(input=2000, output=500)
LAST = Sampling(9, SamplingParams())


@pytest.fixture
def eight():
    return next(one for one in there(ASK) if one.setup.layout.dp == 8 == one.setup.layout.ep)


def decodes(count: int, context: int, name: str = "d") -> Plan:
    return Plan(1, tuple(Row(f"{name}{i}", (1,), context - 1, (), LAST) for i in range(count)))


def test_a_step_of_decodes_takes_what_the_model_says(eight) -> None:
    clock = Steps(decode_point(eight, 200.0, ASK), ASK, 8)
    for context in (2000, 2250, 2500):
        taken = clock([decodes(16, context)] * 8)
        assert taken == pytest.approx(decode_step(eight.setup, 128, context).seconds, rel=0.01)


def test_two_lanes_stand_for_eight(eight) -> None:
    point = decode_point(eight, 200.0, ASK)
    assert Steps(point, ASK, 2)([decodes(16, 2200)] * 2) == pytest.approx(Steps(point, ASK, 8)([decodes(16, 2200)] * 8))


def test_a_step_of_prompts_takes_what_the_model_says(eight) -> None:
    point = max(prefill_points(eight, ASK), key=lambda p: p.rate)
    plan = Plan(1, (Row("a", (1,) * 1024, 0, ()),))
    expected = prefill_step(eight.setup, 8 * 1024, ASK.cached, ASK.computed).seconds
    assert Steps(point, ASK, 8)([plan] * 8) == pytest.approx(expected, rel=0.01)


def test_an_uneven_step_waits_for_the_fullest_lane(eight) -> None:
    clock = Steps(decode_point(eight, 200.0, ASK), ASK, 2)
    even, uneven = clock([decodes(16, 2200)] * 2), clock([decodes(24, 2200), decodes(8, 2200)])
    assert even < uneven < clock([decodes(24, 2200)] * 2)


def test_prompts_of_another_pool_are_free_once(eight) -> None:
    point = decode_point(eight, 200.0, ASK)
    prompts = [Plan(1, (Row(f"p{i}", (1,) * 2200, 0, (), LAST),)) for i in range(8)]
    clock, alone = Steps(point, ASK, 8, free=True), Steps(point, ASK, 8)([decodes(1, 2200)] * 8)
    assert clock(prompts) == pytest.approx(alone, rel=1e-6)
    assert clock(prompts) > 10 * alone  # a second time it was preempted, and is read here


def test_a_slower_pace_stretches_every_step(eight) -> None:
    point = decode_point(eight, 200.0, ASK)
    plans = [decodes(16, 2200)] * 8
    assert Steps(point, ASK, 8, pace=1.3)(plans) == pytest.approx(1.3 * Steps(point, ASK, 8)(plans))


def test_engines_get_room_for_what_the_plan_counts_on(eight) -> None:
    point = both_point(eight, 100.0, 1024, ASK)
    assert point is not None
    own = limits(point, ASK)
    assert own.max_sequences * 8 >= 100 and own.max_batch_tokens == 1024 + own.max_sequences
    assert own.num_pages * PAGE_TOKENS == pytest.approx(eight.room / 8, rel=0.01) and own.max_stretch == inf
    drafting = replace(point, replica=replace(eight, setup=replace(eight.setup, mtp=1)))
    assert limits(drafting, ASK).max_batch_tokens == 1024 + 2 * own.max_sequences


def test_a_cache_of_deepseek_moves_at_the_networks_rate(eight) -> None:
    """2,000 tokens x 70,272 B over 0.8 of 50 GB/s."""
    point = decode_point(eight, 200.0, ASK)
    assert transfer_s(point, ASK) == pytest.approx(2000 * 70_272 / 40e9)
    lonely = replace(eight.setup.device, network_gbs=None, link_gbs=None, pcie_gbs=None)
    setup = Setup(eight.setup.shape, lonely, eight.setup.layout)
    with pytest.raises(ConfigError, match="no link is known"):
        transfer_s(replace(point, replica=replace(eight, setup=setup)), ASK)
