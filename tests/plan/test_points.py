"""Queueing formulas meet textbook cases; points keep the targets and obey Little's law."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fathom.plan.points import (
    at_rate,
    best_both,
    best_decode,
    both_point,
    decode_point,
    occupied,
    prefill_points,
    wait_s,
)
from fathom.plan.pools import Workload
from tests.plan.served import there

ASK = Workload(input=2000, output=500)


@pytest.fixture
def eight():
    """Eight H200 with data-parallel attention."""
    return next(one for one in there(ASK) if one.setup.layout.dp == 8 == one.setup.layout.ep)


def test_one_server_waits_as_pollaczek_and_khinchin_say() -> None:
    """M/D/1: mean wait = rho / (2 (1 - rho)) services."""
    for busy in (0.3, 0.6, 0.9):
        assert wait_s(2.0, 1, busy) == pytest.approx(2.0 * busy / (2 * (1 - busy)), rel=1e-9)


def test_many_servers_wait_less_and_percentiles_more() -> None:
    assert wait_s(1.0, 16, 0.8) < 0.1 * wait_s(1.0, 1, 0.8)
    assert wait_s(1.0, 1, 0.8, 99) > wait_s(1.0, 1, 0.8, 90) > wait_s(1.0, 1, 0.8)
    assert wait_s(1.0, 4, 0.0) == 0.0 and wait_s(1.0, 64, 0.1, 90) == 0.0


@given(seats=st.floats(0.1, 1e5), sigmas=st.floats(0, 4))
def test_seats_are_the_mean_and_so_many_deviations(seats, sigmas) -> None:
    mean = occupied(seats, sigmas)
    assert mean + sigmas * mean**0.5 == pytest.approx(seats, rel=1e-6)


def test_a_pool_obeys_littles_law(eight) -> None:
    point = decode_point(eight, 200.0, ASK)
    assert point.rate * ASK.output * point.tpot_mean_s == pytest.approx(point.mean)
    both = both_point(eight, 100.0, 1024, ASK)
    assert both is not None and both.rate * (ASK.output * both.tpot_mean_s) < both.mean < 100.0


def test_the_best_points_keep_the_targets_and_use_them(eight) -> None:
    decode = best_decode(eight, ASK)
    assert decode is not None and 0.9 * ASK.tpot_s < decode.tpot_s <= ASK.tpot_s
    both = best_both(eight, ASK)
    assert both is not None and both.tpot_s <= ASK.tpot_s and both.ttft_s <= ASK.ttft_s
    for point in prefill_points(eight, ASK):
        assert point.ttft_s <= ASK.ttft_s and 0 < point.busy < 1
    assert best_decode(eight, replace(ASK, tpot_s=1e-3)) is None


def test_a_chunk_costs_an_aggregated_replica_what_the_tokens_need(eight) -> None:
    """In a second as many prompt tokens are read as come."""
    point = both_point(eight, 100.0, 512, ASK)
    assert point is not None
    steps_per_s = point.replica.setup.accepted / point.tpot_mean_s
    read = steps_per_s * point.busy * 512 * eight.lanes
    assert read == pytest.approx(point.mean / (ASK.output * point.tpot_mean_s) * ASK.computed, rel=1e-6)


def test_less_to_do_makes_tokens_faster(eight) -> None:
    full = best_decode(eight, ASK)
    assert full is not None
    half = at_rate(full, full.rate / 2, ASK)
    assert half.rate == pytest.approx(full.rate / 2, rel=1e-3) and half.tpot_mean_s < full.tpot_mean_s
    assert at_rate(full, 2 * full.rate, ASK) is full
