"""Published figures of DeepSeek-V3 that are exact arithmetic, each through the package's own functions.

E9, YaRN: tests/config/test_model.py. E10, its schedule: tests/train/test_optim.py. Sources: arXiv:2412.19437
(the report), arXiv:2505.09343 (Insights), open-infra-index day 6 (the service), DeepEP, DeepGEMM and FlashMLA.
"""

import math
import re
from collections import Counter

import pytest

from fathom import cost
from fathom.config import preset
from fathom.layout.deploy import read_deploy
from fathom.layout.placement import balance
from fathom.plan import exchange
from fathom.plan.crossover import read_spending
from fathom.plan.demand import estimate, read_demand
from fathom.plan.families import find
from fathom.plan.hardware import Catalogue
from fathom.plan.kernel_rows import predict_kernel, shipped_rows
from fathom.plan.latency import Setup
from fathom.plan.training.chunk import layer
from fathom.plan.training.job import Job
from fathom.plan.training.search import deepseek

V3, SHAPE = preset("deepseek-v3"), find("deepseek-v3")
H800 = Catalogue.read()["h800_sxm"]
ROWS = shipped_rows()


def job() -> Job:
    return deepseek(SHAPE, H800)


def test_e1_to_e5_parameters_and_checkpoint() -> None:
    assert cost.parameters(V3) == SHAPE.parameters == 671_026_419_200
    assert cost.activated_parameters(V3) == 37_552_297_472
    assert cost.activated_parameters(V3, embedding=False) == SHAPE.activated == 36_625_618_432
    assert cost.mtp_parameters(V3) == SHAPE.mtp_parameters == 11_610_068_224
    assert sum(weight.elements for weight in cost.weights(V3) if weight.layer == 61) == 13_463_426_304
    elements = cost.checkpoint_elements(V3)
    assert elements == {"F8_E4M3": 680_571_043_840, "BF16": 3_918_786_560, "F32": 41_555_600}
    assert sum(elements.values()) == 684_531_386_000
    assert (cost.checkpoint_tensors(V3), cost.checkpoint_bytes(V3)) == (91_991, 688_574_839_360)


def test_e6_scales_are_blocks_of_128_rounded_up() -> None:
    shapes = {name: shape for name, shape, _ in cost.tensors(V3)}
    scales = {name: shape for name, shape in shapes.items() if name.endswith("_scale_inv")}
    for name, shape in scales.items():
        weight = shapes[name.removesuffix("_scale_inv")]
        assert shape == tuple(math.ceil(side / 128) for side in weight)
    said = {"kv_a_proj_with_mqa": (5, 56), "q_a_proj": (12, 56), "q_b_proj": (192, 12), "kv_b_proj": (256, 4),
            "o_proj": (56, 128)}  # fmt: skip
    for name, shape in said.items():
        assert scales[f"model.layers.0.self_attn.{name}.weight_scale_inv"] == shape


def test_e7_e8_relatives_and_caches() -> None:
    assert cost.parameters(preset("deepseek-v2")) / 1e9 == pytest.approx(235.74, rel=1e-4)
    assert cost.parameters(preset("deepseek-v2-lite")) / 1e9 == pytest.approx(15.706, rel=1e-4)
    bytes_of_a_token = {"deepseek-v3": 70_272, "qwen2.5-72b": 327_680, "llama-3.1-405b": 516_096}
    assert {name: 2 * find(name).cache_values for name in bytes_of_a_token} == bytes_of_a_token
    assert cost.cache_bytes_per_token(V3) == 70_272


def test_e11_e13_a_step_of_training() -> None:
    assert (job().tokens, job().micro_batches) == (62_914_560, 120)
    assert job().flops_per_token() / 1e9 == pytest.approx(250.46, rel=0.005)
    assert cost.training_flops(V3, 4096) / 1e9 == pytest.approx(250.46, rel=0.005)
    assert cost.training_flops(preset("deepseek-v2"), 4096) / 1e9 == pytest.approx(155.31, rel=0.005)


def test_e12_e21_what_training_cost() -> None:
    """2,664 + 119 + 5 thousand hours at 2 USD; 180 thousand an hour of 14.8T tokens; the reasoner's three parts."""
    spent = read_spending()
    thousands = 2664 + 119 + 5
    assert thousands == 2788
    assert spent.inputs["training.model"].value == pytest.approx(thousands * 2e3, rel=1e-3)
    per_trillion = 1e12 / (272.80e9 / 86_400 / job().gpus) / 3600
    assert per_trillion == pytest.approx(180e3, rel=2e-3)
    assert per_trillion == pytest.approx(2664e3 / 14.8, rel=2e-3)
    assert 180e3 / job().gpus / 24 == pytest.approx(3.66, rel=1e-3)
    assert 2664e3 / job().gpus / 24 == pytest.approx(54.2, rel=1e-3)
    reasoner = 512 * 198 + 5000 + 512 * 80
    assert spent.inputs["training.rl"].value == pytest.approx(2 * reasoner, rel=0.01)
    assert sum((395_285, 211_129, 10_124, 10_395, 177_812)) == pytest.approx(804_745, rel=0.01)


def test_e14_utilisation_follows_from_tokens_a_day() -> None:
    speed = 272.80e9 / 86_400 / job().gpus
    assert 19.926 * speed * job().gpus == pytest.approx(job().tokens, rel=1e-5)
    for causal, tflops, share in ((True, 385, 0.3894), (False, 432, 0.4373)):
        reached = speed * job().flops_per_token(causal=causal)
        assert reached / 1e12 == pytest.approx(tflops, rel=0.005)
        assert reached / H800.peak("bf16") == pytest.approx(share, rel=0.005)


def test_e15_e16_a_day_of_service() -> None:
    found = estimate(read_demand("recipes/plan/deepseek-day.toml"), 100).quantities
    assert found["bill_day"].value == pytest.approx(87_072, rel=1e-12)
    assert found["revenue_day"].value == pytest.approx(562_027, rel=2e-4)
    assert found["margin"].value == pytest.approx(545, abs=0.5)
    assert found["cached"].value / 608e9 == pytest.approx(0.563, abs=1e-3)
    prefill, decode = found["accelerators_prefill"].value / 8, found["accelerators_decode"].value / 8
    assert (prefill, decode) == (pytest.approx(95.5, rel=1e-3), pytest.approx(131.4, rel=1e-3))
    assert prefill + decode == pytest.approx(226.75, rel=1e-3)


def test_e17_time_per_token_if_only_the_network_takes_time() -> None:
    """The paper counts 7 thousand values a row, 32 tokens, 8 routed experts and the shared one."""
    for rate, layer_us, step_ms, speed in ((50e9, 120.96, 14.76, 67), (900e9, 6.72, 0.82, 1200)):
        one = exchange.decode_bound(1, 32, 7000, rate, rows=9, batches=1)
        whole = exchange.decode_bound(SHAPE.layers, 32, 7000, rate, rows=9)
        assert one * 1e6 == pytest.approx(layer_us, rel=0.005)
        assert whole * 1e3 == pytest.approx(step_ms, rel=0.005)
        assert 1 / whole == pytest.approx(speed, rel=0.02)  # "67" and "about 1200" are rounded


@pytest.mark.parametrize(
    "row", [row for row in ROWS if row["system"] == "DeepEP V1 low-latency"], ids=lambda r: r["id"]
)
def test_e18_rates_of_deepep_are_bytes_over_microseconds(row: dict) -> None:
    size = exchange.combine_row_bytes(7168)
    if "dispatch" in row["metric"]:
        size = exchange.dispatch_row_bytes(7168, low_latency=True)
    rate = float(row["conditions"].split()[0])
    assert 128 * 8 * size / float(row["value"]) / 1e3 == pytest.approx(rate, rel=0.025)


def test_e19_rates_of_deepgemm_follow_from_its_tflops() -> None:
    checked = Counter[str]()
    for row in (row for row in ROWS if row["id"].startswith("DG") and "first release" in row["conditions"]):
        copies = re.match(r"(\d+) experts", row["parallelism"])
        m, k, n = map(int, re.search(r"m(\d+) k(\d+) n(\d+)", row["parallelism"]).groups())  # type: ignore[union-attr]
        seconds = 2 * m * n * k * int(copies[1] if copies else 1) / float(row["value"]) / 1e12
        moved = (m * k + n * k + 2 * m * n) * int(copies[1] if copies else 1)
        checked["grouped" if copies else "dense"] += 1
        assert moved / seconds / 1e9 == pytest.approx(float(row["conditions"].split()[0]), rel=0.002)
    assert checked == {"dense": 18, "grouped": 10}


def test_e20_experts_of_each_rank() -> None:
    paper, service = (read_deploy(f"recipes/deploy/deepseek-v3-{name}.toml") for name in ("paper", "service"))
    found = {(pool.layout.ep, pool.slots(V3), pool.slots_per_rank(V3)) for one in (paper, service) for pool in one.pool}
    assert found == {(32, 288, 9), (144, 288, 2), (320, 256 + 64, 1)}


def test_e22_a_speedup_of_1_8_leaves_three_to_six_per_cent_for_verifying() -> None:
    for acceptance, left in ((0.85, 1.028), (0.90, 1.056)):
        tokens = Setup(SHAPE, H800, job().layout, mtp=1, acceptance=acceptance).accepted
        assert tokens == pytest.approx(1 + acceptance)
        assert tokens / 1.8 == pytest.approx(left, abs=0.001)


# --- models against published figures; docs/planning.md says their errors ---------------------------------------------


def predicted(name: str) -> float:
    row = next(row for row in ROWS if row["id"] == name)
    return predict_kernel(row).value / float(row["value"])


def test_m2_a_pair_of_chunks() -> None:
    assert 4 * sum(layer(job(), SHAPE.blocks[-1]).seconds) == pytest.approx(0.129, rel=0.1)


def test_m3_exchanges_beside_compute_are_a_fifth_short_of_a_trace_that_counts_waiting() -> None:
    assert predicted("KN0044") == pytest.approx(0.79, abs=0.03)
    assert predicted("KN0045") == pytest.approx(0.84, abs=0.03)


def test_m6_where_latent_attention_turns_from_memory_to_compute() -> None:
    """865 TFLOPS when throttled over 3.35 TB/s; 2 (512 + 512 + 64) FLOPs a head over 1,152 bytes a token."""
    attention = SHAPE.blocks[0].attention
    flops_per_head = attention.flops(1, absorbed=True) / attention.heads
    heads = 865e12 / H800.memory_bytes_per_s * 2 * attention.cache_values / flops_per_head
    assert 128 <= heads < 144
    assert predicted("KN0031") == pytest.approx(1, abs=0.02)  # 3,000 GB/s
    assert predicted("KN0032") == pytest.approx(0.94, abs=0.03)  # 660 TFLOPS, of a later kernel than most rows
    assert predicted("KN0033") == pytest.approx(1.06, abs=0.04)  # 580 TFLOPS


def test_m7_real_exchanges_are_slower_than_the_bound() -> None:
    sizes = exchange.dispatch_row_bytes(7168, low_latency=True), exchange.combine_row_bytes(7168)
    both = sum(exchange.all_to_all(H800, 256, 32, size, chosen=9, low_latency=True) for size in sizes)
    bound = exchange.decode_bound(61, 32, 7000, 50e9, rows=9)
    assert 61 * 2 * both > 1.3 * bound > 0.019


def test_m8_copies_of_busy_experts_even_out_the_ranks() -> None:
    load = [1 / (rank + 1) for rank in range(256)]
    loads = [balance(load, slots=256 + copies, ranks=32).imbalance(load) for copies in (0, 32, 64)]
    assert loads[0] > loads[1] >= loads[2] >= 1
    assert loads[0] / loads[1] > 2
