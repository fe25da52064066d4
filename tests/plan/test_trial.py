"""A trial shows what the formulas say, and a day what its hours do."""

from dataclasses import replace

import pytest

from fathom.errors import ConfigError
from fathom.plan.arrivals import Arrival
from fathom.plan.points import best_both, best_decode, prefill_points
from fathom.plan.pools import Workload
from fathom.plan.search import Service
from fathom.plan.trial import Percentiles, trial
from tests.plan.served import there

ASK = Workload(input=1000, output=200, rps=1.0, hit=0.25)
ROWS = 6_000


@pytest.fixture
def apart() -> Service:
    one = next(one for one in there(ASK) if one.setup.layout.dp == 8 == one.setup.layout.ep)
    decode, prefill = best_decode(one, ASK), max(prefill_points(one, ASK), key=lambda point: point.rate)
    assert decode is not None
    return Service(decode, prefill, 1, 1)


@pytest.fixture
def together() -> Service:
    one = next(one for one in there(ASK) if one.setup.layout.tp == 8 == one.setup.layout.ep)
    point = best_both(one, ASK)
    assert point is not None
    return Service(point)


def test_pools_apart_are_as_fast_as_the_formulas_say(apart) -> None:
    found = trial(apart, replace(ASK, rps=None), rows=15_000)
    assert found.tpot.p50 == pytest.approx(apart.decode.tpot_mean_s, rel=0.1)
    assert found.tokens_per_s == pytest.approx(found.rate * ASK.output, rel=0.12)
    assert 0 < found.ttft.p50 <= found.ttft.p90 <= found.ttft.p99 and found.transfer_s > 0


def test_one_pool_is_as_fast_as_the_formulas_say(together) -> None:
    found = trial(together, replace(ASK, rps=None), rows=20_000)
    assert found.tpot.p50 == pytest.approx(together.decode.tpot_mean_s, rel=0.2)
    assert found.preemptions == 0 and found.transfer_s == 0.0 and found.lanes == found.all_lanes == 1


def test_the_same_seed_gives_the_same_trial(together) -> None:
    made = [trial(together, ASK, rows=ROWS, seed=seed) for seed in (1, 1, 2)]
    assert made[0] == made[1] != made[2]


def test_slower_steps_make_slower_tokens(apart) -> None:
    paces = [trial(apart, ASK, rows=ROWS, pace=pace) for pace in (0.8, 1.0, 1.25)]
    assert paces[0].tpot.p50 < paces[1].tpot.p50 < paces[2].tpot.p50
    assert paces[0].ttft.p50 < paces[2].ttft.p50


def test_a_day_is_calmer_than_its_busiest_hour(together) -> None:
    ask = replace(ASK, rps=0.4 * together.rate, peak=1.9)
    found = trial(together, ask, rows=ROWS)
    assert found.day is not None and found.rate == pytest.approx(0.76 * together.rate)
    assert found.day[1].p50 < found.tpot.p50


def test_a_trace_is_what_is_tried(together) -> None:
    trace = [Arrival(0.05 * i, 600, 40) for i in range(60)]
    found = trial(together, ASK, trace=trace, rows=ROWS)
    assert found.rate == pytest.approx(20.0) and found.ttft.count == 60 and found.tpot.count == 60


def test_progress_is_told(apart) -> None:
    told: list[tuple[str, float]] = []
    trial(apart, ASK, rows=ROWS, progress=lambda what, share: told.append((what, share)))
    assert {what for what, _ in told} == {"prefill", "decode"} and max(share for _, share in told) > 0.5


@pytest.mark.parametrize("spread", [-0.1, 9.0, float("nan")])
def test_lengths_that_cannot_be_drawn_are_refused(together, spread) -> None:
    with pytest.raises(ConfigError, match="spread is"):
        trial(together, ASK, spread=spread)


def test_weights_move_percentiles() -> None:
    found = Percentiles.weighted([(1.0, 89.0), (2.0, 10.0), (3.0, 1.0)])
    assert (found.p50, found.p90, found.p99, found.count) == (1.0, 2.0, 2.0, 3)
    assert Percentiles.weighted([]).count == 0
    assert [Percentiles(1, 2, 3, 9).at(percent) for percent in (10, 50, 75, 90, 95, 99)] == [1, 1, 2, 2, 3, 3]
