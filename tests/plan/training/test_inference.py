"""Serving rates that price generated data."""

import pytest

from fathom.plan.families import find
from fathom.plan.hardware import Catalogue
from fathom.plan.training.inference import rates, replica

H100, H200 = (Catalogue.read().find(name) for name in ("h100", "h200"))


def test_a_replica_holds_its_weights() -> None:
    """671 GB in FP8: 16 devices of 80 GB, 8 of 141 GB; 810 GB of a 405B in BF16: two machines of 80 GB."""
    assert replica(find("deepseek-v3"), H100).ep == 16
    assert replica(find("deepseek-v3"), H200).ep == 8
    dense = replica(find("llama-3.1-405b"), H100)
    assert (dense.tp, dense.pp) == (8, 4)
    assert replica(find("llama-3.1-8b"), H100).world_size == 1


def test_v3_writes_and_reads_about_as_deepseek_serves_it() -> None:
    """1,850 written and 4,026 read a second and H800, in a far larger replica."""
    writes, reads = rates(find("deepseek-v3"), Catalogue.read().find("h800"))
    assert 0.4 < writes / 1850 < 1.5
    assert 0.5 < reads / 4026 < 3


@pytest.mark.parametrize("model", ["llama-3.1-8b", "qwen3-235b-a22b", "gpt-oss-120b"])
def test_reading_is_faster_than_writing(model: str) -> None:
    writes, reads = rates(find(model), H100)
    assert 0 < writes < reads
