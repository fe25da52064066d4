"""Rows travel to their experts and come back to where they belong, for any number of tokens, none included."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import pytest
import torch

from fathom.config import preset
from fathom.layout import Layout, Shard
from fathom.layout.placement import Placement, balance
from fathom.layout.rows import bounds
from fathom.parallel.comm import Ranks, Table
from fathom.parallel.groups import Groups
from tests.parallel.threads import World, in_memory

__all__ = ["in_memory"]

pytestmark = pytest.mark.usefixtures("in_memory")
CONFIG = replace(preset("nano"), hidden_size=8, intermediate_size=72, n_routed_experts=8, n_group=2, topk_group=1)
EXPERTS, TOP_K = CONFIG.n_routed_experts, CONFIG.num_experts_per_tok


def copies(ranks: int) -> Placement:
    """Experts in no particular order, some of them twice."""
    return balance(list(range(1, EXPERTS + 1)), slots=EXPERTS + ranks, ranks=ranks)


def even(ranks: int) -> Placement:
    return Placement.contiguous(EXPERTS, ranks)


def batch(lane: int, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """States and chosen experts of the tokens of a lane."""
    draw = torch.Generator().manual_seed(100 * lane + tokens)
    ids = torch.stack([torch.randperm(EXPERTS, generator=draw)[:TOP_K] for _ in range(tokens)] or [torch.empty(TOP_K)])
    return torch.randn(tokens, CONFIG.hidden_size, generator=draw), ids[:tokens].long()


def expert(number: int, row: torch.Tensor) -> torch.Tensor:
    return row * (number + 1) + number


def through_experts(layout: Layout, counts: list[int], placement: Placement) -> list[Any]:
    """Each rank's part of its lane's tokens after a dispatch, work by whoever holds the experts, and a combine."""

    def work(rank: int, groups: Groups) -> tuple[torch.Tensor, int, dict[int, torch.Tensor]]:
        shard = Shard(CONFIG, layout, rank)
        ranks = Ranks(shard, groups)
        if placement != even(layout.ep):
            ranks.place(3, placement)
        tokens, ids = batch(shard.dp_rank, counts[shard.dp_rank])
        most = ranks.begin(len(tokens))
        begin, end = (len(tokens) * (shard.tp_rank + more) // shard.tp_size for more in (0, 1))
        room = torch.full((most, CONFIG.hidden_size + 3), torch.nan)[:, : CONFIG.hidden_size]  # rows lie apart
        slot, row, arrived = ranks.dispatch(3, tokens[begin:end], ids[begin:end], room)
        assert arrived <= most and not room[:arrived].isnan().any() and room[arrived:].isnan().all()
        names = placement.on_rank(shard.ep_rank)
        given = [expert(names[s], room[r]) for s, r in zip(slot.tolist(), row.tolist(), strict=True)]
        due = torch.full(((end - begin) * TOP_K, CONFIG.hidden_size), torch.nan)
        assert ranks.pairs == (len(given), len(due))
        ranks.combine(torch.stack(given) if given else torch.empty(0, CONFIG.hidden_size), due)
        return due, arrived, ranks.take_load()

    return World(layout).run(work)


CASES = [
    (Layout(tp=2, ep=2), [5]), (Layout(tp=2, ep=2), [1]), (Layout(tp=4, ep=2), [7]), (Layout(tp=4, ep=4), [2]),
    (Layout(dp=2, ep=2), [4, 9]), (Layout(dp=2, ep=2), [0, 3]), (Layout(dp=2, tp=2, ep=4), [6, 0]),
    (Layout(dp=4, tp=1, ep=4), [0, 0, 1, 0]), (Layout(dp=2, tp=2, ep=2), [3, 11]), (Layout(dp=8, ep=8), [2] * 8),
]  # fmt: skip


@pytest.mark.parametrize("placed", [even, copies])
@pytest.mark.parametrize(("layout", "counts"), CASES, ids=str)
def test_every_row_meets_its_experts_and_comes_home(layout: Layout, counts: list[int], placed: Any) -> None:
    found = through_experts(layout, counts, placed(layout.ep))
    for lane, count in enumerate(counts):
        tokens, ids = batch(lane, count)
        ours = torch.cat([found[rank][0] for rank in range(lane * layout.tp, (lane + 1) * layout.tp)])
        wanted = [expert(e, tokens[t]) for t in range(count) for e in ids[t].tolist()]
        assert torch.equal(ours, torch.stack(wanted) if wanted else ours)
    each = layout.dp * layout.tp // (layout.dp * layout.tp // layout.ep)
    for first in range(0, layout.world_size, each):
        arrived = [found[rank][1] for rank in range(first, first + each)]
        assert sum(arrived) <= each * sum(counts), "a row travels once to each rank"


def test_the_load_of_every_expert_is_known_everywhere() -> None:
    layout, counts = Layout(dp=2, tp=2, ep=4), [9, 4]
    found = through_experts(layout, counts, even(4))
    ids = torch.cat([batch(lane, count)[1] for lane, count in enumerate(counts)])
    for _, _, load in found:
        assert load.keys() == {3} and torch.equal(load[3], torch.bincount(ids.flatten(), minlength=EXPERTS))


def test_load_is_counted_anew_once_it_is_taken() -> None:
    shard = Shard(CONFIG, Layout())
    ranks = Ranks(shard, Groups(None, None, None, None))
    ranks.load[2] = torch.ones(EXPERTS)
    assert ranks.take_load().keys() == {2} and ranks.take_load() == {}
    assert ranks.begin(17) == 0, "nobody sends anything to a rank alone"


@pytest.mark.parametrize("tp", [2, 4])
@pytest.mark.parametrize("along", ["heads", "hidden", "inner", "vocabulary"])
def test_columns_of_others_are_fetched_into_their_places(tp: int, along: str) -> None:
    layout = Layout(tp=tp)
    places = bounds(Shard(CONFIG, layout), along)
    whole = torch.randn(3, places[-1], generator=torch.Generator().manual_seed(1))

    def work(rank: int, groups: Groups) -> torch.Tensor:
        own = torch.full((3, places[-1] + 5), torch.nan)
        own[:, places[rank] : places[rank + 1]] = whole[:, places[rank] : places[rank + 1]]
        Ranks(Shard(CONFIG, layout, rank), groups).columns(own, places)
        assert own[:, places[-1] :].isnan().all()
        return own[:, : places[-1]]

    assert all(torch.equal(own, whole) for own in World(layout).run(work))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 9])
def test_rows_of_others_are_fetched_into_their_places(count: int) -> None:
    layout = Layout(tp=4)
    whole = torch.randn(count, 6, generator=torch.Generator().manual_seed(1))

    def work(rank: int, groups: Groups) -> torch.Tensor:
        own, begin, end = torch.full((count, 8), torch.nan), count * rank // 4, count * (rank + 1) // 4
        own[begin:end, :6] = whole[begin:end]
        Ranks(Shard(CONFIG, layout, rank), groups).rows(own[:, :6])
        return own[:, :6]

    assert all(torch.equal(own, whole) for own in World(layout).run(work))


def test_states_pass_from_stage_to_stage_and_nothing_if_there_are_none() -> None:
    layout = Layout(pp=2, dp=2)
    x = torch.randn(3, CONFIG.hidden_size)

    def work(rank: int, groups: Groups) -> torch.Tensor | None:
        shard = Shard(CONFIG, layout, rank)
        ranks, rows = Ranks(shard, groups), 3 * shard.dp_rank  # the first lane is idle
        if shard.pp_rank == 0:
            return ranks.send(x[:rows])
        return ranks.receive(rows)

    first, second = World(layout).run(work)[2:]
    assert first.shape == (0, CONFIG.hidden_size) and torch.equal(second, x)


def test_it_says_what_it_is_about_to_ask() -> None:
    layout, noted = Layout(tp=2, ep=2), []

    def work(rank: int, groups: Groups) -> None:
        note = (lambda op, layer: noted.append((op, layer))) if rank == 0 else None
        ranks = Ranks(Shard(CONFIG, layout, rank), groups, note)
        tokens, ids = batch(0, 2)
        most = ranks.begin(2)
        ranks.dispatch(4, tokens[rank : rank + 1], ids[rank : rank + 1], torch.empty(most, CONFIG.hidden_size))
        given, due = ranks.pairs
        ranks.combine(torch.zeros(given, CONFIG.hidden_size), torch.empty(due, CONFIG.hidden_size))
        ranks.rows(torch.zeros(2, CONFIG.hidden_size))

    World(layout).run(work)
    assert noted == [("begin", -1), ("dispatch", 4), ("combine", 4), ("rows", 4)]


def test_tokens_take_the_copies_of_an_expert_by_turns() -> None:
    table = Table.of(Placement((0, 2, 1, 0, 0, 1), 3))
    ids = torch.tensor([[0, 2]] * 6)
    owner, slot = table.find(ids, torch.arange(6))
    assert owner.tolist() == [[0, 0], [1, 0], [2, 0]] * 2
    assert slot.tolist() == [[0, 1], [1, 1], [0, 1]] * 2


def test_experts_are_in_equal_runs_unless_they_are_placed() -> None:
    rng = Random(3)
    for size in (1, 2, 4, 8):
        table = Table.of(even(size))
        ids = torch.tensor([[rng.randrange(EXPERTS) for _ in range(TOP_K)] for _ in range(9)])
        owner, slot = table.find(ids, torch.arange(9))
        each = EXPERTS // size
        assert torch.equal(owner, ids // each) and torch.equal(slot, ids % each)
