"""What C asks arrives at a Peers as tensors over C's own memory, and an exception comes out on the other side."""

from __future__ import annotations

import ctypes
import gc
import weakref
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fathom.config import preset
from fathom.layout import Layout, Shard
from fathom.layout.rows import bounds
from fathom.ops.cpu import structs
from fathom.ops.cpu.native import NativeModel
from fathom.ops.cpu.peers import Exchange
from tests.model.packing import pack_model
from tests.model.tiny import CONFIG, model
from tests.ops.conftest import library, native

__all__ = ["library", "native"]

SMALL = replace(preset("nano"), hidden_size=20, vocab_size=100)
TOP_K = SMALL.num_experts_per_tok


class Recorder:
    """Peers that write into what they are given."""

    def __init__(self) -> None:
        self.pairs = (3, 4)
        self.seen: list[object] = []
        self.error: BaseException | None = None

    def begin(self, tokens: int) -> int:
        self.seen.append(("begin", tokens))
        return 0

    def columns(self, x: Tensor, places: tuple[int, ...]) -> None:
        self.seen.append(("columns", tuple(x.shape), places))
        self._fail()
        x[:, places[1] :] = 7

    def rows(self, x: Tensor) -> None:
        self.seen.append(("rows", tuple(x.shape)))
        self._fail()
        x[0] = 8

    def dispatch(self, layer: int, x: Tensor, ids: Tensor, room: Tensor) -> tuple[Tensor, Tensor, int]:
        self.seen.append(("dispatch", layer, x.clone(), ids.clone(), tuple(room.shape)))
        self._fail()
        room[:2] = 9
        return torch.tensor([1, 0, 1]), torch.tensor([0, 0, 1]), 2

    def combine(self, given: Tensor, due: Tensor) -> None:
        self.seen.append(("combine", tuple(given.shape), tuple(due.shape)))
        self._fail()
        due[:] = given.sum()

    def receive(self, rows: int) -> Tensor:
        raise AssertionError(rows)

    def send(self, x: Tensor) -> None:
        raise AssertionError(x)

    def _fail(self) -> None:
        if self.error is not None:
            raise self.error


@pytest.fixture
def peers() -> Recorder:
    return Recorder()


@pytest.fixture
def exchange(peers: Recorder) -> Exchange:
    return Exchange(peers, Shard(SMALL, Layout(tp=2, ep=2), 1))


def test_the_struct_says_who_one_is(exchange: Exchange) -> None:
    struct, shard = exchange.struct, Shard(SMALL, Layout(tp=2, ep=2), 1)
    assert (struct.size, struct.rank, struct.travels) == (2, 1, 1)
    assert [struct.heads[i] for i in range(3)] == [head * SMALL.v_head_dim for head in bounds(shard, "heads")]
    for along in ("hidden", "inner", "vocabulary"):
        assert tuple(getattr(struct, along)[i] for i in range(3)) == bounds(shard, along)
    assert Exchange(Recorder(), Shard(SMALL, Layout(tp=2))).struct.travels == 0, "every rank has all experts"


def test_columns_and_rows_are_fetched_into_the_memory_of_c(exchange: Exchange, peers: Recorder) -> None:
    memory, struct = torch.zeros(3, 24), exchange.struct
    assert struct.columns(memory.data_ptr(), 3, 24, ctypes.addressof(struct.hidden.contents)) == 0
    assert (memory[:, 16:] == 7).all() and not memory[:, :16].any()
    assert struct.rows(memory.data_ptr(), 2, 24) == 0
    assert (memory[0, :20] == 8).all() and (memory[0, 20:] == 7).all(), "the padding of a row is not a column"
    assert peers.seen == [("columns", (3, 24), (0, 16, 20)), ("rows", (2, 20))]


def test_each_set_of_places_is_known_by_its_address(exchange: Exchange, peers: Recorder) -> None:
    memory, struct = torch.zeros(1, 1024), exchange.struct
    for along in ("heads", "inner", "vocabulary"):
        assert struct.columns(memory.data_ptr(), 1, 1024, ctypes.addressof(getattr(struct, along).contents)) == 0
    shard = Shard(SMALL, Layout(tp=2, ep=2), 1)
    heads = tuple(head * SMALL.v_head_dim for head in bounds(shard, "heads"))
    assert [seen[2] for seen in peers.seen] == [heads, bounds(shard, "inner"), bounds(shard, "vocabulary")]


def test_a_dispatch_fills_what_arrives(exchange: Exchange, peers: Recorder) -> None:
    x, ids = torch.arange(48.0).view(2, 24), torch.tensor([[3, 1], [0, 2]])
    room, expert, row = torch.zeros(5, 24), torch.full((8,), -1), torch.full((8,), -1)
    came = structs.Arrivals(room.data_ptr(), 24, 5, expert.data_ptr(), row.data_ptr(), 0, 0)
    assert exchange.struct.dispatch(4, x.data_ptr(), 2, 24, ids.data_ptr(), ctypes.pointer(came)) == 0
    assert (came.tokens, came.pairs) == (2, 3)
    assert expert.tolist()[:4] == [1, 0, 1, -1] and row.tolist()[:4] == [0, 0, 1, -1]
    assert (room[:2, :20] == 9).all() and not room[2:].any() and not room[:, 20:].any()
    ((what, layer, sent, chosen, space),) = peers.seen
    assert (what, layer, space) == ("dispatch", 4, (5, 20))
    assert torch.equal(sent, x[:, :20]) and torch.equal(chosen, ids)


def test_no_tokens_are_no_memory(exchange: Exchange, peers: Recorder) -> None:
    room, expert, row = torch.zeros(5, 24), torch.full((8,), -1), torch.full((8,), -1)
    came = structs.Arrivals(room.data_ptr(), 24, 5, expert.data_ptr(), row.data_ptr(), 0, 0)
    assert exchange.struct.dispatch(4, None, 0, 24, None, ctypes.pointer(came)) == 0
    assert peers.seen[0][2].shape == (0, 20) and peers.seen[0][3].shape == (0, TOP_K)
    peers.pairs = (0, 0)
    assert exchange.struct.combine(None, None, 24) == 0
    assert peers.seen[1] == ("combine", (0, 20), (0, 20))


def test_results_go_back_by_the_number_of_pairs(exchange: Exchange, peers: Recorder) -> None:
    given, due = torch.ones(3, 24), torch.zeros(5, 24)
    assert exchange.struct.combine(given.data_ptr(), due.data_ptr(), 24) == 0
    assert (due[:4, :20] == 60).all() and not due[4:].any() and not due[:, 20:].any()


@pytest.mark.parametrize("error", [RuntimeError("connection reset"), KeyboardInterrupt(), MemoryError()])
def test_an_exception_is_kept_and_said(exchange: Exchange, peers: Recorder, error: BaseException) -> None:
    peers.error = error
    memory = torch.zeros(1, 24)
    assert exchange.struct.rows(memory.data_ptr(), 1, 24) == 1
    assert exchange.error is error


def test_it_goes_at_once_and_with_it_what_its_peers_hold(peers: Recorder) -> None:
    """Shared memory and sockets of a crew that is no more, while the next one starts."""
    gc.disable()
    try:
        exchange = Exchange(peers, Shard(SMALL, Layout(tp=2)))
        gone = weakref.ref(exchange)
        del exchange
        assert gone() is None, "a cycle keeps it until the collector comes"
    finally:
        gc.enable()


def test_a_forward_ends_with_the_exception_of_its_peers_and_the_next_one_runs(native: object) -> None:
    """With two threads: both leave the layer together."""
    config, peers = replace(CONFIG, num_nextn_predict_layers=0), Recorder()
    weights = pack_model(model(num_nextn_predict_layers=0), "f32")
    turn = torch.ones(256, 2), torch.zeros(256, 2)
    shard = Shard(config, Layout(dp=2, ep=1))
    part = NativeModel(config, weights, turn, 2, native, shard, peers)  # type: ignore[arg-type]
    ids, at, table = torch.tensor([1, 2]), torch.tensor([0, 1]), torch.zeros(1, 1, dtype=torch.int32)
    latent, rope = torch.zeros(3, 1, 4, config.kv_lora_rank), torch.zeros(3, 1, 4, config.qk_rope_head_dim)
    expected = part.forward(ids, at, [2], table, latent, rope)
    part._exchange.struct.travels = 1
    part._model.peers = ctypes.pointer(part._exchange.struct)
    peers.begin = lambda tokens: 4  # type: ignore[method-assign]
    peers.error = RuntimeError("a peer is gone")
    with pytest.raises(RuntimeError, match="a peer is gone"):
        part.forward(ids, at, [2], table, latent, rope)
    part._exchange.struct.travels = 0
    assert torch.equal(part.forward(ids, at, [2], table, latent, rope), expected)
