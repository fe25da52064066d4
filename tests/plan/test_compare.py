"""A deployment's place among all layouts: counted, and sensible for the one that DeepSeek runs."""

from dataclasses import replace
from pathlib import Path

from fathom.plan.compare import against, leader, rank, rank_of
from fathom.plan.hardware import Catalogue
from fathom.plan.pools import Choices, Workload
from tests.plan.served import found

ROOT = Path(__file__).resolve().parents[2]
ASK = Workload(input=2000, output=500)


def test_the_best_is_first_and_a_worse_one_behind_it() -> None:
    plan = found(ASK)
    ordered = sorted(plan.pools.decode, key=lambda point: -point.rate_per_gpu)
    assert rank(ordered[0], plan) == (1, len({point.key for point in ordered}))
    worst = rank(ordered[-1], plan)[0]
    assert 1 < worst <= len({point.key for point in ordered})
    assert leader(ordered[-1], plan) == ordered[0].rate_per_gpu
    best = max(plan.services, key=lambda one: one.rate_per_gpu)
    assert rank_of(best, plan)[0] == 1
    slower = replace(best, decode=replace(best.decode, rate=best.decode.rate / 100))
    assert rank_of(slower, plan)[0] > 1


def test_the_service_of_deepseek_is_found_sensible() -> None:
    """EP32 and EP144 on H800 (open-infra-index, day 6): among the better layouts, and near what was measured.

    14,800 tok/s of a node that decodes, at 20 to 22 tok/s of a user and 4,989 tokens of context; 62,700 computed tok/s
    of one that prefills, where DeepSeek profiled it with even routing.
    """
    ask = Workload(input=4383, output=1211, tpot_s=1 / 21, percentile=50)
    choices = Choices(gpus=16, mtp=(0,), overlap=(True,))
    plan = found(ask, choices, "h800")
    lines = list(against(plan, ROOT / "recipes/deploy/deepseek-v3-service.toml", Catalogue.read(), choices))
    said = {line.split(":")[0].strip(): line.split(":")[1] for line in lines[2:]}
    decode, prefill = (float(said[name].split()[0].replace(",", "")) for name in ("replies", "prompts"))
    assert 0.7 * 14_800 < decode < 1.3 * 14_800
    assert 0.7 * 62_700 < prefill < 1.3 * 62_700
    assert int(said["replies"].split("number ")[1].split()[0]) <= 5  # replicas of up to 16 GPUs are all behind it
