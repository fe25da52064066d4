"""A format names weights, arithmetic and shape; nothing that may differ between two engines that agree."""

import torch

from fathom.engine.transfer import page_format
from fathom.model import LatentCache, Transformer, init_weights
from tests.engine.tiny import CONFIG, tiny


def test_a_format_is_the_same_for_the_same_model_and_for_no_other():
    form = page_format(tiny(), LatentCache(CONFIG, 9, 4))
    assert form.page_bytes == LatentCache(CONFIG, 1, 4).page_bytes
    assert page_format(tiny(), LatentCache(CONFIG, 30, 4)) == form
    other = init_weights(Transformer(CONFIG, mtp=False), std=0.3, seed=2).eval()
    changed = [
        page_format(other, LatentCache(CONFIG, 9, 4)),
        page_format(tiny(), LatentCache(CONFIG, 9, 8)),
        page_format(tiny(), LatentCache(CONFIG, 9, 4, dtype=torch.bfloat16)),
    ]
    assert [form.difference(each).split()[0] for each in changed] == ["probe", "page_tokens", "dtype"]
    assert len({each.key for each in (form, *changed)}) == 4
