"""Intervals and tests against published values, and against what simple cases must give."""

import math
from random import Random

import pytest

from fathom.errors import InputError
from fathom.think.intervals import bootstrap, mcnemar, newcombe, paired, wilson


def test_wilson_equals_published_values() -> None:
    """Newcombe 1998, table I: 81/263, 15/148, 0/20, 1/29, method 3."""
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0, 0.1611), abs=5e-5)
    assert wilson(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)


@pytest.mark.parametrize(("correct", "n"), [(0, 0), (-1, 3), (4, 3)])
def test_impossible_counts_are_refused(correct: int, n: int) -> None:
    with pytest.raises(InputError, match=f"correct is {correct} of {n}"):
        wilson(correct, n)


def test_paired_analysis_equals_published_values() -> None:
    """The airway data of Fagerland, Lydersen and Laake 2014 (21 pairs: 1, 1, 7, 12), who give -0.507 to -0.026 for
    Newcombe's interval of the difference the other way round, and 0.0703 for McNemar's exact test."""
    assert newcombe(1, 1, 7, 12) == pytest.approx((0.026, 0.507), abs=5e-4)
    assert mcnemar(1, 7) == pytest.approx(0.0703, abs=5e-5)


def test_mcnemar_is_the_two_sided_binomial_test() -> None:
    for a, b in [(0, 0), (0, 5), (3, 3), (2, 9), (10, 4)]:
        chances = [math.comb(a + b, i) / 2 ** (a + b) for i in range(a + b + 1)]
        uneven = sum(chance for i, chance in enumerate(chances) if abs(2 * i - a - b) >= abs(a - b))
        assert mcnemar(a, b) == pytest.approx(uneven)


def test_newcombe_turns_round_with_its_arguments() -> None:
    low, high = newcombe(5, 3, 9, 4)
    assert newcombe(5, 9, 3, 4) == pytest.approx((-high, -low))


def test_newcombe_holds_the_truth_about_as_often_as_it_says() -> None:
    rng, held, trials = Random(1), 0, 400
    for _ in range(trials):
        counts = [0, 0, 0, 0]
        for _ in range(60):
            counts[rng.choices(range(4), (0.5, 0.1, 0.25, 0.15))[0]] += 1
        low, high = newcombe(counts[0], counts[1], counts[2], counts[3])
        held += low <= 0.15 <= high
    assert 0.92 <= held / trials <= 0.99


def test_single_answers_are_paired_problem_by_problem() -> None:
    found = paired([1, 1, 0, 0, 1], [1, 0, 1, 1, 1])
    assert (found.n, found.a, found.b, found.a_only, found.b_only) == (5, 0.6, 0.8, 1, 2)
    assert found.difference == pytest.approx(0.2)
    assert found.p == mcnemar(1, 2)
    assert (found.low, found.high) == newcombe(2, 1, 2, 0)


def test_no_disagreement_is_no_certainty() -> None:
    found = paired([1] * 20, [1] * 20)
    assert found.difference == 0 and found.low < -0.1 and found.high > 0.1 and found.p == 1


def test_several_samples_are_paired_by_their_rates() -> None:
    found = paired([0.25, 0.5, 1.0, 0.0] * 10, [0.5, 0.75, 1.0, 0.25] * 10)
    assert found.p is None and (found.a_only, found.b_only) == (0, 30)
    assert found.difference == pytest.approx(0.1875)
    assert found.low < 0.1875 < found.high


def test_bootstrap_is_near_the_normal_interval_for_many_values() -> None:
    rng = Random(3)
    values = [rng.choice((-0.5, 0.0, 0.25, 1.0)) for _ in range(1500)]
    mean = sum(values) / len(values)
    half = 1.96 * math.sqrt(sum((v - mean) ** 2 for v in values)) / len(values)
    assert bootstrap(values) == pytest.approx((mean - half, mean + half), abs=half / 20)
    assert bootstrap(values) == bootstrap(values)


def test_results_of_different_problems_are_not_paired() -> None:
    with pytest.raises(InputError, match="3 results are paired with 2"):
        paired([1, 0, 1], [1, 0])
