"""Placement: every expert somewhere, no rank twice the same, ranks about even, and no move that need not be."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fathom.config import preset
from fathom.errors import ConfigError
from fathom.layout import Layout, Shard
from fathom.layout.placement import Move, Placement, balance, plan_moves, settle

# The README of github.com/deepseek-ai/EPLB: 12 experts in 4 groups, 16 slots on 2 nodes of 4 GPUs.
PUBLISHED = [
    ([90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86], [5, 6, 5, 7, 8, 4, 3, 4, 10, 9, 10, 2, 0, 1, 11, 1]),
    ([20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27], [7, 10, 6, 8, 6, 11, 8, 9, 2, 4, 5, 1, 5, 0, 3, 1]),
]


@pytest.mark.parametrize(("load", "slots"), PUBLISHED)
def test_the_example_that_eplb_publishes(load: list[int], slots: list[int]) -> None:
    assert balance(load, slots=16, groups=4, nodes=2, ranks=8) == Placement(tuple(slots), 8)


@st.composite
def tasks(draw: st.DrawFn) -> tuple[list[int], dict[str, int]]:
    nodes, per_node = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    groups = draw(st.sampled_from([1, 2, nodes, 2 * nodes]))
    experts = groups * draw(st.integers(1, 6))
    ranks = nodes * per_node
    most = experts * (ranks if groups % nodes else per_node)
    choices = [slots for slots in range(ranks, most + 1, ranks) if slots >= experts]
    load = draw(st.lists(st.integers(0, 1000), min_size=experts, max_size=experts))
    slots = draw(st.sampled_from(choices or [experts]))
    return load, {"slots": slots, "groups": groups, "nodes": nodes, "ranks": ranks}


@given(tasks())
def test_every_expert_is_placed_and_no_rank_holds_one_twice(task: tuple[list[int], dict[str, int]]) -> None:
    load, sizes = task
    if sizes["slots"] % sizes["ranks"]:
        with pytest.raises(ConfigError, match="do not divide"):
            balance(load, **sizes)
        return
    placement = balance(load, **sizes)
    assert set(placement.slots) == set(range(len(load))) and len(placement.slots) == sizes["slots"]
    for rank in range(sizes["ranks"]):
        held = placement.on_rank(rank)
        assert len(set(held)) == len(held) == sizes["slots"] // sizes["ranks"]
    if sizes["groups"] % sizes["nodes"] == 0:
        nodes = [slot // (sizes["slots"] // sizes["nodes"]) for slot in range(sizes["slots"])]
        size = len(load) // sizes["groups"]
        assert (
            len({(expert // size, node) for expert, node in zip(placement.slots, nodes, strict=True)})
            == (sizes["groups"])
        ), "a group lies on one node"


@given(st.data(), st.integers(1, 4), st.integers(1, 3), st.integers(1, 4))
def test_without_copies_it_is_never_worse_than_contiguous(
    data: st.DataObject, nodes: int, per_node: int, each: int
) -> None:
    experts = nodes * per_node * each
    load = data.draw(st.lists(st.integers(0, 1000), min_size=experts, max_size=experts))
    placement = balance(load, slots=experts, groups=nodes, nodes=nodes, ranks=nodes * per_node)
    plain = Placement.contiguous(experts, nodes * per_node)
    assert placement.imbalance(load) <= plain.imbalance(load)


@pytest.mark.parametrize("exponent", [0.0, 0.3, 0.6, 1.0, 1.5])
@pytest.mark.parametrize("copies", [32, 64, 256])
@pytest.mark.parametrize("nodes", [1, 4])
def test_with_copies_loads_like_those_of_models_become_more_even(exponent: float, copies: int, nodes: int) -> None:
    for seed in range(4):
        load = [1000 / (n + 1) ** exponent for n in range(256)]
        Random(seed).shuffle(load)
        placement = balance(load, slots=256 + copies, groups=8, nodes=nodes, ranks=32)
        plain = Placement.contiguous(256, 32)
        assert placement.imbalance(load) <= plain.imbalance(load) + 1e-12


def test_a_hot_expert_is_copied_and_its_copies_share() -> None:
    load = [90, 10, 10, 10]
    placement = balance(load, slots=8, ranks=4)
    assert [len(slots) for slots in placement.replicas] == [4, 2, 1, 1]
    assert sorted(placement.rank_loads(load)) == [27.5, 27.5, 32.5, 32.5]


def test_copies_can_make_it_worse_where_the_docstring_says_so() -> None:
    load = [0, 10, 3, 7]
    assert balance(load, slots=4, ranks=2).imbalance(load) == 1.0
    assert balance(load, slots=6, ranks=2).imbalance(load) == pytest.approx(11.5 / 10)


def test_contiguous_is_what_shards_own() -> None:
    nano = preset("nano")
    placement = Placement.contiguous(nano.n_routed_experts, 4)
    for rank in range(4):
        assert placement.on_rank(rank) == tuple(Shard(nano, Layout(dp=4, ep=4), rank).experts)
    assert placement.replicas == tuple((expert,) for expert in range(16))


# --- replicas --------------------------------------------------------------------------------------------------------


def test_copies_are_taken_in_turns() -> None:
    placement = Placement((0, 1, 0, 2, 0, 3), 3)
    for source in range(4):
        used = Counter(placement.replica_for(0, source, number) for number in range(10))
        assert set(used) == {0, 2, 4} and max(used.values()) - min(used.values()) == 1
    single = Counter(placement.replica_for(0, source, 0) for source in range(9))
    assert single == {0: 3, 2: 3, 4: 3}, "one row of each sender spreads as well"
    assert {placement.replica_for(3, source, 7) for source in range(9)} == {5}


@given(rows=st.lists(st.integers(0, 40), min_size=1, max_size=8))
def test_ranks_receive_what_the_prediction_says(rows: list[int]) -> None:
    """Each sender is within one row of an even share, so a copy is within as many rows as there are senders."""
    placement = Placement((0, 1, 0, 2), 2)
    used = Counter(placement.replica_for(0, source, n) for source, sent in enumerate(rows) for n in range(sent))
    assert abs(used[0] - sum(rows) / 2) <= len(rows) / 2


# --- moves -----------------------------------------------------------------------------------------------------------


def carried_out(old: Placement, moves: list[Move]) -> Placement:
    slots = list(old.slots)
    for move in moves:
        assert move.expert in old.on_rank(move.source) and old.rank_of(move.slot) == move.target
        slots[move.slot] = move.expert
    return Placement(tuple(slots), old.ranks)


@given(tasks(), st.randoms(use_true_random=False))
def test_moves_lead_from_one_placement_to_the_next(task: tuple[list[int], dict[str, int]], rng: Random) -> None:
    load, sizes = task
    if sizes["slots"] % sizes["ranks"]:
        return
    old = balance(load, **sizes)
    later = [rng.randrange(1000) for _ in load]
    new = balance(later, **sizes)
    nodes = 1 if sizes["groups"] % sizes["nodes"] else sizes["nodes"]
    settled = settle(old, new, nodes=nodes)
    assert sorted(settled.rank_loads(later)) == pytest.approx(sorted(new.rank_loads(later)))
    moves = plan_moves({3: old}, {3: settled})
    assert carried_out(old, moves) == settled
    missing = sum(
        sum((Counter(settled.on_rank(rank)) - Counter(old.on_rank(rank))).values()) for rank in range(old.ranks)
    )
    assert len(moves) == missing, "a rank receives only what it lacks"
    assert settle(old, old, nodes=nodes) == old


def test_ranks_are_renamed_rather_than_moved() -> None:
    old = Placement((0, 1, 2, 3, 4, 5), 3)
    assert settle(old, Placement((5, 4, 1, 0, 3, 2), 3)) == old
    near = settle(old, Placement((4, 1, 0, 5, 3, 2), 3))
    assert near.on_rank(1) == (2, 3) and len(plan_moves({0: old}, {0: near})) == 2


def test_ranks_stay_within_their_node() -> None:
    old = Placement((0, 1, 2, 3), 4)
    assert settle(old, Placement((2, 3, 1, 0), 4), nodes=2) == old
    mixed = settle(old, Placement((0, 2, 1, 3), 4), nodes=2)
    assert {frozenset(mixed.slots[:2]), frozenset(mixed.slots[2:])} == {frozenset((0, 2)), frozenset((1, 3))}


def test_senders_take_turns_and_a_rank_copies_its_own() -> None:
    old = Placement((0, 1, 0, 2, 3, 4), 3)
    new = Placement((0, 1, 0, 2, 3, 0), 3)
    with pytest.raises(ConfigError, match="expert 4|experts, slots and ranks"):
        plan_moves({0: old}, {0: new})
    new = Placement((0, 1, 3, 2, 4, 0), 3)
    layers = range(2)
    moves = plan_moves(dict.fromkeys(layers, old), dict.fromkeys(layers, new))
    assert [(m.layer, m.expert, m.source, m.target, m.slot) for m in moves] == [
        (0, 3, 2, 1, 2), (0, 4, 2, 2, 4), (0, 0, 0, 2, 5), (1, 3, 2, 1, 2), (1, 4, 2, 2, 4), (1, 0, 1, 2, 5),
    ]  # fmt: skip


# --- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"slots": 10, "ranks": 4}, "slots is 10, which 4 ranks do not divide; use a multiple of 4."),
        ({"slots": 8, "ranks": 4, "groups": 3}, "experts is 8, which 3 groups do not divide"),
        ({"slots": 9, "ranks": 3, "nodes": 2}, "ranks is 3, which 2 nodes do not divide"),
        ({"slots": 4, "ranks": 4}, "slots is 4; 8 experts can fill 8 to 32 slots on 4 ranks."),
        ({"slots": 24, "ranks": 4, "groups": 4, "nodes": 2}, "8 experts can fill 8 to 16 slots"),
        ({"slots": 8, "ranks": 0}, "each must be at least 1"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(sizes: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        balance([1] * 8, **sizes)


@pytest.mark.parametrize(
    ("slots", "ranks", "message"),
    [((0, 1, 2), 2, "3 slots do not divide among 2"), ((0, 2), 1, "expert 1 has no slot"), ((), 1, "0 slots")],
)
def test_a_placement_places_every_expert(slots: tuple[int, ...], ranks: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Placement(slots, ranks)
