"""Experts follow their load in a crew that is a stand-in; that no token changes is tests/cluster's business."""

from types import SimpleNamespace

import pytest

from fathom.config import SHAPES
from fathom.engine.balance import COUNT_EVERY, MEASURED_STEPS, Balancer
from fathom.errors import ConfigError
from fathom.layout.load import Rebalance
from fathom.layout.placement import Placement

CONFIG = SHAPES["nano"]
EVEN = Placement.contiguous(CONFIG.n_routed_experts, 2)


class StandIn:
    """A crew whose first rank's experts are asked for ten times as often."""

    def __init__(self) -> None:
        self.model = SimpleNamespace(config=CONFIG)
        self.placements = {layer: EVEN for layer in range(1, CONFIG.num_hidden_layers)}
        self.prepared, self.orders = False, []

    def take_load(self):
        self.orders.append("count")
        return {layer: [100 + expert if expert < 8 else 10 for expert in range(16)] for layer in self.placements}

    def prepare(self, placements):
        self.orders.append("prepare")
        self.asked = placements

    def switch(self):
        assert self.prepared, "not before every rank has what it lacks"
        self.orders.append("switch")


def run(balancer: Balancer, steps: int, tokens: int = 8, seconds: float = 0.01) -> None:
    for _ in range(steps):
        balancer.after_step(tokens, seconds)


def test_load_is_counted_now_and_then_and_moves_wait_for_the_weights() -> None:
    crew = StandIn()
    balancer = Balancer(crew, Rebalance("auto", every=3 * COUNT_EVERY))
    run(balancer, 2 * COUNT_EVERY)
    assert crew.orders == ["count"] * 2  # not yet: `every` steps have not passed
    run(balancer, 2 * COUNT_EVERY)
    assert crew.orders.count("prepare") == 1 and "switch" not in crew.orders
    assert balancer.report()["moving"]
    crew.prepared = True
    run(balancer, 1)
    assert crew.orders[-1] == "switch"
    moved = balancer.moved[-1]
    assert moved.imbalance_before > 1.7 and moved.imbalance_after < 1.1 and moved.predicted_gain > 1.5
    assert {layer: p for layer, p in balancer.placements.items() if p != EVEN} == crew.asked


def test_what_a_move_brought_is_measured_over_as_many_steps_on_either_side() -> None:
    crew = StandIn()
    crew.prepared = True
    balancer = Balancer(crew, Rebalance("auto", every=COUNT_EVERY))
    while not balancer.moved:
        run(balancer, 1, seconds=0.02)
    assert balancer.moved[-1].measured_gain is None
    run(balancer, MEASURED_STEPS, seconds=0.01)
    assert balancer.moved[0].measured_gain == pytest.approx(2.0)


def test_a_person_may_ask_but_not_where_experts_stay() -> None:
    crew = StandIn()
    balancer = Balancer(crew, Rebalance("manual"))
    run(balancer, 10 * COUNT_EVERY)
    assert "prepare" not in crew.orders
    balancer.ask()
    run(balancer, 1)
    assert crew.orders[-1] == "prepare"
    with pytest.raises(ConfigError, match="eplb is off"):
        Balancer(crew, Rebalance("off")).ask()


def test_the_report_is_plain_data() -> None:
    crew = StandIn()
    balancer = Balancer(crew, Rebalance("manual"))
    run(balancer, COUNT_EVERY)
    report = balancer.report()
    assert report["rank_load"][1] == [sum(range(100, 108)), 80]
    assert report["imbalance"] == pytest.approx(2 * 828 / 908, abs=1e-3)
    assert report["moved"] == [] and report["placements"][1] == list(range(16))
