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
    found = 2 * 4096 * n * k / reach.product(H800, 4096, n, k, "fp8") / 1e12
    assert found == pytest.approx(tflops, rel=0.2)  # the law's own 80 % interval is 0.22


@pytest.mark.parametrize(("backward", "ms"), [(False, 1.237), (True, 3.779)])
def test_attention_is_near_deepseeks_profile(backward: bool, ms: float) -> None:
    """profile-data/train.json: 4096 tokens, 128 heads, keys of 192 and values of 128, causal."""
    flops = 2 * 128 * 320 * 4096 * 4097 / 2 * ((3 * 192 + 2 * 128) / 320 if backward else 1)
    assert flops / reach.attention_rate(H800, 3, backward) * 1e3 == pytest.approx(ms, rel=0.05)


def test_a_large_product_reaches_what_was_measured() -> None:
    """MAMF: the best of all shapes."""
    found = 2 * 16384**3 / reach.product(H100, 16384, 16384, 16384, "bf16") / 1e12
    assert found == pytest.approx(794.5, rel=0.05)


def test_blackwell_reaches_more_of_its_fp8_peak() -> None:
    """MAMF: 3,615.6 of 5,000 TFLOPS on a GB200, 1,402.6 of 1,979 on an H100."""
    for device, tflops in ((GB200, 3615.6), (H100, 1402.6)):
        found = 2 * 16384**3 / reach.product(device, 16384, 16384, 16384, "fp8") / 1e12
        assert found == pytest.approx(tflops, rel=0.08)


def test_experts_at_once_are_near_deepgemm() -> None:
    """Grouped contiguous, H800: 4 x 8192 rows, 4096 x 7168 and 7168 x 2048: 1,297 and 1,099 TFLOPS."""
    for n, k, tflops in ((4096, 7168, 1297), (7168, 2048, 1099)):
        found = 2 * 4 * 8192 * n * k / reach.product(H800, 8192, n, k, "fp8", 4.0) / 1e12
        assert found == pytest.approx(tflops, rel=0.1)


def test_a_thin_product_is_bound_by_memory() -> None:
    bytes_moved = 2 * (16 * 8192 + 8192 * 8192 + 16 * 8192)
    assert reach.product(H100, 16, 8192, 8192, "bf16") >= bytes_moved / 3.35e12


def test_ranks_of_a_node_share_its_network_cards() -> None:
    inside, across, single = (reach.ring_rate(H100, *ranks) for ranks in ((8, 1), (64, 1), (8, 8)))
    assert inside == reach.link_rate(H100)
    assert single == reach.network_rate(H100) < across <= inside
    assert reach.ring_rate(GB200, 64, 1) == reach.link_rate(GB200)
