"""Published runs, predicted from what their pages say of them."""

import math

import pytest

from fathom.errors import ConfigError
from fathom.plan.rows import Refusal
from fathom.plan.training.knobs import Knobs, Share
from fathom.plan.training.predict import METRICS, computed, predict_training, predicted

EMPTY = dict.fromkeys(
    ("system", "model", "hardware", "n_gpus", "parallelism", "precision", "input_len", "batch", "metric", "value",
     "unit", "conditions"), ""
)  # fmt: skip
V3 = EMPTY | {
    "system": "HAI-LLM", "model": "DeepSeek-V3 671B-A37B", "hardware": "H800 SXM 80GB", "n_gpus": "2048",
    "parallelism": "PP16 EP64 ZeRO-1", "precision": "FP8 mixed", "conditions": "14.8T tokens",
}  # fmt: skip
TITAN = EMPTY | {
    "system": "torchtitan", "model": "Llama-3.1-8B", "hardware": "H100 96GB HBM2e 2.4TB/s, 500W cap", "n_gpus": "8",
    "input_len": "8192", "metric": "train_tokens_per_s_per_gpu", "unit": "tok/s/GPU",
}  # fmt: skip


@pytest.mark.parametrize(
    ("metric", "unit", "value"),
    [
        ("pretrain_gpu_hours", "GPU-h", 2.664e6), ("gpu_hours_per_T_tokens", "GPU-h/T", 180e3),
        ("total_gpu_hours", "GPU-h", 2.788e6), ("total_cost", "USD", 5.576e6), ("wall_days_total", "days", 56.7),
        ("step_time", "s", 19.926), ("tokens_per_day", "tokens/day", 272.8e9),
        ("mfu_causal_vs_bf16_peak", "ratio", 0.3894), ("mfu_noncausal_vs_bf16_peak", "ratio", 0.4373),
    ],
)  # fmt: skip
def test_the_bill_of_v3_is_within_ten_percent(metric: str, unit: str, value: float) -> None:
    """arXiv:2412.19437 table 1; arXiv:2505.09343 table 4. Its own step is not in the fit."""
    said = predicted(V3 | {"metric": metric, "unit": unit})
    assert said.value == pytest.approx(value, rel=0.1)
    assert said.unit == unit and said.low is not None and said.low < value < (said.high or 0)


@pytest.mark.parametrize(
    ("parallelism", "precision", "speed"),
    [("FSDP", "BF16", 5762), ("FSDP+compile", "BF16", 6667), ("FSDP+compile+float8", "FP8", 8532)],
)
def test_torchtitan_on_eight_devices(parallelism: str, precision: str, speed: float) -> None:
    """benchmarks/llama3_h100_202412_torchtitan.md, table 1: eager, compiled, and products in FP8."""
    said = predicted(TITAN | {"parallelism": parallelism, "precision": precision})
    assert said.value == pytest.approx(speed, rel=0.12)


def test_an_h100_gains_less_than_its_peak_over_an_a100() -> None:
    """llm-foundry: 64 % of an A100's peak, 46 % of an H100's, for MPT-7b of 2048 tokens."""
    base = EMPTY | {
        "system": "llm-foundry (MPT)", "model": "MPT-7b", "n_gpus": "8", "precision": "amp_bf16", "input_len": "2048",
        "parallelism": "FULL_SHARD", "batch": "MBS 6 GA 1", "metric": "mfu", "conditions": "params 6658859008",
    }  # fmt: skip
    a100, h100 = (predicted(base | {"hardware": name}).value for name in ("A100_80GB", "H100_80GB"))
    assert a100 == pytest.approx(0.6423, rel=0.15) and h100 == pytest.approx(0.4644, rel=0.15)


def test_shares_move_speeds_up_and_times_down() -> None:
    half, whole = (Knobs(Share(x, 0.9, 1.1, 1, 1), Share(x, 0.9, 1.1, 1, 1)) for x in (0.5, 1.0))
    for metric, power in (("step_time", -1), ("tokens_per_day", 1)):
        slow, fast = (predicted(V3 | {"metric": metric}, knobs).value for knobs in (half, whole))
        assert fast / slow == pytest.approx(2.0**power)


def test_a_row_gives_its_knob_a_ratio_of_speeds() -> None:
    found = computed(TITAN | {"parallelism": "FSDP", "precision": "BF16", "value": "5762", "group": "a"})
    assert found is not None and found[0] == "step" and 0.5 < found[1].value < 1.2 and not found[1].experts
    assert computed(V3 | {"metric": "total_cost", "unit": "USD", "value": "1"}) is None


@pytest.mark.parametrize(
    ("row", "what"),
    [
        (V3 | {"metric": "rl_step_time"}, "no number of answers"),
        (V3 | {"metric": "pretrain_gpu_hours", "conditions": ""}, "neither tokens nor FLOPs"),
        (TITAN | {"metric": "train_time", "parallelism": "FSDP"}, "no number of steps"),
        (V3 | {"metric": "loss"}, "is not predicted"),
        (TITAN | {"model": "DeepSeekV4 Flash"}, "names no size"),
    ],
)
def test_what_a_row_does_not_say_is_named(row: dict[str, str], what: str) -> None:
    with pytest.raises(ConfigError, match=what) as caught:
        predicted(row)
    assert "\n" not in str(caught.value)
    refused = predict_training(row)
    assert isinstance(refused, Refusal) and refused.reason == str(caught.value)


@pytest.mark.parametrize("metric", [name for name in METRICS if name != "rl_step_time"])
def test_every_metric_has_a_unit_and_an_interval(metric: str) -> None:
    row = V3 | {"metric": metric, "unit": "GPU-h", "conditions": "14.8T tokens, 100 steps x 0.5M tok"}
    said = predicted(row)
    assert math.isfinite(said.value) and said.unit and said.low is not None and said.low < said.value < (said.high or 0)
