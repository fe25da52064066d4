"""Processes are killed and stopped at random: no reply changes, nobody waits for long, nothing is left."""

from __future__ import annotations

import asyncio

import pytest

from fathom.layout import Layout
from tests.cluster.killing import soaked

LAYOUTS = {
    "tp2": Layout(tp=2), "dp2-ep2": Layout(dp=2, ep=2), "pp2": Layout(pp=2), "tp2-ep2": Layout(tp=2, ep=2),
    "dp2-tp2-ep4": Layout(dp=2, tp=2, ep=4), "pp2-dp2-ep2": Layout(pp=2, dp=2, ep=2),
}  # fmt: skip
CASES = [pytest.param(name, marks=[] if name == "tp2-ep2" else [pytest.mark.slow]) for name in LAYOUTS]


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("name", CASES)
def test_random_kills_of_ranks_change_no_reply_and_leave_nothing(name: str) -> None:
    soak = asyncio.run(soaked(LAYOUTS[name], kills=3, seed=sum(name.encode())))
    assert soak.bad() == [] and soak.resumed > 0 and soak.requests > 20


@pytest.mark.usefixtures("native")
def test_random_kills_of_replicas_change_no_reply_and_leave_nothing() -> None:
    soak = asyncio.run(soaked(Layout(), kills=4, seed=2, replicas=2))
    assert soak.bad() == [] and soak.resumed + soak.moved > 0 and soak.requests > 20
