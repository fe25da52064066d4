"""The fit finds what made synthetic sums, its intervals hold what they promise, and chosen points say the most."""

from __future__ import annotations

import numpy as np
import pytest

from fathom.errors import ConfigError
from fathom.plan.posterior import Fit, choose, fit, student_quantile

SD = (1.0, 0.5, 0.5)
PRIOR = np.diag(np.square(SD))


def sums(seed: int, count: int, truth: np.ndarray, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Parts of `count` sums over three orders of magnitude, and the sums with noise."""
    draw = np.random.default_rng(seed)
    parts = np.exp(draw.uniform(-3, 3, (count, len(truth))))
    return parts, (parts @ np.exp(truth)) * np.exp(noise * draw.standard_normal(count))


def test_known_factors_are_recovered() -> None:
    truth = np.array([0.8, -0.4, 0.3])
    parts, measured = sums(1, 60, truth, 0.01)
    found = fit(parts, measured.tolist(), PRIOR)
    assert np.allclose(found.mean, truth, atol=0.02)
    assert 0.008 < found.spread < 0.025  # the guess of 0.05 counts as four measurements


def test_without_measurements_that_show_a_factor_the_prior_stays() -> None:
    parts = np.array([[1.0, 0.0, 0.0]] * 8)
    found = fit(parts, [2.0] * 8, PRIOR)
    assert found.mean[0] == pytest.approx(np.log(2.0), abs=0.01) and found.mean[1:] == pytest.approx([0, 0])
    assert np.sqrt(np.diag(found.covariance)[1:]) == pytest.approx([0.5, 0.5])


def test_intervals_hold_four_of_five() -> None:
    inside = []
    for seed in range(120):
        draw = np.random.default_rng(1000 + seed)
        truth = np.array(SD) * draw.standard_normal(3)
        noise = float(draw.uniform(0.04, 0.10))
        parts, measured = sums(seed, 10, truth, noise)
        found = fit(parts, measured.tolist(), PRIOR)
        new_parts, new = sums(5000 + seed, 20, truth, noise)
        middle, sd = found.log_seconds(new_parts)
        inside.append(np.abs(np.log(new) - middle) <= student_quantile(0.9, found.dof) * sd)
    assert 0.74 < np.mean(inside) < 0.86


def test_relative_errors_count_alike_whatever_the_size() -> None:
    parts, measured = sums(3, 12, np.array([0.2, 0.1, -0.2]), 0.05)
    scale = np.exp(np.random.default_rng(3).uniform(-8, 8, 12))
    once, scaled = fit(parts, measured.tolist(), PRIOR), fit(parts * scale[:, None], (measured * scale).tolist(), PRIOR)
    assert once.mean == pytest.approx(scaled.mean) and once.spread == pytest.approx(scaled.spread)


def test_factors_that_belong_together_move_together() -> None:
    kin = np.array([[1.0, 0.99, 0.0], [0.99, 1.0, 0.0], [0.0, 0.0, 0.25]])
    found = fit(np.array([[1.0, 0.0, 0.0]] * 8), [2.0] * 8, kin)
    assert found.mean[1] == pytest.approx(0.99 * found.mean[0]) and found.mean[2] == pytest.approx(0)
    assert found.covariance[1][1] < 0.05  # what was never measured is known by its kin


def test_a_machine_that_moves_widens_every_interval() -> None:
    parts, measured = sums(4, 12, np.zeros(3), 0.05)
    calm, moving = (fit(parts, measured.tolist(), PRIOR, swing) for swing in (0.0, 0.1))
    assert calm.mean == moving.mean and moving.spread == pytest.approx(np.hypot(calm.spread, 0.1))


def test_shares_add_up() -> None:
    parts, measured = sums(4, 12, np.zeros(3), 0.05)
    assert fit(parts, measured.tolist(), PRIOR).shares(parts).sum(1) == pytest.approx(np.ones(12))


def test_chosen_points_determine_the_factors_better_than_most_others() -> None:
    draw = np.random.default_rng(7)
    parts, places = np.exp(draw.uniform(-3, 3, (60, 3))), draw.uniform(0, 8, (60, 3))
    chosen = choose(parts, places, PRIOR, 6)
    assert len(set(chosen)) == 6

    def uncertainty(of: list[int]) -> float:
        shares = parts[of] / parts[of].sum(1, keepdims=True)
        return float(np.linalg.slogdet(np.linalg.inv(shares.T @ shares / 0.05**2 + np.eye(3)))[1])

    others = [uncertainty(draw.choice(60, 6, replace=False).tolist()) for _ in range(200)]
    assert np.mean(np.array(others) > uncertainty(chosen)) > 0.9


def test_equal_candidates_are_chosen_apart() -> None:
    places = np.array([[0.0], [0.1], [0.2], [5.0], [10.0]])
    assert choose(np.ones((5, 1)), places, np.eye(1), 3)[-2:] == [3, 4]
    assert choose(np.ones((2, 1)), places[:2], np.eye(1), 9) == [0, 1]  # there are no more


@pytest.mark.parametrize(
    ("share", "dof", "expected"),  # tables of Student's distribution
    [(0.9, 4, 1.5332), (0.9, 10, 1.3722), (0.975, 8, 2.3060), (0.99, 3, 4.5407), (0.9, 1e6, 1.28155)],
)
def test_quantiles_are_those_of_the_tables(share: float, dof: float, expected: float) -> None:
    assert student_quantile(share, dof) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("bad", [{"covariance": ((1.0,),)}, {"spread": 0.0}, {"dof": -1.0}])
def test_a_posterior_that_cannot_be_is_refused(bad: dict[str, object]) -> None:
    good: dict[str, object] = {"mean": (0.0, 0.0), "covariance": ((1.0, 0.0), (0.0, 1.0)), "spread": 0.1, "dof": 5.0}
    Fit(**good)  # type: ignore[arg-type]
    with pytest.raises(ConfigError):
        Fit(**(good | bad))  # type: ignore[arg-type]
