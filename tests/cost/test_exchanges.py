"""Counted by hand for a model of four layers, one of them dense; and counted by ranks that really ask."""

from dataclasses import replace

import pytest

from fathom.config import SHAPES
from fathom.cost.exchanges import exchanges
from fathom.layout import Layout

MODEL = replace(SHAPES["nano"], num_hidden_layers=4, first_k_dense_replace=1)


def counts(layout: Layout, tokens: int = 8, asked: int = 2) -> dict[str, tuple[int, float]]:
    return {one.op: (one.count, one.bytes) for one in exchanges(MODEL, layout, tokens, asked)}


def test_one_rank_asks_nobody() -> None:
    assert counts(Layout()) == {}


def test_tensor_parallelism_fetches_half_of_what_two_ranks_divide() -> None:
    assert counts(Layout(tp=2)) == {
        "heads": (4, 8 * 8 * 64 * 4 / 2),
        "hidden": (5, 8 * 384 * 4 / 2),  # after attention in each layer, and after the dense feed-forward
        "inner": (1, 8 * 1536 * 4 / 2),
        "rows": (3, 8 * 384 * 4 / 2),
        "vocabulary": (1, 2 * 8192 * 4 / 2),
    }


def test_experts_elsewhere_cost_three_questions_a_layer() -> None:
    found = counts(Layout(dp=2, ep=2))
    assert found["begin"] == (1, 8)
    assert found["ids"] == (3, 8 * 4 * 8)
    assert found["dispatch"][1] == pytest.approx(8 * 384 * 4 * (1 - 0.5**4))  # unless all four experts are at home
    assert found["combine"] == (3, 8 * 4 * 384 * 4 / 2)


def test_a_stage_passes_its_states_on_once() -> None:
    assert counts(Layout(pp=2)) == {"stage": (1, 8 * 384 * 4)}


def test_no_logits_no_vocabulary() -> None:
    assert "vocabulary" not in counts(Layout(tp=2), asked=0)
