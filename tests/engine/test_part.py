"""A rank's part: it says where it is, runs what it is ordered, and leaves nothing behind when it cannot begin."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fathom.batching.plan import Plan, Row, Sampling
from fathom.batching.request import SamplingParams
from fathom.engine import orders
from fathom.engine.load import load_model
from fathom.engine.part import Part, Place
from fathom.engine.runner import Runner
from fathom.errors import ConfigError
from fathom.model import PackedTransformer
from fathom.parallel.groups import free_port
from tests.ops.conftest import library, native

__all__ = ["library", "native"]
PLAN = Plan(3, (Row("a", (5, 9, 2), 0, (1,), Sampling(3, SamplingParams(seed=4, logprobs=2))),))


def order(model: Path | str, *layout: int, timeout_s: float = 5.0) -> orders.Load:
    return orders.Load(str(model), layout or (1, 1, 1, 1), "127.0.0.1", free_port(), timeout_s, mtp=False)  # type: ignore[arg-type]


@pytest.mark.usefixtures("native")
def test_a_part_that_is_all_answers_as_a_runner_does(tiny_model: Path) -> None:
    place = Place()
    part = Part(order(tiny_model), 0, place, 1)
    try:
        assert part.answers and part.shard.is_whole and part.load_s > 0
        part.open(orders.Open(4, 16, False))
        answer = part.execute(orders.Execute((PLAN,), (1, 0)))
        assert (place.at.step, place.at.op) == (3, "wait for orders")
    finally:
        part.close()
    whole = load_model(tiny_model, threads=1)
    assert isinstance(whole, PackedTransformer)
    assert list(answer.sampled) == Runner(whole, whole.new_cache(4, 16, mtp=False)).execute(PLAN)


@pytest.mark.usefixtures("native")
def test_who_cannot_begin_can_begin_again(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its peers are met before the kernels look at the weights: the group must go with what was in vain."""
    with monkeypatch.context() as patch, pytest.raises(ConfigError, match="need the native kernels"):
        patch.setattr(PackedTransformer, "open", lambda *_: None)
        Part(order(tiny_model), 0, Place(), 1)
    assert not torch.distributed.is_initialized()
    with pytest.raises(RuntimeError):  # nobody else comes
        Part(order(tiny_model, 1, 1, 2, 1, timeout_s=0.3), 0, Place(), 1)
    with pytest.raises(ConfigError, match="which tp=3 does not divide"):
        Part(order(tiny_model, 1, 1, 3, 1), 0, Place(), 1)
    Part(order(tiny_model), 0, Place(), 1).close()
    assert not torch.distributed.is_initialized()


def test_a_place_tells_how_long_it_has_been_there(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("fathom.engine.place.monotonic", lambda: now[0])
    place = Place()
    place.step = 5
    place.note("dispatch", 2)
    now[0] = 101.5
    assert place.at == orders.At(5, "dispatch", 2, 1.5)
    place.note("compute")
    assert place.at == orders.At(5, "compute", -1, 0.0)
