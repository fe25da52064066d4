"""Ranks are grouped as their shards say, and a process that leaves a group can join another."""

from __future__ import annotations

import socket
from itertools import product

import pytest
import torch.distributed as dist

from fathom.config import preset
from fathom.errors import ConfigError
from fathom.layout import Layout, Shard
from fathom.parallel.groups import Meeting, ep_ranks, free_port, joined, tp_ranks

NANO = preset("nano")
LAYOUTS = [
    Layout(pp, dp, tp, ep)
    for pp, dp, tp, ep in product((1, 2), (1, 2, 4), (1, 2, 4), (1, 2, 4, 8))
    if dp * tp % ep == 0
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_groups_are_what_shards_say(layout: Layout) -> None:
    shards = [Shard(NANO, layout, rank) for rank in range(layout.world_size)]
    for shard in shards:
        tp, ep = tp_ranks(layout, shard.rank), ep_ranks(layout, shard.rank)
        assert [shards[rank].tp_rank for rank in tp] == list(range(layout.tp)) and shard.rank in tp
        assert [shards[rank].ep_rank for rank in ep] == list(range(layout.ep)) and shard.rank in ep
        assert len({(shards[rank].pp_rank, shards[rank].dp_rank) for rank in tp}) == 1, "they share a batch"
        assert len({shards[rank].pp_rank for rank in ep}) == 1, "they hold the same layers"
        experts = [expert for rank in ep for expert in shards[rank].experts]
        assert experts == list(range(NANO.n_routed_experts)), "in the order of the ranks"


def test_a_rank_alone_has_nobody_to_talk_to() -> None:
    for _ in range(2):  # what was left is left
        with joined(Shard.whole(NANO), Meeting("127.0.0.1", free_port())) as groups:
            assert (groups.tp, groups.ep, groups.before, groups.after) == (None, None, None, None)
            assert not dist.is_initialized(), "there is nobody to meet"


def test_who_waits_in_vain_can_try_again() -> None:
    with pytest.raises(RuntimeError), joined(Shard(NANO, Layout(tp=2)), Meeting("127.0.0.1", free_port(), 0.5)):
        pytest.fail("nobody else came")
    assert not dist.is_initialized()
    with joined(Shard.whole(NANO), Meeting("127.0.0.1", free_port())):
        pass


@pytest.mark.parametrize("timeout_s", [0, -1.0])
def test_waiting_takes_time(timeout_s: float) -> None:
    with pytest.raises(ConfigError, match="must be above 0"):
        Meeting("127.0.0.1", 1, timeout_s)


def test_a_free_port_can_be_listened_on() -> None:
    with socket.create_server(("127.0.0.1", free_port())) as listening:
        assert listening.getsockname()[1] > 0
