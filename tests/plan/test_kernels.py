"""Laws of kernels against measured ones and against the roofline they may not beat."""

import pytest

from fathom.errors import ConfigError
from fathom.plan.families import find
from fathom.plan.hardware import Catalogue
from fathom.plan.kernels import attention_decode, attention_prefill, elementwise, gemm, grouped_gemm, mla_decode

DEVICES = Catalogue.read()
H800 = DEVICES["h800_sxm"]
DEEPSEEK = find("deepseek-v3").blocks[0].attention


@pytest.mark.parametrize(
    ("m", "n", "k", "tflops"),  # DeepGEMM's README, first release
    [(64, 24576, 1536, 289), (128, 7168, 16384, 645), (4096, 7168, 16384, 1358), (4096, 2112, 7168, 1058)],
)
def test_a_product_takes_what_deepgemm_measured(m: int, n: int, k: int, tflops: float) -> None:
    assert gemm(H800, m, n, k) == pytest.approx(2 * m * n * k / tflops / 1e12, rel=0.25)


def test_one_tile_waits_for_memory_at_each_step_however_few_rows_it_has() -> None:
    # InferSim, H800: 16 x 65536 with 128 x 65536 takes 60.9 us, thirty times its bytes at full bandwidth
    assert gemm(H800, 16, 128, 65536) == pytest.approx(60.9e-6, rel=0.1)
    assert gemm(H800, 1, 128, 65536) == pytest.approx(gemm(H800, 16, 128, 65536), rel=0.01)


def test_experts_cost_their_bytes_until_they_have_many_rows() -> None:
    few, more, many = (grouped_gemm(H800, 32, rows, 4096, 7168) for rows in (128, 1024, 32 * 1024))
    assert more == pytest.approx(few, rel=0.1)
    assert few == pytest.approx(325e-6, rel=0.1)  # InferSim
    assert many > 4 * few


@pytest.mark.parametrize(("sequences", "context", "us"), [(32, 16384, 270.5), (128, 4096, 292.0), (128, 65536, 4443.0)])
def test_latent_attention_takes_what_flashmla_takes(sequences: int, context: int, us: float) -> None:
    assert mla_decode(H800, sequences, context) == pytest.approx(us * 1e-6, rel=0.1)
    assert attention_decode(H800, DEEPSEEK, sequences, context) == mla_decode(H800, sequences, context)


def test_prefill_takes_what_flashattention_takes() -> None:
    assert attention_prefill(H800, DEEPSEEK, 8192) == pytest.approx(4.539e-3, rel=0.1)
    assert attention_prefill(H800, DEEPSEEK, 4096, backward=True) == pytest.approx(3.779e-3, rel=0.1)


@pytest.mark.parametrize("name", list(DEVICES))
def test_nothing_beats_the_roofline(name: str) -> None:
    device = DEVICES[name]
    for m in (1, 100, 10000):
        for kind in ("bf16", "fp8", "nvfp4", "int8", "int4"):
            seconds = gemm(device, m, 7168, 2048, kind)
            peak = {"bf16": "bf16", "fp8": "fp8", "nvfp4": "fp4", "int8": "int8", "int4": "bf16"}[kind]
            assert seconds > 2 * m * 7168 * 2048 / device.peak(peak)  # type: ignore[arg-type]
            assert seconds > 7168 * 2048 / 2 / device.memory_bytes_per_s
    assert elementwise(device, 1e6) > 1e6 / device.memory_bytes_per_s


def test_a_product_of_nothing_is_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match="must be above 0"):
        gemm(H800, 0, 128, 128)
    with pytest.raises(ConfigError, match="must be above 0"):
        grouped_gemm(H800, 0, 1, 128, 128)
