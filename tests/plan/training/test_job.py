"""A job counts what the reports count, and says what cannot be divided."""

from dataclasses import replace

import pytest

from fathom.errors import ConfigError
from fathom.layout import Layout
from fathom.plan.families import find
from fathom.plan.hardware import Catalogue
from fathom.plan.training.job import SOFTWARE, Job, divisors, software

H100 = Catalogue.read().find("h100")


@pytest.mark.parametrize(
    ("model", "gflop"), [("deepseek-v3", 250.46), ("deepseek-v2", 155.31), ("llama-3.1-405b", 2473)]
)
def test_training_flops_of_a_token_are_the_published_ones(model: str, gflop: float) -> None:
    """DeepSeek-V3: 250, V2: 155, Llama 405B: 2,448 GFLOP at 4096 tokens (arXiv:2505.09343)."""
    assert Job(find(model), H100).flops_per_token() / 1e9 == pytest.approx(gflop, rel=0.005)


def test_all_pairs_are_nearly_twice_the_causal_ones(v3: Job) -> None:
    """arXiv:2505.09343, table 4: 432 TFLOPS of all pairs against 385 causal ones."""
    assert v3.flops_per_token(causal=False) / v3.flops_per_token() == pytest.approx(432 / 385, rel=0.005)


def test_a_window_sees_fewer_pairs() -> None:
    shape = find("gpt-oss-120b")
    job = Job(shape, H100, seq=4096)
    attention = job.flops_per_token() - 6 * shape.activated
    full = 3 * 4 * 64 * 64 * (4096 + 1) / 2  # scores and sums of 64 heads of 64, in the 18 layers that see everything
    ramp = 3 * 4 * 64 * 64 * 128 * (1 - 128 / 8192)  # and in the 18 that see 128 tokens
    assert attention == pytest.approx(18 * (full + ramp), rel=1e-3)


def test_the_step_of_v3_is_published(v3: Job) -> None:
    assert (v3.tokens, v3.micro_batches, v3.gpus, v3.copies) == (62_914_560, 120, 2048, 2)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"batch": 15361}, "use 15360"),
        ({"seq": 0}, "seq is 0"),
        ({"precision": "fp4"}, "bf16 or fp8"),
        ({"recompute": "some"}, "none, norms"),
        ({"zero": 4}, "0, 1, 2 or 3"),
        ({"cp": 3}, "does not divide dp"),
        ({"schedule": "gpipe"}, "use one of"),
        ({"schedule": "interleaved", "chunks": 8}, "more than 61 layers"),
        ({"layout": Layout(pp=16, dp=129, ep=43)}, "does not divide 256 experts"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(v3: Job, change: dict, what: str) -> None:
    with pytest.raises(ConfigError, match=what) as caught:
        replace(v3, **change)
    assert "\n" not in str(caught.value)


def test_software_is_known_by_name() -> None:
    assert software("hai") is SOFTWARE["hai"]
    with pytest.raises(ConfigError, match="megatron"):
        software("megatrom")


def test_divisors_rise() -> None:
    assert divisors(12) == [1, 2, 3, 4, 6, 12]
