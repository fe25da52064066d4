"""The parts of a step are counts that can be made by hand, and grow with the work."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fathom.batching.plan import Plan, Row, Sampling
from fathom.batching.request import SamplingParams
from fathom.config import load_config
from fathom.errors import ConfigError
from fathom.plan.ownstep import KERNELS as KINDS
from fathom.plan.ownstep import PARTS, Group, Kernel, Rates, near_keys, part_seconds, place, step_of

CONFIG = load_config("nano")
KERNELS = (
    Kernel("read", 4e6 / 6e10, bytes=4e6),
    Kernel("read", 256e6 / 2e10, bytes=256e6),
    Kernel("product", 1e6 / 7e10, 1, multiply_adds=1e6),
    Kernel("product", 64e6 / 17e10, 64, multiply_adds=64e6),
    Kernel("forward", 1e-4, 1),
    Kernel("forward", 5e-4, 16),
    Kernel("forward", 8e-3, 256),
    Kernel("attention", 1e-4, 1, 1, 1000),
    Kernel("attention", 1.6e-3, 8, 1, 1000),
    Kernel("attention", 3.1e-3, 1, 61, 1000),
    Kernel("drawn", 5e-5),
    Kernel("filtered", 9e-5),
)
NEAR = near_keys(CONFIG, "i8")
RATES = Rates.of(KERNELS, NEAR)
groups = st.builds(Group, st.integers(1, 64), st.integers(1, 512), st.floats(0, 1e5))


def seconds(*step: Group) -> float:
    return float(part_seconds(CONFIG, "i8", RATES, step).sum())


@given(st.integers(1, 5), st.integers(1, 40), st.integers(0, 50))
def test_keys_and_pairs_are_the_earlier_tokens_of_every_new_one(sequences: int, tokens: int, context: int) -> None:
    group = Group(sequences, tokens, context)
    assert group.keys + group.pairs == sequences * sum(context + i for i in range(tokens))
    assert group.keys == sequences * context and group.rows == sequences * tokens


def test_rates_are_what_the_kernels_took() -> None:
    assert pytest.approx(2**20 / (5 * (64 + 16) * 2)) == NEAR  # keys of five layers, 80 values of two bytes each
    assert RATES.near_s == pytest.approx(1e-7)  # 1e-4 s for 1000 keys
    assert RATES.far_s == pytest.approx((1.6e-3 - NEAR * 1e-7) / (8000 - NEAR))
    # the chunk: 1000 keys take 1e-4 s, the other 3e-3 s are 60 * 1000 + 61 * 60 / 2 pairs
    assert RATES.pair_s == pytest.approx(3e-3 / (60_000 + 1830))
    assert RATES.forward_s(16) == pytest.approx(5e-4) and RATES.forward_s(512) == pytest.approx(16e-3)
    assert RATES.forward_s(4) == pytest.approx((1e-4 * 5e-4) ** 0.5)  # half way between 1 and 16, as logarithms go


def test_a_disturbed_forward_is_held_to_several_smaller_ones() -> None:
    slow = [replace(k, seconds=1.0) if k.name == "forward" and k.sequences == 256 else k for k in KERNELS]
    assert Rates.of(slow, NEAR).forward_s(256) == pytest.approx(16 * 5e-4)
    fast = [replace(k, seconds=1e-9) if k.name == "forward" and k.sequences == 256 else k for k in KERNELS]
    assert Rates.of(fast, NEAR).forward_s(256) == pytest.approx(5e-4)  # and never below a smaller one


@pytest.mark.parametrize("name", KINDS)
def test_a_missing_kernel_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        Rates.of([k for k in KERNELS if k.name != name], NEAR)


def test_attention_needs_both_single_tokens_and_chunks() -> None:
    with pytest.raises(ConfigError, match="chunks"):
        Rates.of([k for k in KERNELS if k.tokens == 1], NEAR)


@given(groups)
def test_more_of_anything_never_takes_less(group: Group) -> None:
    before = part_seconds(CONFIG, "i8", RATES, (group,))
    assert np.isfinite(before).all() and (before >= 0).all() and before.sum() > 0 and len(before) == len(PARTS)
    for more in ({"sequences": group.sequences + 1}, {"tokens": group.tokens + 1}, {"context": group.context + 1}):
        after = part_seconds(CONFIG, "i8", RATES, (replace(group, **more),))
        assert (after >= before * (1 - 1e-12)).all()


def test_a_mixed_step_is_dearer_than_either_and_cheaper_than_both() -> None:
    decodes, chunk = Group(8, 1, 300), Group(1, 100, 0)
    both = seconds(decodes, chunk)
    assert max(seconds(decodes), seconds(chunk)) < both < seconds(decodes) + seconds(chunk)


def test_a_choice_costs_what_it_costs_alone() -> None:
    greedy, drawn, filtered, none = (seconds(Group(8, 1, 300, way)) for way in ("greedy", "drawn", "filtered", "none"))
    assert drawn - greedy == pytest.approx(8 * 5e-5) and filtered - greedy == pytest.approx(8 * 9e-5)
    assert none < greedy  # no head


def test_only_a_prompt_that_begins_is_looked_up() -> None:
    first, later = Group(1, 64, 512), Group(1, 64, 512, begins=False)
    assert first.admitted == 1 and later.admitted == Group(4, 1, 99).admitted == 0
    assert seconds(first) - seconds(later) == pytest.approx(1e-4 + 2e-7 * 576)


def test_a_plan_becomes_its_rows() -> None:
    ways = {
        "greedy": SamplingParams(temperature=0.0, top_p=0.5),
        "drawn": SamplingParams(temperature=0.7),
        "filtered": SamplingParams(temperature=0.7, top_k=5),
    }
    rows = [Row(way, (5,), 40, (0, 1, 2), Sampling(41, params)) for way, params in ways.items()]
    plan = Plan(3, rows=(*rows, Row("b", (1, 2, 3), 0, (3,)), Row("c", (), 7, (4,))))
    assert step_of(plan, {*ways}) == (*(Group(1, 1, 40, way, False) for way in ways), Group(1, 3, 0, "none", True))
    assert step_of(Plan(4)) == ()


def test_places_are_octaves_apart() -> None:
    assert place((Group(8, 1, 64),)) - place((Group(2, 1, 64),)) == pytest.approx([2, 0, 0])
    assert place((Group(1, 64, 0),)) - place((Group(1, 16, 0),)) == pytest.approx([0, 2, 0])


@pytest.mark.parametrize("bad", [{"sequences": 0}, {"tokens": -3}, {"context": -1.0}, {"context": float("nan")}])
def test_a_step_of_nothing_is_refused_in_one_line(bad: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(bad))} is .* must be at least") as raised:
        Group(**bad)  # type: ignore[arg-type]
    assert "\n" not in str(raised.value)
