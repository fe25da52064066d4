"""What people write by hand is read as they mean it; what is not understood is refused by name."""

from __future__ import annotations

import math

import pytest

from fathom.errors import ConfigError
from fathom.layout import Layout
from fathom.plan import families
from fathom.plan.hardware import Catalogue
from fathom.plan.rows import Case, Refusal, case, layout, lengths, model, normal, weights

CATALOGUE = Catalogue.read()
R1 = families.find("deepseek-r1")
ROW = {
    "id": "x",
    "kind": "serving_mixed",
    "system": "sglang agg",
    "model": "DeepSeek-R1-0528 (listed as V3)",
    "hardware": "b200_sxm",
    "n_gpus": "8",
    "parallelism": "TP8 EP8",
    "precision": "fp4",
    "input_len": "1024",
    "output_len": "8192",
    "batch": "conc 64",
    "metric": "tpot",
    "value": "12.5",
    "unit": "ms",
    "group": "g",
    "conditions": "concurrency 64; random prompts, lengths uniform in [0.8,1.0]x nominal; no MTP",
}


def test_a_run_of_inferencex() -> None:
    found = case(ROW, CATALOGUE)
    assert isinstance(found, Case) and found.way == "aggregated"
    assert found.setup.shape.name == "deepseek-r1" and found.setup.device.name == "b200_sxm"
    assert (found.setup.layout, found.setup.engine) == (Layout(tp=8, ep=8), "sglang")
    assert (found.setup.precision, found.setup.mtp, found.concurrency) == ("nvfp4", 0, 64)
    assert (found.prompt, found.output) == pytest.approx((921.6, 7372.8))


def test_replicas_that_read_and_that_decode() -> None:
    found = case(ROW | {"system": "trtllm disagg", "parallelism": "P 2x(TP1 DP4 EP4) D 3x(TP8 DP1 EP8)"}, CATALOGUE)
    assert isinstance(found, Case) and found.way == "split" and found.reads is not None
    assert (found.reads.layout, found.setup.layout) == (Layout(dp=4, ep=4), Layout(tp=8, ep=8))
    assert found.replicas == (2, 3) and found.devices == 32


@pytest.mark.parametrize(
    ("text", "count", "expected"),
    [
        ("TP8", 8, Layout(tp=8)),
        ("TP4 EP4", 4, Layout(tp=4, ep=4)),
        ("DEP8 (attn DP)", 8, Layout(dp=8, ep=8)),
        ("EP144 DP144, 18 nodes/unit", 144, Layout(dp=144, ep=144)),
        ("EP128 TP1 DBO", 128, Layout(dp=128, ep=128)),
        ("EP320 (dies)", 160, Layout(dp=160, ep=160)),
        ("TP16 + DP attention", 16, Layout(dp=16)),
        ("P: 4 ranks, D: EP48", 4, Layout(dp=4, ep=4)),
        ("TP1", 1, Layout()),
        ("EP2", 2, Layout(dp=2, ep=2)),
        ("tp=8, ep=8", 8, Layout(tp=8, ep=8)),
        ("TP4EP4", 4, Layout(tp=4, ep=4)),
    ],
)
def test_layouts(text: str, count: int, expected: Layout) -> None:
    assert layout(text, count, R1) == expected


@pytest.mark.parametrize(
    ("text", "reads", "decodes", "replicas"),
    [
        ("P: 2xTP8, D: DEP16", Layout(tp=8), Layout(dp=16, ep=16), (2, 1)),
        ("P EP4 D 3x(tp8)", Layout(dp=4, ep=4), Layout(tp=8), (1, 3)),
    ],
)
def test_other_ways_to_write_replicas(text: str, reads: Layout, decodes: Layout, replicas: tuple[int, int]) -> None:
    found = case(ROW | {"parallelism": text}, CATALOGUE)
    assert isinstance(found, Case) and found.reads is not None
    assert (found.reads.layout, found.setup.layout, found.replicas) == (reads, decodes, replicas)


def test_what_a_run_of_inferencex_leaves_unsaid() -> None:
    """SGLang looks for requests every 30 steps on Blackwell and caches in FP8; the run has a date."""
    row = ROW | {"conditions": "InferenceX; measured=2026-03-25T00:00:00.000Z; no MTP"}
    found = case(row, CATALOGUE)
    assert isinstance(found, Case) and (found.poll, found.setup.cache, found.setup.date) == (30, "fp8", "2026-03")
    hopper = case(row | {"hardware": "h200_sxm", "precision": "fp8"}, CATALOGUE)
    assert isinstance(hopper, Case) and (hopper.poll, hopper.setup.cache) == (1, "bf16")


def test_drafts_only_where_there_is_a_module_and_the_round_allows_them() -> None:
    row = ROW | {"conditions": "MTP allowed in v6.0", "batch": "", "metric": "output_tokens_per_s_per_gpu"}
    made = [
        case(row | {"system": f"MLPerf Inference {version} Offline (x; TensorRT)", "model": name}, CATALOGUE)
        for version, name in (("v5.1", "deepseek-r1"), ("v6.0", "deepseek-r1"), ("v6.0", "llama3.1-405b"))
    ]
    assert [one.setup.mtp for one in made if isinstance(one, Case)] == [0, 1, 0]


def test_scenarios_have_limits_and_offline_has_none() -> None:
    """loadgen/mlperf.conf; runs use nine tenths of what they may."""
    row = ROW | {"batch": "", "metric": "output_tokens_per_s_per_gpu", "output_len": "~3750 mean"}
    made = [case(row | {"system": f"MLPerf Inference v6.0 {name} (x; TensorRT)"}, CATALOGUE)
            for name in ("Server", "Interactive", "Offline")]  # fmt: skip
    limits = [(one.first_s, one.limit_s) for one in made if isinstance(one, Case)]
    assert limits == [pytest.approx((1.8, 0.072)), pytest.approx((1.35, 0.0135)), (math.inf, math.inf)]
    assert {one.variation for one in made if isinstance(one, Case)} == {1.5}


def test_keys_and_values_that_only_blackwell_keeps_in_fp8() -> None:
    row = ROW | {"model": "gpt-oss-120b", "conditions": "FP8 KV on DeepSeek/gpt-oss(Blackwell)", "precision": "FP4"}
    kept = [case(row | {"hardware": name}, CATALOGUE) for name in ("H200", "B200")]
    assert [one.setup.cache for one in kept if isinstance(one, Case)] == ["bf16", "fp8"]


def test_a_layout_that_is_not_understood() -> None:
    with pytest.raises(ConfigError, match="not understood"):
        layout("magic", 8, R1)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model": "Skynet-9B"}, "Skynet"),
        ({"hardware": "abacus"}, "abacus"),
        ({"batch": "conc many"}, "conc 64"),
        ({"hardware": "8x L20 + Xeon Gold 6454S"}, "two kinds"),
        ({"model": "DeepSeek-V3.2 (DSA)"}, "DSA"),
    ],
)
def test_refusals_say_why(change: dict[str, str], reason: str) -> None:
    found = case(ROW | change, CATALOGUE)
    assert isinstance(found, Refusal) and reason in found.reason


@pytest.mark.parametrize(
    ("name", "preset"),
    [
        ("DeepSeek-V3/R1 671B-A37B", "deepseek-r1"),
        ("Llama-3.3-70B", "llama-3.1-70b"),
        ("llama2-70b-99.9", "llama-2-70b"),
        ("GPT OSS 120B", "gpt-oss-120b"),
        ("Kimi-K2.5", "kimi-k2"),
        ("Qwen3 235B a22B", "qwen3-235b-a22b"),
    ],
)
def test_names_of_models(name: str, preset: str) -> None:
    assert model(name).name == preset


def test_precisions_and_lengths() -> None:
    assert weights("FP8 attn + NVFP4 MoE", R1) == "nvfp4" and weights("FP4", families.find("gpt-oss-120b")) == "mxfp4"
    assert weights("", R1) == ""
    words = {"kind": "serving_decode", "conditions": ""}
    assert lengths({**words, "input_len": "~4K", "output_len": "100-1024"}, "x") == (4096, 562)
    dataset = {
        "kind": "serving_mixed",
        "conditions": "",
        "input_len": "n/p (max 3140)",
        "output_len": "~3750 mean (max 2)",
    }
    assert lengths(dataset, "deepseek-r1")[1] == 3750


def test_conditions_that_are_those_of_the_row_before() -> None:
    before = ROW | {"conditions": "simulated MTP, 60% acceptance"}
    assert normal(ROW | {"conditions": "same, overlap off"}, before)["conditions"].startswith("simulated MTP")
    assert normal(ROW, before) == ROW
