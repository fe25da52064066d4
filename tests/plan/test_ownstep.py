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
from fathom.plan.ownstep import (
    CACHED_S,
    COMPUTED_S,
    PARTS,
    PROMPT_S,
    Group,
    Kernel,
    Rates,
    busiest,
    near_keys,
    part_seconds,
    place,
    prior,
    step_of,
)  # fmt: skip
from fathom.plan.ownstep import KERNELS as KINDS

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
    assert pytest.approx(2**22 / (5 * (64 + 16) * 2)) == NEAR  # keys of five layers, 80 values of two bytes each
    assert RATES.key_s + RATES.pair_s == pytest.approx(1e-7)  # 1e-4 s for 1000 keys, of one token each
    assert RATES.far_s == pytest.approx((1.6e-3 - 8000 * 1e-7) / (8000 - NEAR))
    # the chunk: the same keys; the 3e-3 s more are 60 * 1000 + 61 * 60 / 2 pairs
    assert RATES.pair_s == pytest.approx(3e-3 / (60_000 + 1830))
    assert RATES.forward_s(16) == pytest.approx(5e-4) and RATES.forward_s(512) == pytest.approx(16e-3)
    assert RATES.forward_s(8.5) == pytest.approx(3e-4)  # half way between 1 and 16: each row takes a product more


@given(st.integers(1, 40), st.integers(1, 30), st.integers(0, 500), st.integers(1, 8))
def test_alike_sequences_are_dealt_out_one_by_one(sequences: int, tokens: int, context: int, threads: int) -> None:
    """A list of what each thread has, made by dealing."""
    held = [[0.0, 0.0] for _ in range(threads)]
    for i in range(sequences):
        held[i % threads][0] += context
        held[i % threads][1] += sum(context + j for j in range(tokens))
    keys, pairs = busiest((Group(sequences, tokens, context),), threads)
    if sequences >= threads:
        assert keys == max(k for k, _ in held) and pairs == pytest.approx(max(p for _, p in held))
    else:  # heads are dealt out instead: every thread prepares the keys
        assert keys == context and pairs == pytest.approx(sum(p for _, p in held) / threads)


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 300)), min_size=1, max_size=6), st.integers(1, 4))
def test_no_deal_of_unlike_sequences_is_beaten(each: list[tuple[int, int]], threads: int) -> None:
    """The longest first, each to whoever has least: a thread never has less than is said."""
    held = [0.0] * threads
    for context in sorted((c for count, c in each for _ in range(count)), reverse=True):
        held[held.index(min(held))] += context
    if sum(count for count, _ in each) >= threads:
        assert busiest(tuple(Group(count, 1, context) for count, context in each), threads)[0] <= max(held)


def test_rates_of_two_threads_tell_keys_from_pairs() -> None:
    """One sequence: both threads prepare its keys and halve the heads. Eight: each thread has four."""
    key_s, pair_s = 6e-8, 5e-8
    work = {(1, 1, 1000): key_s + pair_s / 2, (8, 1, 250): key_s + pair_s, (1, 61, 1000): key_s + 62.83 * pair_s / 2}
    own = [Kernel("attention", 1000 * s, *size, threads=2) for size, s in work.items()]
    found = Rates.of([k for k in KERNELS if k.name != "attention"] + own, NEAR)
    assert (found.threads, found.key_s, found.pair_s) == (2, pytest.approx(key_s), pytest.approx(pair_s))
    five, six, seven = (part_seconds(CONFIG, "i8", found, (Group(n, 1, 300),))[4] for n in (5, 6, 7))
    assert five == pytest.approx(six) and seven > six


def test_what_was_expected_of_parts_is_a_covariance() -> None:
    found = prior()
    assert found.shape == (len(PARTS),) * 2 and (found == found.T).all() and np.linalg.eigvalsh(found).min() > 0


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
    assert seconds(first) - seconds(later) == pytest.approx(PROMPT_S + COMPUTED_S * 64 + CACHED_S * 512)


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
