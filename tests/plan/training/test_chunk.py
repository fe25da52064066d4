"""Time of a layer on a rank: DeepSeek's profile of V3, and what every job must obey."""

from dataclasses import replace

import pytest

from fathom.layout import Layout
from fathom.plan.families import find
from fathom.plan.hardware import Catalogue
from fathom.plan.training.chunk import Times, exchange, layer, parts
from fathom.plan.training.job import Job, software

H100 = Catalogue.read().find("h100")


def test_four_layers_forward_and_back_take_what_deepseek_measured(v3: Job) -> None:
    """profile-data/train.json: 129.0 ms; computed by parts alone, before the pooled share of a step."""
    assert 4 * sum(layer(v3, v3.shape.blocks[1]).seconds) == pytest.approx(0.129, rel=0.1)


def test_the_exchange_of_v3_is_that_of_its_profile(v3: Job) -> None:
    """4,096 tokens to 4 nodes of 8: at least 2.42 and 4.70 ms at 50 GB/s, 3.4 to 4.4 and 6.2 ms in the trace."""
    dispatch, combine = exchange(v3, v3.shape.blocks[1])
    assert 2.42e-3 < dispatch < 4.4e-3
    assert 4.70e-3 < combine < 6.2e-3


def test_nine_tenths_of_the_exchange_are_hidden(v3: Job) -> None:
    times = layer(v3, v3.shape.blocks[1])
    seen = times.forward["experts' exchange"] + times.inputs["experts' exchange"]
    assert seen < 0.1 * 2 * sum(exchange(v3, v3.shape.blocks[1]))


def test_a_dense_layer_has_three_products_for_each_matrix() -> None:
    job = Job(find("llama-2-70b"), H100, batch=1, recompute="none")
    times = layer(job, job.shape.blocks[0])
    assert times.forward["matrix products"] == times.inputs["matrix products"]
    assert times.weights["matrix products"] == pytest.approx(times.forward["matrix products"], rel=0.15)
    again = layer(replace(job, recompute="full"), job.shape.blocks[0])
    assert sum(again.inputs.values()) == pytest.approx(sum(times.inputs.values()) + sum(times.forward.values()))


def test_tensor_parallelism_divides_products_and_adds_communication() -> None:
    one = Job(find("llama-2-70b"), H100, batch=1)
    two = replace(one, layout=Layout(tp=2))
    whole, half = (layer(job, job.shape.blocks[0]) for job in (one, two))
    assert half.forward["matrix products"] == pytest.approx(whole.forward["matrix products"] / 2, rel=0.05)
    assert whole.forward["tensor parallel"] == 0 < half.forward["tensor parallel"]


def test_many_small_experts_wait_for_the_host() -> None:
    """Qwen3 30B on a B200, 16 experts on a rank: the host is the limit of a short micro-batch, not of a long one."""
    device = Catalogue.read().find("b200")
    job = Job(find("qwen3-30b-a3b"), device, Layout(dp=8, ep=8), batch=64, micro=1, precision="fp8")
    short, long = (layer(replace(job, micro=micro), job.shape.blocks[0]).forward["launches"] for micro in (1, 8))
    assert short > 0 and long < short
    assert layer(replace(job, software=software("hai")), job.shape.blocks[0]).forward["launches"] == 0


def test_times_add_up() -> None:
    one = Times(parts({"matrix products": 1.0}), parts({"matrix products": 2.0}), parts({"attention": 3.0}))
    assert one.plus(one, 2).seconds == (3.0, 6.0, 9.0)
