"""Layouts divide the model and fit the links; curves meet the model of latency at their points."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fathom.config import load_config
from fathom.errors import ConfigError
from fathom.layout import Layout
from fathom.plan.families import find
from fathom.plan.latency import Part, Setup, Step, decode_step
from fathom.plan.pools import Choices, Curve, Workload, lane_share, layouts, replica, replicas, setups
from tests.plan.served import device, shape

CONFIG = load_config("deepseek-v3")


def test_layouts_of_deepseek_include_the_published_ones() -> None:
    found = set(layouts(shape(), device("h800"), 320, CONFIG))
    assert (Layout(dp=32, ep=32), 32) in found  # its service: 32 GPUs prefill, 9 experts on each
    assert (Layout(dp=144, ep=144), 32) in found  # 144 decode, 2 on each
    assert (Layout(dp=80, tp=4, ep=320), 64) in found  # its report: 320 decode, 1 on each


def test_every_layout_divides_experts_and_heads_and_stays_within_the_links() -> None:
    for layout, copies in layouts(shape(), device("h800"), 320, CONFIG):
        assert (256 + copies) % layout.ep == 0 and copies <= 64 and 128 % layout.tp == 0
        assert layout.tp <= 8 and layout.world_size <= 320 and layout.ep == layout.dp * layout.tp
        layout.check(CONFIG, copies)


def test_a_dense_model_has_one_lane_and_no_copies() -> None:
    llama = find("llama-3.1-70b")
    found = list(layouts(llama, device("h100"), 16))
    assert {layout.dp for layout, _ in found} == {1} and {copies for _, copies in found} == {0}
    assert {layout.tp for layout, _ in found} == {1, 2, 4, 8}
    assert all(not setup.overlap and setup.mtp == 0 for setup in setups(llama, device("h100"), Choices(gpus=8)))


def test_without_a_network_a_replica_stays_on_one_machine() -> None:
    alone = device("rtx4090")
    assert alone.network_gbs is None
    found = list(layouts(find("qwen3-30b-a3b"), alone, 64))
    assert found and all(layout.world_size <= alone.link_world and layout.pp == 1 for layout, _ in found)


def test_weights_that_do_not_fit_make_no_replica() -> None:
    """688.6 GB of weights on 8 x 80 GB do not fit; on 8 x 141 GB they do."""
    ask, layout = Workload(), Layout(dp=8, ep=8)
    assert replica(Setup(shape(), device("h100"), layout), ask) is None
    one = replica(Setup(shape(), device("h200"), layout), ask)
    assert one is not None and one.seats > 8 and one.gpus == one.lanes == 8


def test_a_curve_is_the_model_at_its_points_and_straight_between() -> None:
    setup = Setup(shape(), device("h200"), Layout(dp=8, ep=8))
    one = replica(setup, Workload())
    assert one is not None
    a, b = one.decode.grid[3:5]
    ends = [decode_step(setup, load, Workload().context).seconds for load in (a, b)]
    assert [one.decode.seconds(a), one.decode.seconds(b)] == pytest.approx(ends)
    assert one.decode.seconds((a + b) / 2) == pytest.approx(sum(ends) / 2)
    assert one.decode.seconds((a + b) / 2) == pytest.approx(
        decode_step(setup, (a + b) / 2, Workload().context).seconds, rel=0.01
    )


def test_a_curve_asks_for_each_point_once() -> None:
    asked: list[float] = []

    def step(load: float) -> Step:
        asked.append(load)
        return Step(load, (Part("layers", load),), 0.1)

    curve = Curve(step, 1.0, 64.0)
    for load in (4.5, 5.0, 4.5, 4.9):
        assert curve.seconds(load) == pytest.approx(load)
    assert len(asked) == len(set(asked)) == 2
    assert curve.seconds(0.5) == 1.0  # never less than the first point


def test_the_share_of_a_lane_is_what_its_own_tokens_take() -> None:
    parts = (
        Part("attention", 3.0),
        Part("experts", 5.0),
        Part("dense products", 1.0),
        Part("all-to-all", 4.0, hidden=3.0),
    )
    assert lane_share(Step(10.0, parts, 0.1)) == pytest.approx(0.4)


@given(hit=st.floats(0, 0.99), tokens=st.integers(1, 100_000))
def test_what_is_found_and_what_is_computed_make_the_prompt(hit, tokens) -> None:
    ask = Workload(input=tokens, hit=hit)
    assert ask.computed + ask.cached == pytest.approx(tokens) and 1.0 <= ask.computed <= tokens


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"input": 0}, "input is 0 tokens"),
        ({"output": 1}, "output is 1 token"),
        ({"hit": 1.0}, "hit is 1"),
        ({"ttft_s": 0.0}, "ttft_s is 0 s"),
        ({"tpot_s": math.nan}, "tpot_s is nan"),
        ({"percentile": 100.0}, "percentile is 100"),
        ({"peak": 0.5}, "peak is 0.5"),
        ({"rps": -1.0}, "rps is -1"),
        ({"gpus": 0}, "gpus is 0"),
        ({"rps": 1.0, "gpus": 8}, "both given"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused(change, said) -> None:
    with pytest.raises(ConfigError, match=said):
        replace(Workload(), **change)


def test_more_memory_holds_more_requests() -> None:
    ask, layout = Workload(), Layout(dp=16, ep=16)
    small, large = (replica(Setup(shape(), device(name), layout), ask) for name in ("h100", "h200"))
    assert small is not None and large is not None and large.seats > small.seats
    assert len(list(replicas([small.setup, large.setup], ask))) == 2
