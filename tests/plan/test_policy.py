"""What a budget for each kind of problem saves."""

from __future__ import annotations

import pytest

from fathom.errors import InputError
from fathom.plan.curves import Cell
from fathom.plan.policy import budget_policy
from fathom.plan.thinking import read_rates

V3 = read_rates()


def cell(kind: str, mode: str, right: list[int], thinking: float) -> Cell:
    n = len(right)
    return Cell(kind, mode, sum(right) / n, thinking, n=n, right=tuple(map(float, right)), used=(thinking,) * n)


EASY, HARD = [1] * 40, [0] * 40
TABLE = [
    cell("easy", "none", EASY, 0.0), cell("easy", "long", EASY, 4000.0), cell("hard", "none", HARD, 0.0),
    cell("hard", "long", EASY, 4000.0),
]  # fmt: skip


def test_easy_problems_are_answered_at_once_and_hard_ones_thought_about() -> None:
    found = budget_policy(TABLE, V3)
    assert found is not None and found.held_out
    assert found.chosen == {"easy": "none", "hard": "long"} and found.uniform == "long"
    assert found.accuracy.value == found.uniform_accuracy.value == 1.0
    long, short = (V3.money(V3.seconds(tokens)) for tokens in (4000.0, 0.0))
    assert found.saving.value == pytest.approx(1 - (long + short) / 2 / long)


def test_what_holds_for_one_half_only_is_not_promised() -> None:
    """A mode that is right on the even problems alone looks perfect on one half and is judged on the other."""
    lucky = [1, 0] * 20
    table = [cell("a", "short", lucky, 0.0), cell("a", "long", [1] * 40, 100.0), *TABLE[2:]]
    table[2:] = [cell("b", "short", HARD, 0.0), cell("b", "long", EASY, 100.0)]
    found = budget_policy(table, V3)
    assert found is not None and found.held_out
    assert found.accuracy.value == pytest.approx(0.75)  # a: 0 on one half, 1 on the other; b: 1
    in_sample = budget_policy([Cell(c.kind, c.mode, c.accuracy, c.thinking, n=c.n) for c in table], V3)
    assert in_sample is not None and not in_sample.held_out and in_sample.accuracy.value == 1.0


def test_a_margin_buys_savings() -> None:
    table = [cell("a", "short", [1] * 39 + [0], 0.0), cell("a", "long", EASY, 4000.0), *TABLE[2:]]
    table[2:] = [cell("b", "short", HARD, 0.0), cell("b", "long", EASY, 4000.0)]
    strict, loose = (
        budget_policy([Cell(c.kind, c.mode, c.accuracy, c.thinking, n=c.n) for c in table], V3, m) for m in (0.0, 0.1)
    )
    assert strict is not None and loose is not None
    assert strict.saving.value == pytest.approx(0.0) and loose.saving.value > 0.4
    assert loose.chosen["a"] == "short" and loose.accuracy.value == pytest.approx((39 / 40 + 1) / 2)


def test_one_kind_or_one_mode_has_no_policy() -> None:
    assert budget_policy(TABLE[:2], V3) is None and budget_policy([TABLE[0], TABLE[2]], V3) is None


@pytest.mark.parametrize("margin", [-0.1, 1.5, float("nan")])
def test_a_margin_is_a_share(margin: float) -> None:
    with pytest.raises(InputError, match="it must be a share of answers"):
        budget_policy(TABLE, V3, margin)
