"""Orders and answers survive the way, and nothing else is taken for one."""

from __future__ import annotations

import msgspec
import pytest

from fathom.batching.plan import Plan, Row, Sampled, Sampling
from fathom.batching.request import SamplingParams, ThinkingParams, TokenLogprob
from fathom.engine import orders

PLAN = Plan(
    7,
    (Row("a", (5, 9), 3, (1, 0), Sampling(5, SamplingParams(thinking=ThinkingParams(4, 9)), 9), drafts=1, propose=2),),
    copies=((1, 2),),
)
TO_RANK = [
    orders.Load("nano", (1, 2, 2, 4), "127.0.0.1", 4000, 20.0, bits="8", threads=2, load="copy", mtp=True),
    orders.Load("nano", (1, 1, 1, 1), "::1", 4000, 0.5),
    orders.Open(100, 16, True),
    orders.Execute((PLAN, Plan(7)), (1, 2)),
    orders.Count(),
    orders.Trace(100),
    orders.Where(),
    orders.Leave(),
]
TO_LEADER = [
    orders.Loaded(1 << 40, 3.25),
    orders.Answer((Sampled((3, 4), (TokenLogprob(3, -0.1, ((3, -0.1),)),), (8,)), Sampled((1,))), 0.25),
    orders.Answer(()),
    orders.Traced(12.5, 1, [("dispatch", 3, 7, 1.25, 1.5)]),
    orders.At(3, "dispatch", 5, 1.5),
    orders.Broke("OutOfMemoryError: no", "input"),
]


@pytest.mark.parametrize("order", TO_RANK, ids=lambda order: type(order).__name__)
def test_orders_survive_the_way(order: orders.ToRank) -> None:
    assert orders.to_rank(orders.pack(order)) == order


@pytest.mark.parametrize("answer", TO_LEADER, ids=lambda answer: type(answer).__name__)
def test_answers_survive_the_way(answer: orders.ToLeader) -> None:
    assert orders.to_leader(orders.pack(answer)) == answer


def test_neither_is_taken_for_the_other() -> None:
    for order in TO_RANK:
        with pytest.raises(ValueError, match="Invalid value"):
            orders.to_leader(orders.pack(order))
    for answer in TO_LEADER:
        with pytest.raises(ValueError, match="Invalid value"):
            orders.to_rank(orders.pack(answer))


@pytest.mark.parametrize(
    "frame",
    [b"", b"\xff", b"order", msgspec.msgpack.encode({"type": "go"}), msgspec.msgpack.encode(["leave"]),
     msgspec.msgpack.encode({"type": "leave", "now": True}), msgspec.msgpack.encode({"type": "open", "num_pages": "9"}),
     orders.pack(orders.Where())[:-1], orders.pack(orders.Where()) + b"\0"],
)  # fmt: skip
def test_what_is_no_order_is_refused(frame: bytes) -> None:
    with pytest.raises(ValueError):
        orders.to_rank(frame)


def test_a_place_reads_as_a_sentence() -> None:
    assert str(orders.At(3, "dispatch", 5, 1.26)) == "step 3, dispatch of layer 5, for 1.3 s"
    assert str(orders.At(0, "load", -1, 2.0)) == "step 0, load, for 2.0 s"
