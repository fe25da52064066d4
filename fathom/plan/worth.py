"""Where the next dollar buys more: a bigger model, more tokens to train on, or longer thought.

The bill is that of the largest run and of its answers. One per cent more of it is spent in one place:

    a bigger model    N x (1 + money / (training + answers)): every token costs more, in training and in answers
    more tokens       D x (1 + money / training)
    longer thought    T + money / (answers x cost of one more token of an answer)

The first two lower the loss (scaling.py), the third raises accuracy. Where several runs were evaluated, the line of
their accuracy against their loss says what a lower loss is worth in accuracy, and all three compare.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fathom.errors import InputError
from fathom.plan.curves import Cell
from fathom.plan.inputs import Spread
from fathom.plan.quantity import Quantity
from fathom.plan.runs import Run
from fathom.plan.scaling import Law, Saturation
from fathom.plan.thinking import Rates

STEP = 0.01  # of the bill, which is spent in one place
BIGGER, LONGER, THOUGHT = "a bigger model", "more tokens", "longer thought"


@dataclass(frozen=True)
class Option:
    """What the money buys in one place.

    Fields: factor: as much of the place as the largest run has; far above 1 it is far beyond what was measured.
            loss: less of it; accuracy: more of it; None: cannot be said.
    """

    name: str
    factor: Quantity
    loss: Quantity | None
    accuracy: Quantity | None

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        loss, accuracy = (one.to_dict() if one else None for one in (self.loss, self.accuracy))
        return {"name": self.name, "factor": self.factor.to_dict(), "loss": loss, "accuracy": accuracy}


@dataclass(frozen=True)
class Worth:
    """The three places, and the best of those that compare.

    Fields: training, answers: the bill, by its two parts. money: one per cent of it. thinking: of an answer today.
            best: name of an option; measure: by what it is best. break_even: answers in the model's life below
            which longer thought is the better buy; None: cannot be said.
    """

    training: Quantity
    answers: Quantity
    money: Quantity
    thinking: Quantity
    options: tuple[Option, ...]
    best: str
    measure: str
    break_even: Quantity | None

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        named = {name: getattr(self, name).to_dict() for name in ("training", "answers", "money", "thinking")}
        even = self.break_even.to_dict() if self.break_even else None
        options = [one.to_dict() for one in self.options]
        return {**named, "options": options, "best": self.best, "measure": self.measure, "break_even": even}


def accuracy_per_loss(runs: Sequence[Run], seed: int = 0, draws: int = 200) -> Quantity | None:
    """What a nat less of loss is worth in accuracy, by the line through the runs that were evaluated.

    In the mode in which all of them were; None where fewer than three runs were, or their losses are all alike.
    """
    evaluated = [run for run in runs if run.cells]
    shared = (
        [c.label for c in evaluated[0].cells if all(c.label in _labels(run) for run in evaluated)] if evaluated else []
    )
    if len(evaluated) < 3 or not shared:
        return None
    cells = [_cell(run, shared[-1]) for run in evaluated]
    loss, accuracy = np.array([run.loss for run in evaluated]), np.array([cell.accuracy for cell in cells])
    if np.ptp(loss) < 1e-9:
        return None
    middle = loss - loss.mean()
    slope = -float(middle @ accuracy / (middle @ middle))
    low = high = None
    if all(cell.n for cell in cells):
        n = np.array([cell.n for cell in cells])
        drawn = np.random.default_rng(seed).binomial(n, accuracy, (draws, len(n))) / n
        spread = Spread.of(-(drawn @ middle) / (middle @ middle), "1/nat")
        low, high = min(spread.p10, slope), max(spread.p90, slope)
    return Quantity(slope, "1/nat", f"accuracy by less loss, mode {shared[-1]}", low, high, "", "fitted")


def _labels(run: Run) -> set[str]:
    return {cell.label for cell in run.cells}


def _cell(run: Run, label: str) -> Cell:
    return next(cell for cell in run.cells if cell.label == label)


def next_dollar(
    run: Run,
    law: Law | None,
    thought: Saturation | None,
    thinking_tokens: float,
    per_loss: Quantity | None,
    rates: Rates,
) -> Worth:
    """What one per cent more of the bill buys in each place.

    Args:   run: the one that would be enlarged. law: of parameters and tokens. thought: accuracy against thought.
            thinking_tokens: of an answer today. per_loss: see accuracy_per_loss.
    Raises: InputError: neither a law nor a curve, or the rates miss the price of training or the number of answers.
    """
    if law is None and thought is None:
        raise InputError(
            "neither the loss of several runs nor accuracy against thought is known; give more runs or a curve."
        )
    for name in ("training.per_exaflop", "answers.lifetime"):
        if name not in rates.inputs or not rates[name] > 0:
            raise InputError(f"{name} must be above 0 to say where money buys more; add it to the rates.")
    smaller = run.activated / rates["fleet.active_parameters"] if "fleet.active_parameters" in rates.inputs else 1.0
    training = run.flops / 1e18 * rates["training.per_exaflop"]
    count = rates["answers.lifetime"]
    answer = rates.money(rates.seconds(thinking_tokens)) * smaller
    money = STEP * (training + count * answer)
    options = []
    if law is not None:
        for name, term, bill in ((BIGGER, 0, training + count * answer), (LONGER, 1, training)):
            less = law.gain(term, 1.0 + money / bill, run.activated, run.tokens)
            factor = Quantity(1.0 + money / bill, "1", "over the largest run")
            options.append(Option(name, factor, less, _as_accuracy(less, per_loss)))
    token = rates.money(rates.seconds(thinking_tokens + 1.0)) * smaller - answer
    if thought is not None:
        more = money / token / count
        factor = Quantity(1.0 + more / max(1.0, thinking_tokens), "1", "over the thought of today")
        options.append(Option(THOUGHT, factor, None, thought.gain(thinking_tokens, more)))
    best, measure = _best(options)
    return Worth(
        Quantity(training, rates.currency, "training of the largest run"),
        Quantity(count * answer, rates.currency, "its answers, in its life"),
        Quantity(money, rates.currency, "one per cent of both"),
        Quantity(thinking_tokens, "tokens", "of thought in an answer today"), tuple(options), best, measure,
        _break_even(run, law, thought, thinking_tokens, per_loss, training, token),
    )  # fmt: skip


def _as_accuracy(less: Quantity, per_loss: Quantity | None) -> Quantity | None:
    if per_loss is None:
        return None
    ends = None
    sides = [(one.low, one.high) for one in (less, per_loss)]
    if all(low is not None and high is not None for low, high in sides):
        corners = [(a or 0.0) * (b or 0.0) for a in sides[0] for b in sides[1]]
        ends = (min(corners), max(corners))
    low, high = ends or (None, None)
    return Quantity(less.value * per_loss.value, "1", "accuracy", low, high, "", "fitted")


def _best(options: Sequence[Option]) -> tuple[str, str]:
    """The best option by accuracy where all have one, else by loss among those that have."""
    if all(one.accuracy is not None for one in options):
        return max(options, key=lambda one: one.accuracy.value if one.accuracy else 0.0).name, "accuracy"
    with_loss = [one for one in options if one.loss is not None]
    if len(with_loss) > 1:
        return max(with_loss, key=lambda one: one.loss.value if one.loss else 0.0).name, "loss"
    return "", ""


def _break_even(
    run: Run, law: Law | None, thought: Saturation | None, tokens: float, per_loss: Quantity | None, training: float,
    token: float,
) -> Quantity | None:  # fmt: skip
    """Answers at which a little more for tokens and a little more for thought buy the same accuracy.

    Training is paid once, so what it buys does not depend on them; what thought buys is shared by them.
    """
    if law is None or thought is None or per_loss is None:
        return None
    little = 1e-6
    trained = law.gain(1, 1.0 + little, run.activated, run.tokens).value * per_loss.value / (little * training)
    thinking = thought.gain(tokens, little * max(1.0, tokens)).value / (little * max(1.0, tokens) * token)  # x answers
    if not trained > 0.0:
        return None
    return Quantity(thinking / trained, "answers", "in its life: below it longer thought buys more, above it training")
