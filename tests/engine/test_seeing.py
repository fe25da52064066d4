"""What an engine shows is what happened: rows counted by its ranks equal those that one process chose."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch

from fathom.batching.request import Request, SamplingParams
from fathom.config import SHAPES
from fathom.engine import Engine, EngineConfig, load_model, orders
from fathom.engine.balance import Balancer
from fathom.engine.crew import Crew
from fathom.engine.crewconfig import CrewConfig
from fathom.engine.expert_load import TREND_EVERY_S
from fathom.engine.seeing import COUNT_EVERY, Seeing
from fathom.engine.timeline import Timeline
from fathom.errors import ConfigError
from fathom.layout import Layout
from fathom.layout.load import Rebalance
from fathom.model import PackedTransformer
from tests.cluster.matrix import MODEL
from tests.engine.test_balance import StandIn
from tests.ops.conftest import library, native

__all__ = ["library", "native"]
PROMPTS = [tuple(range(5 + i, 60 + 7 * i)) for i in range(4)]
NEW = 6


def generate(engine: Engine) -> int:
    """Serve the prompts; how many tokens were computed."""
    before = engine.stats().computed_tokens
    for number, prompt in enumerate(PROMPTS):
        params = SamplingParams(max_tokens=NEW, temperature=0.0, ignore_eos=True)
        engine.add(Request(str(number), prompt, params))
    while engine.has_work:
        engine.step()
    return engine.stats().computed_tokens - before


def config(eplb: str = "off") -> EngineConfig:
    return EngineConfig(max_batch_tokens=96, num_pages=128, bits=16, spec="off", eplb=eplb)  # type: ignore[arg-type]


@cache
def chosen_alone() -> tuple[int, dict[int, list[int]]]:
    """Tokens that one process computes, and how many chose each expert: by a plain recorder around its kernels."""
    model = load_model(MODEL, bits=16, mtp=False, threads=1)
    assert isinstance(model, PackedTransformer)
    settings, kept = model.config, model.kernels.answer
    total = torch.zeros(settings.num_hidden_layers, settings.n_routed_experts, dtype=torch.int64)
    kernels = SimpleNamespace(name=model.kernels.name, forward=model.kernels.forward)

    def answer(ids, *arguments, chosen, **more):
        assert chosen is None, "nobody looks"
        seen = torch.full((settings.num_hidden_layers, len(ids), settings.num_experts_per_tok), -1)
        found = kept(ids, *arguments, chosen=seen, **more)
        for layer in range(settings.num_hidden_layers):
            for expert in range(settings.n_routed_experts):
                total[layer, expert] += (seen[layer] == expert).sum()
        return found

    kernels.answer = answer
    model.kernels = kernels  # type: ignore[assignment]
    tokens = generate(Engine(model, config=config()))
    return tokens, {layer: total[layer].tolist() for layer in range(len(total)) if settings.is_moe(layer)}


@pytest.mark.usefixtures("native")
def test_one_process_counts_while_somebody_looks() -> None:
    tokens, expected = chosen_alone()
    model = load_model(MODEL, bits=16, mtp=False, threads=1)
    engine = Engine(model, config=config())
    assert generate(engine) == tokens
    seen = engine.seeing.experts()  # begins to count
    assert seen["counted"] and seen["ranks"] == 1 and not any(map(sum, seen["load"].values()))
    engine = Engine(model, config=config())  # its cache is empty
    assert engine.seeing.experts()["steps"] == 0
    generate(engine)
    load = engine.seeing.experts()["load"]
    assert {layer: rows for layer, rows in load.items() if layer in expected} == expected
    top_k = model.config.num_experts_per_tok
    assert sum(map(sum, load.values())) == tokens * top_k * len(expected)


@pytest.fixture(scope="module")
def crew() -> Iterator[Crew]:
    started = Crew.start(CrewConfig(MODEL, Layout(dp=2, ep=2), bits=16, mtp=False, threads=1))
    yield started
    started.close()


@pytest.mark.usefixtures("native")
def test_a_crew_counts_what_one_process_chooses_and_traces_every_rank(crew: Crew) -> None:
    tokens, expected = chosen_alone()
    engine = Engine(crew.model, config=config(), crew=crew)
    crew.take_load()
    assert generate(engine) == tokens
    seen = engine.seeing.experts()
    load = {layer: rows for layer, rows in seen["load"].items() if layer in expected}
    assert load == expected and seen["eplb"] == "off" and seen["ranks"] == 2
    assert sum(map(sum, seen["rank_load"].values())) == tokens * crew.model.config.num_experts_per_tok * len(expected)

    found = json.loads(engine.seeing.trace(first_pid=10))
    assert {e["pid"] for e in found} == {10, 11}
    assert {e["tid"] for e in found} == {0, 1}, "a thread for each lane"
    for pid in (10, 11):
        pieces = [e for e in found if e["pid"] == pid and e["ph"] == "X"]
        assert {"forward", "sample", "dispatch", "combine", "begin"} <= {e["name"] for e in pieces}
        assert all(a["ts"] + a["dur"] <= b["ts"] + 1.0 for a, b in pairwise(pieces)), "pieces overlap"  # 1: rounding
        steps = [e["args"]["step"] for e in pieces]
        assert steps == sorted(steps) and steps[-1] == engine.stats().steps
    executed = {e["args"]["step"] for e in found if e["name"] == "dispatch" and e["pid"] == 11}
    assert executed == set(range(1, engine.stats().steps + 1))
    here, there = [[e for e in found if e["name"] == "dispatch" and e["pid"] == pid] for pid in (10, 11)]
    for one, other in zip(here, there, strict=True):  # each waits for what the other sends
        assert one["ts"] <= other["ts"] + other["dur"] + 1.0 and other["ts"] <= one["ts"] + one["dur"] + 1.0


def test_a_crew_counts_now_and_then_although_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    crew = StandIn()
    seeing = Seeing(crew.model, crew, None, Timeline())  # type: ignore[arg-type]
    for _ in range(COUNT_EVERY - 1):
        seeing.after_step()
    assert crew.orders == [] and seeing.figures() == {"op_s": {}}
    monkeypatch.setattr("fathom.engine.expert_load.TREND_EVERY_S", -TREND_EVERY_S)
    seeing.after_step()
    assert crew.orders == ["count"]
    layers = len(seeing.experts()["load"])
    assert seeing.figures()["experts"] == {
        "imbalance": pytest.approx(2 * 828 / 908, abs=1e-3), "rank_rows": (layers * 828, layers * 80), "moves": 0,
        "predicted_gain": None, "measured_gain": None,
    }  # fmt: skip


def test_a_look_does_not_keep_the_balancer_from_counting() -> None:
    crew = StandIn()
    crew.prepared = True
    balancer = Balancer(crew, Rebalance("manual"))  # type: ignore[arg-type]
    seeing = Seeing(crew.model, crew, balancer, Timeline())  # type: ignore[arg-type]
    for _ in range(20):
        balancer.after_step(8, 0.01)
        assert seeing.experts()["moved"] == []
    seeing.rebalance()
    for _ in range(2):
        balancer.after_step(8, 0.01)
    shown = seeing.experts()
    assert len(shown["moved"]) == 1 and shown["placements_before"] != shown["placements"]
    assert shown["moved"][0]["predicted_gain"] > 1.5 and shown["eplb"] == "manual"


def test_without_ranks_nothing_can_be_moved() -> None:
    model = SimpleNamespace(config=SHAPES["nano"])
    seeing = Seeing(model, None, None, Timeline())  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no ranks to move them between, or eplb is off"):
        seeing.rebalance()
    shown = seeing.experts()
    assert shown["counted"] is False and "load" not in shown, "plain torch does not count"


def test_clocks_of_other_hosts_are_asked_for() -> None:
    class Elsewhere(StandIn):
        def __init__(self) -> None:
            super().__init__()
            self.layout, self.asked = Layout(ep=2, dp=2), []

        def trace(self, most):
            return orders.Traced(0.0, 0, [("forward", -1, 1, 1.0, 2.0)])

        def shares_clock(self, rank):
            return False

        def ask(self, order, kind, rank):
            self.asked.append(order.most)
            return {rank: orders.Traced(1e6, 1, [("forward", -1, 1, 1e6, 1e6 + 1)] if order.most else [])}

    crew = Elsewhere()
    found = json.loads(Seeing(crew.model, crew, None, Timeline()).trace())  # type: ignore[arg-type]
    assert len(crew.asked) > 2 and crew.asked[-1] > 0 and not any(crew.asked[:-1]), "the clock first, and alone"
    names = [e["args"]["name"] for e in found if e["name"] == "process_name"]
    assert names[0] == "engine rank 0" and names[1].startswith("engine rank 1, clock +-")
    here, there = [e["ts"] for e in found if e["ph"] == "X"]
    assert there - here > 1e6, "events of the other clock are moved to this one's time"
