"""Weights of a rank as published."""

import pytest

from fathom.layout import Layout
from fathom.plan.interim import room_tokens, weight_bytes
from fathom.plan.latency import Setup
from tests.plan.served import device, shape


def test_a_rank_of_the_pool_that_decodes_holds_24_gb() -> None:
    """EP144 with 2 experts and the shared one: 20.5 GB, and 3.7 GB of embedding and head."""
    setup = Setup(shape(), device("h800"), Layout(dp=144, ep=144), redundant=32)
    assert weight_bytes(setup) == pytest.approx(24.2e9, rel=0.01)
    assert room_tokens(setup) > 144 * 90 * 4989  # what its users need at 20 to 22 tok/s
