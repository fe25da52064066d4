"""A step of V3 as published, and properties of any step."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fathom.layout import Layout
from fathom.plan.families import find
from fathom.plan.hardware import Catalogue
from fathom.plan.training.job import Job, software
from fathom.plan.training.knobs import shipped
from fathom.plan.training.step import groups, held, spread, step

H100 = Catalogue.read().find("h100")
LLAMA = find("llama-3.1-8b")


def test_the_step_of_v3_is_within_ten_percent_of_the_published_one(v3: Job) -> None:
    """19.926 s (arXiv:2505.09343, table 4), from its configuration and kernels, with a share pooled over other runs."""
    assert step(v3).seconds / shipped().step.value == pytest.approx(19.926, rel=0.1)


def test_parts_add_up_to_the_step(v3: Job) -> None:
    found = step(v3)
    assert sum(found.parts.values()) == pytest.approx(found.seconds)
    assert found.bound == "matrix products" and all(seconds > 0 for seconds in found.parts.values())


def test_a_rank_of_v3_holds_what_its_layout_says(v3: Job) -> None:
    """By hand: 61 + 1 layers of 231M dense, 59 of 256 experts of 44.04M, twice, over 16 stages and 64 ranks."""
    dense, experts = held(v3)
    assert experts == pytest.approx(2 * 59 * 256 * 44_040_192 / 16 / 64, rel=1e-6)
    assert dense == pytest.approx(2 * (59 * 233e6 + 3 * 583e6 + 2 * 0.927e9) / 16, rel=0.02)
    assert groups(v3) == (128, 2)


def test_layers_are_cut_as_evenly_as_can_be() -> None:
    assert spread([1.0] * 7, 1.0, 4) == pytest.approx(2.0, rel=1e-6)
    assert spread([1.0] * 8, 1.0, 4) == pytest.approx(3.0, rel=1e-6)
    assert spread([1.0, 5.0, 1.0], 1.0, 4) == pytest.approx(5.0, rel=1e-6)


def test_better_schedules_wait_less(v3: Job) -> None:
    idle = [step(replace(v3, schedule=name)).idle for name in ("dualpipe", "zb1p", "1f1b")]
    assert idle == sorted(idle) and idle[0] > 0


def test_one_stage_has_no_bubble() -> None:
    assert "pipeline bubble" not in step(Job(LLAMA, H100, Layout(dp=8), batch=64)).parts


jobs = st.builds(
    lambda pp, tp, dp, steps, seq, zero, how, recompute: Job(
        LLAMA, H100, Layout(pp=pp, dp=dp, tp=tp), seq=seq, batch=dp * pp * steps, zero=1 if pp > 1 else zero,
        recompute=recompute, software=software(how),
    ),
    pp=st.sampled_from([1, 2, 4, 8]), tp=st.sampled_from([1, 2, 8]), dp=st.sampled_from([1, 8, 64]),
    steps=st.integers(1, 8), seq=st.sampled_from([1024, 4096, 32768]), zero=st.integers(0, 3),
    how=st.sampled_from(["eager", "compiled", "megatron", "graphs"]),
    recompute=st.sampled_from(["none", "norms", "full"]),
)  # fmt: skip


@settings(max_examples=40)
@given(job=jobs)
def test_more_of_anything_good_is_never_slower(job: Job) -> None:
    base = step(job)
    assert math.isfinite(base.seconds) and base.seconds > 0
    for field in ("bf16_tflops", "matmul_bf16_tflops", "memory_tbs", "link_gbs", "network_gbs"):
        better = replace(H100, **{field: 2 * getattr(H100, field)})
        assert step(replace(job, device=better)).seconds <= base.seconds * (1 + 1e-9), field


@settings(max_examples=40)
@given(job=jobs)
def test_more_devices_never_train_fewer_tokens_a_second(job: Job) -> None:
    """With as many micro-batches for each, from where they communicate at all."""
    job = replace(job, layout=replace(job.layout, dp=8 * job.layout.dp), batch=8 * job.batch)
    more = replace(job, layout=replace(job.layout, dp=2 * job.layout.dp), batch=2 * job.batch)
    assert more.tokens / step(more).seconds >= job.tokens / step(job).seconds


@settings(max_examples=40)
@given(job=jobs)
def test_longer_sequences_never_cost_less(job: Job) -> None:
    """As many tokens in half as many sequences, twice as long."""
    short, long = replace(job, micro=2, batch=2 * job.batch), replace(job, seq=2 * job.seq)
    assert step(long).seconds >= step(short).seconds
    assert step(replace(job, batch=2 * job.batch)).seconds > step(job).seconds
