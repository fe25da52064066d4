"""A page's bytes hold all of it, and only it."""

import pytest
import torch

from fathom.engine.pagebytes import PageBytes
from tests.engine.test_spill import cache


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bytes_carry_a_page_to_another_cache_and_touch_nothing_else(dtype):
    here, there = cache(dtype), cache(dtype)
    for part in (there.latent, there.rope):
        part.zero_()
    leaving, arriving = PageBytes(here), PageBytes(there)
    assert leaving.bytes.nbytes == here.page_bytes
    leaving.load(1)
    arriving.bytes[:] = bytes(leaving.bytes)
    arriving.store(3)
    for part, kept in zip(there.page(3), here.page(1), strict=True):
        assert torch.equal(part, kept)
    assert not there.latent[:, :3].any() and not there.rope[:, :3].any()
