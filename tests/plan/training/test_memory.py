"""Bytes of a rank: by hand, as published, and against measured peaks."""

from dataclasses import replace

import pytest

from fathom.layout import Layout
from fathom.plan.families import find
from fathom.plan.hardware import Catalogue
from fathom.plan.training.job import Job
from fathom.plan.training.memory import fits, in_flight, memory, stored, verdict
from fathom.plan.training.sized import of_size

H100, H200 = (Catalogue.read().find(name) for name in ("h100", "h200"))


def test_v3_trains_in_80_gb(v3: Job) -> None:
    assert sum(memory(v3).values()) < 80e9 and fits(v3)


def test_v3_does_not_fit_with_everything_kept_and_one_flow(v3: Job) -> None:
    assert not fits(replace(v3, layout=Layout(pp=4, dp=128, ep=16), schedule="1f1b", recompute="none"))


def test_states_of_a_dense_model_by_hand() -> None:
    """No sharding: weights 2, gradients 4, master weights and moments 12 bytes a parameter."""
    shape = of_size(1.3e9)
    found = memory(Job(shape, H100, batch=1, zero=0))
    assert found["weights"] == pytest.approx(2 * shape.parameters, rel=1e-3)
    assert found["gradients"] == pytest.approx(4 * shape.parameters, rel=1e-3)
    assert found["optimizer"] == pytest.approx(12 * shape.parameters, rel=1e-3)


def test_sharding_divides_the_states() -> None:
    jobs = [Job(find("llama-3.1-8b"), H100, Layout(dp=64), batch=64, zero=zero) for zero in range(4)]
    totals = [sum(memory(job).values()) for job in jobs]
    assert totals == sorted(totals, reverse=True) and totals[3] < totals[0] / 3


def test_recompute_keeps_less() -> None:
    job = Job(find("llama-3.1-8b"), H100)
    kept = [stored(replace(job, recompute=policy), job.shape.blocks[0]) for policy in ("none", "norms", "full")]
    assert kept == sorted(kept, reverse=True)
    assert kept[2] == 2 * 4096  # the input of a layer in BF16


@pytest.mark.parametrize(("schedule", "kept"), [("1f1b", 16), ("zb1p", 16), ("dualpipe", 17), ("dualpipev", 16.5)])
def test_micro_batches_in_flight_are_those_of_the_schedules(v3: Job, schedule: str, kept: float) -> None:
    assert in_flight(replace(v3, schedule=schedule)) == kept


@pytest.mark.parametrize(("gpus", "gib"), [(8, 77.0), (128, 62.0)])
def test_llama_8b_is_near_torchtitans_peak(gpus: int, gib: float) -> None:
    """benchmarks/llama3_h100_202412_torchtitan.md, tables 1 and 3: two sequences of 8192, selective recompute."""
    from fathom.plan.training.job import software

    job = Job(
        find("llama-3.1-8b"), H100, Layout(dp=gpus), seq=8192, batch=2 * gpus, micro=2, zero=3, recompute="selective",
        software=software("compiled"),
    )  # fmt: skip
    found = sum(memory(job).values()) / 2**30
    assert gib <= found <= 1.1 * gib


def test_a_narrow_fit_is_called_one(v3: Job) -> None:
    wide, narrow, none = (
        verdict(replace(v3, device=replace(v3.device, memory_gb=size)))
        for size in (141, sum(memory(v3).values()) / 1e9 + 1, 40)
    )
    assert (wide, none) == ("fits", "does not fit") and narrow.startswith("fits by less")


@pytest.mark.parametrize("gpus", [8, 16, 32])
def test_405b_never_fits_on_a_few_machines(gpus: int) -> None:
    """16 bytes a parameter are 6.5 TB, more than 32 of 141 GB have."""
    job = Job(find("llama-3.1-405b"), H200, Layout(dp=gpus), batch=gpus, zero=3, recompute="full")
    assert not fits(job)
