"""Rank correlation against a case worked by hand, ties included, and against its own definition."""

import math
from random import Random

import pytest

from fathom.errors import InputError
from fathom.think.lengths import obedience, ranks, spearman


def test_equal_values_share_the_mean_of_their_ranks() -> None:
    assert ranks([10, 20, 10, 5]) == [2.5, 4, 2.5, 1]
    assert ranks([7, 7, 7]) == [2, 2, 2]


def test_spearman_of_a_case_with_ties_worked_by_hand() -> None:
    """Ranks 1.5 1.5 3.5 3.5 5 and 1 2.5 4 2.5 5 about 3: products 3, .75, .5, -.25, 4 sum to 8; squares to 9, 9.5."""
    x, y = [32, 32, 64, 64, 128], [30, 40, 55, 40, 90]
    assert spearman(x, y) == pytest.approx(8 / math.sqrt(9 * 9.5), rel=1e-12)


def test_without_ties_it_is_the_formula_of_differences() -> None:
    rng = Random(4)
    x, y = rng.sample(range(100), 12), rng.sample(range(100), 12)
    d2 = sum((a - b) ** 2 for a, b in zip(ranks(x), ranks(y), strict=True))
    assert spearman(x, y) == pytest.approx(1 - 6 * d2 / (12 * (12**2 - 1)))


def test_it_sees_order_only() -> None:
    assert spearman([1, 2, 3, 4], [1, 10, 100, 1000]) == pytest.approx(1)
    assert spearman([1, 2, 3, 4], [8, 4, 2, 1]) == pytest.approx(-1)


def test_lengths_that_are_all_alike_have_no_correlation() -> None:
    assert spearman([5, 5, 5], [1, 2, 3]) is None
    assert spearman([5], [1]) is None


def test_obedience_is_rank_and_relative_error() -> None:
    found = obedience([50, 100, 200], [40, 100, 210])
    assert (found.n, found.spearman) == (3, pytest.approx(1))
    assert found.relative_error == pytest.approx((0.2 + 0 + 0.05) / 3)


@pytest.mark.parametrize(("asked", "used"), [([], []), ([1, 2], [1]), ([0, 3], [1, 2])])
def test_lengths_without_a_partner_or_of_nothing_are_refused(asked: list[float], used: list[float]) -> None:
    with pytest.raises(InputError, match="pairs"):
        obedience(asked, used)
