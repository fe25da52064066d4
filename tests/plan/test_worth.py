"""Where the next dollar buys more."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fathom.errors import InputError
from fathom.plan.curves import Cell
from fathom.plan.quantity import Quantity
from fathom.plan.runs import Run
from fathom.plan.scaling import Fitted, Law, Saturation
from fathom.plan.thinking import read_rates
from fathom.plan.worth import BIGGER, LONGER, THOUGHT, accuracy_per_loss, next_dollar

RUN = Run("r", 10**9, 10**9, 2e10, 1.2e20, 2.5)
LAW = Law(("parameters", "tokens"), 1.5, (0.5, 0.5), (0.3, 0.3), (1e9, 2e10), 0.0, None)
THOUGHTS = Saturation(0.2, 0.8, 500.0, 0.0, None)
PER_LOSS = Quantity(0.5, "1/nat")


def rates(answers: float):
    return read_rates(None, [f"answers.lifetime={answers!r}", "fleet.active_parameters=1e9"])


def test_money_buys_what_it_pays_for() -> None:
    """Training costs 120 EFLOP x 1.437 USD; one per cent of the bill over it is the part by which tokens grow."""
    found = next_dollar(RUN, LAW, THOUGHTS, 300.0, PER_LOSS, rates(1e5))
    training = 120 * 1.437
    assert found.training.value == pytest.approx(training)
    money = 0.01 * (training + found.answers.value)
    assert found.money.value == pytest.approx(money)
    options = {one.name: one for one in found.options}
    longer = options[LONGER]
    assert longer.factor.value == pytest.approx(1 + money / training)
    assert longer.loss is not None and longer.loss.value == pytest.approx(0.5 * (1 - (1 + money / training) ** -0.3))
    assert longer.accuracy is not None and longer.accuracy.value == pytest.approx(0.5 * longer.loss.value)
    assert options[BIGGER].factor.value == pytest.approx(1.01)
    thought = options[THOUGHT]
    cheap = rates(1e5)
    more = money / 1e5 / (cheap.money(cheap.seconds(301.0)) - cheap.money(cheap.seconds(300.0)))
    assert thought.accuracy is not None
    assert thought.accuracy.value == pytest.approx(0.6 * (np.exp(-0.6) - np.exp(-(300 + more) / 500)), rel=1e-6)


def test_few_answers_ask_for_thought_and_many_for_training() -> None:
    few, many = (next_dollar(RUN, LAW, THOUGHTS, 300.0, PER_LOSS, rates(count)) for count in (1e3, 1e9))
    assert few.best == THOUGHT and many.best in (BIGGER, LONGER)
    even = few.break_even
    assert even is not None and 1e3 < even.value < 1e9
    assert many.break_even is not None and many.break_even.value == pytest.approx(even.value)
    at_even = {one.name: one for one in next_dollar(RUN, LAW, THOUGHTS, 300.0, PER_LOSS, rates(even.value)).options}
    longer, thought = at_even[LONGER].accuracy, at_even[THOUGHT].accuracy
    assert longer is not None and thought is not None and longer.value == pytest.approx(thought.value, rel=0.05)


def test_without_evaluations_only_the_two_losses_compare() -> None:
    found = next_dollar(RUN, LAW, THOUGHTS, 300.0, None, rates(1e5))
    assert found.measure == "loss" and found.best in (BIGGER, LONGER) and found.break_even is None
    alone = next_dollar(RUN, None, THOUGHTS, 300.0, None, rates(1e5))
    assert [one.name for one in alone.options] == [THOUGHT]
    with pytest.raises(InputError, match="give more runs or a curve"):
        next_dollar(RUN, None, None, 0.0, None, rates(1e5))
    with pytest.raises(InputError, match="answers.lifetime must be above 0"):
        next_dollar(RUN, LAW, None, 0.0, None, rates(0.0))


def test_accuracy_falls_along_a_line_with_loss() -> None:
    def run(loss: float) -> Run:
        return replace(RUN, loss=loss, cells=(Cell("all", "own", 0.9 - 0.2 * loss, 50.0, n=500),))

    found = accuracy_per_loss([run(loss) for loss in (1.0, 2.0, 3.5)])
    assert found is not None and found.value == pytest.approx(0.2)
    assert found.low is not None and found.high is not None and found.low < 0.2 < found.high
    assert accuracy_per_loss([run(1.0), run(2.0)]) is None and accuracy_per_loss([RUN] * 4) is None


def test_a_draw_of_a_law_gives_an_interval() -> None:
    draws = tuple(Fitted(1.5, (a, a), (0.3, 0.3), (1e9, 2e10)) for a in (0.4, 0.5, 0.6))
    found = next_dollar(
        RUN, replace(LAW, draws=draws), None, 0.0, Quantity(0.5, "1/nat", low=0.4, high=0.6), rates(1e5)
    )
    loss, accuracy = found.options[0].loss, found.options[0].accuracy
    assert loss is not None and loss.low is not None and loss.low < loss.value
    assert accuracy is not None and accuracy.low == pytest.approx(loss.low * 0.4)
