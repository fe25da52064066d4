"""Each phase is bound by its largest part, and its sentence carries the numbers."""

import pytest
import torch

from fathom.engine.explain import BATCH, PREFILL, explain, judge, phases
from fathom.engine.limits import Floor, Limits, Step
from tests.engine.tiny import tiny

ONE = Step(1, 1, 16)


@pytest.fixture(autouse=True)
def one_thread():
    """A tiny model gains nothing from a second thread, and loses much to any neighbour."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def least(reading_s=0.0, arithmetic_s=0.0, attention_s=0.0):
    return Floor(18.3e6, 35e6, 1e5, 1e6, reading_s, arithmetic_s, attention_s)


@pytest.mark.parametrize(
    ("floor", "step_s", "model_s", "bound"),
    [
        (least(reading_s=0.7e-3), 0.84e-3, 0.8e-3, "reading weights"),
        (least(reading_s=0.1e-3, arithmetic_s=0.7e-3), 0.84e-3, 0.8e-3, "arithmetic"),
        (least(reading_s=0.1e-3, attention_s=0.6e-3), 0.84e-3, 0.8e-3, "attention"),
        (least(reading_s=0.1e-3), 0.84e-3, 0.8e-3, "kernels"),
        (least(reading_s=0.1e-3), 0.84e-3, 0.2e-3, "between kernels"),
    ],
)
def test_the_largest_part_bounds(floor, step_s, model_s, bound):
    phase = judge("decode", ONE, floor, step_s, model_s)
    assert phase.bound == bound and phase.sentence.endswith(f"Bound by {bound}.")


def test_a_sentence_has_the_numbers():
    phase = judge("decode, 1 sequence", ONE, least(reading_s=0.732e-3), 0.84e-3, 0.8e-3)
    assert phase.sentence == (
        "decode, 1 sequence after 16 tokens: reading 18.3 MB of weights at 25.0 GB/s takes 0.732 ms; measured 0.84 ms "
        "(1,190 tokens/s, 87% of the limit); of the rest, kernels below their limit take 0.068 ms, Python between "
        "them 0.04 ms. Bound by reading weights."
    )
    assert phase.tokens_per_s == pytest.approx(1 / 0.84e-3)


def test_phases_fit_the_model():
    assert [step.context for step in phases(5000).values()] == [16, 1024, 128, 0]
    shapes = [(step.sequences, step.tokens) for step in phases(5000).values()]
    assert shapes == [(1, 1), (1, 1), (BATCH, 1), (1, PREFILL)]
    assert [step.context + step.tokens - 1 for step in phases(200).values()] == [16, 200, 128, 199]
    assert "decode, long context" not in phases(10)


def test_every_phase_of_a_model_is_explained(monkeypatch):
    monkeypatch.setattr("fathom.engine.explain.DECODED", 2)
    machine = Limits("reference", "f32", 1, 1e10, 1e10, 1e10, 1e10)
    found = list(explain(tiny(), machine, repeats=1))
    assert [phase.name for phase in found] == list(phases(256 - 33))
    assert all(phase.name in phase.sentence and phase.step_s >= phase.model_s > 0.0 for phase in found)
