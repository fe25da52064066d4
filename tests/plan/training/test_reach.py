"""What kernels reach, against published kernels."""

import pytest

from fathom.plan.hardware import Catalogue
from fathom.plan.training import reach

H800, H100, GB200 = (Catalogue.read().find(name) for name in ("h800", "h100", "gb200"))
#: DeepGEMM, first release, H800, m = 4096: (n, k, TFLOPS)
DEEPGEMM = [
    (2112, 7168, 1058), (24576, 1536, 990), (32768, 512, 590), (7168, 16384, 1358), (4096, 7168, 1304),
    (7168, 2048, 1025),
]  # fmt: skip


@pytest.mark.parametrize(("n", "k", "tflops"), DEEPGEMM)
def test_fp8_products_are_near_deepgemm(n: int, k: int, tflops: float) -> None:
    found = 2 * 4096 * n * k / reach.matmul(H800, "fp8", 4096, n, k) / 1e12
    assert found == pytest.approx(tflops, rel=0.15)


@pytest.mark.parametrize(("backward", "ms"), [(False, 1.237), (True, 3.779)])
def test_attention_is_near_deepseeks_profile(backward: bool, ms: float) -> None:
    """profile-data/train.json: 4096 tokens, 128 heads, keys of 192 and values of 128, causal."""
    flops = 2 * 128 * 320 * 4096 * 4097 / 2 * ((3 * 192 + 2 * 128) / 320 if backward else 1)
    assert flops / reach.attention_rate(H800, 3, backward) * 1e3 == pytest.approx(ms, rel=0.05)


def test_a_large_product_reaches_what_was_measured() -> None:
    """MAMF: the best of all shapes."""
    found = 2 * 16384**3 / reach.matmul(H100, "bf16", 16384, 16384, 16384) / 1e12
    assert 0.95 * 794.5 < found <= 794.5


def test_a_thin_product_is_bound_by_memory() -> None:
    bytes_moved = 2 * (16 * 8192 + 8192 * 8192 + 16 * 8192)
    assert reach.matmul(H100, "bf16", 16, 8192, 8192) >= bytes_moved / 3.35e12
    assert reach.matmul(H100, "bf16", 0, 8192, 8192) == 0


def test_ranks_of_a_node_share_its_network_cards() -> None:
    inside, across, single = (reach.ring_rate(H100, *ranks) for ranks in ((8, 1), (64, 1), (8, 8)))
    assert inside == reach.link_rate(H100)
    assert single == reach.network_rate(H100) < across <= inside
    assert reach.ring_rate(GB200, 64, 1) == reach.link_rate(GB200)
