"""Laws are found again in data that follow them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fathom.errors import InputError
from fathom.plan.scaling import fit_law, fit_thinking

PARAMETERS = np.tile([1e6, 4e6, 1.6e7, 6.4e7], 3)
TOKENS = np.repeat([2e7, 2e8, 2e9], 4)
SIZES = np.stack([PARAMETERS, TOKENS], 1)


def chinchilla(parameters: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Hoffmann et al. 2022, table A3, approach 3: 1.69 + 406.4 / N^0.34 + 410.7 / D^0.28."""
    return 1.69 + 406.4 * parameters**-0.34 + 410.7 * tokens**-0.28


def test_the_exponents_of_exact_data_are_found_exactly() -> None:
    law = fit_law(("parameters", "tokens"), SIZES, chinchilla(PARAMETERS, TOKENS), draws=5)
    assert law.exponents == pytest.approx((0.34, 0.28), rel=1e-2) and law.floor == pytest.approx(1.69, rel=1e-2)
    assert law.error < 1e-4 and law.held_out is not None and abs(law.held_out) < 1e-3
    assert law.at(70e9, 1.4e12) == pytest.approx(float(chinchilla(np.array(70e9), np.array(1.4e12))), rel=5e-3)


def test_noise_gives_intervals_that_hold_the_truth() -> None:
    noisy = chinchilla(PARAMETERS, TOKENS) * (1 + 0.003 * np.random.default_rng(2).standard_normal(12))
    law = fit_law(("parameters", "tokens"), SIZES, noisy, draws=60)
    found = law.quantities()
    for name, truth in (("exponent of parameters", 0.34), ("exponent of tokens", 0.28)):
        low, high = found[name].low, found[name].high
        assert low is not None and high is not None and low - 0.03 < truth < high + 0.03 and high > low
    assert 0.0005 < law.error < 0.006


@pytest.mark.parametrize(("floor", "power"), [(2.0, 0.15), (0.0, 0.05), (0.5, 0.8)])
def test_loss_against_compute(floor: float, power: float) -> None:
    compute = np.geomspace(1e15, 1e20, 7)
    law = fit_law(("compute",), compute[:, None], floor + 3.0 * (compute / 1e15) ** -power, draws=20)
    assert law.exponents[0] == pytest.approx(power, rel=0.02) and law.floor == pytest.approx(floor, abs=0.02)
    assert law.held_out == pytest.approx(0.0, abs=1e-3)
    spread = law.interval(1e21)
    assert spread.p10 <= spread.p50 <= spread.p90 and spread.unit == "nats/token"


def test_what_more_of_a_term_takes_away() -> None:
    law = fit_law(("parameters", "tokens"), SIZES, chinchilla(PARAMETERS, TOKENS), draws=5)
    gain = law.gain(1, 2.0, 1e7, 1e9)
    truth = 410.7 * (1e9**-0.28 - 2e9**-0.28)
    assert gain.value == pytest.approx(truth, rel=0.01) and gain.unit == "nats/token"


def test_held_out_error_tells_that_a_law_breaks() -> None:
    """Where loss stops falling at the largest run, its prediction from the others is too low."""
    compute = np.geomspace(1e15, 1e19, 6)
    loss = 3.0 * (compute / 1e15) ** -0.2
    loss[-1] = loss[-2]
    law = fit_law(("compute",), compute[:, None], loss, draws=5)
    assert law.held_out is not None and law.held_out < -0.2


def test_too_few_or_equal_runs_are_refused() -> None:
    with pytest.raises(InputError, match="2 runs for a law of compute; it takes 3"):
        fit_law(("compute",), np.array([[1.0], [2.0]]), np.array([2.0, 1.0]))
    with pytest.raises(InputError, match="tokens is 2e.07 in all runs"):
        fit_law(("parameters", "tokens"), np.stack([PARAMETERS, np.full(12, 2e7)], 1), chinchilla(PARAMETERS, TOKENS))


def test_accuracy_that_saturates_is_found_again() -> None:
    tokens = [0.0, 100.0, 300.0, 1000.0, 3000.0]
    truth = [0.2 + 0.6 * (1 - np.exp(-t / 500)) for t in tokens]
    found = fit_thinking(tokens, truth, [400] * 5)
    assert (found.start, found.ceiling, found.scale) == pytest.approx((0.2, 0.8, 500), rel=0.03)
    assert found.held_out is not None and abs(found.held_out) < 0.01 and found.error < 0.005
    gain = found.gain(300.0, 200.0)
    assert gain.value == pytest.approx(0.6 * (np.exp(-0.6) - np.exp(-1.0)), rel=0.03)
    assert gain.low is not None and gain.high is not None and gain.low <= gain.value <= gain.high
    with pytest.raises(InputError, match="takes three"):
        fit_thinking([1.0, 2.0], [0.1, 0.2])


@given(st.lists(st.floats(0.0, 1.0), min_size=3, max_size=8), st.floats(0.1, 1e5))
@settings(max_examples=40)
def test_whatever_was_measured_the_curve_stays_a_share_and_never_falls(accuracies: list[float], step: float) -> None:
    found = fit_thinking([step * i for i in range(len(accuracies))], accuracies)
    line = [found.at(step * i / 3) for i in range(60)]
    assert all(-1e-9 <= value <= 1 + 1e-9 for value in line)
    assert all(b >= a - 1e-9 for a, b in zip(line, line[1:], strict=False))


@given(st.lists(st.floats(0.1, 20.0), min_size=4, max_size=8))
@settings(max_examples=30)
def test_whatever_the_losses_a_law_is_finite_and_never_rises(losses: list[float]) -> None:
    compute = np.geomspace(1e10, 1e15, len(losses))
    law = fit_law(("compute",), compute[:, None], np.array(losses), draws=3)
    line = [law.at(float(c)) for c in np.geomspace(1e10, 1e18, 20)]
    assert np.isfinite(line).all() and all(b <= a + 1e-9 for a, b in zip(line, line[1:], strict=False))
