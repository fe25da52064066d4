"""A model beside itself is perfect; beside another, the numbers are those of plain arithmetic."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from fathom.checkpoint import convert_packed
from fathom.errors import ConfigError
from fathom.model import Batch, Transformer, init_weights
from fathom.think import quality
from fathom.think.dialogues import Dialogue
from fathom.think.quality import compare, described, report
from tests.engine.tiny import CONFIG, tiny

GIVEN = [Dialogue(tuple(range(3, 9)), tuple(range(20, 20 + n))) for n in (1, 4, 9, 2)]


def other() -> Transformer:
    return init_weights(Transformer(CONFIG, mtp=False), std=0.3, seed=2).eval().requires_grad_(False)


def test_a_model_equals_itself() -> None:
    found = compare(tiny(), tiny(), GIVEN)
    assert (found.tokens, found.agreement, found.divergence) == (16, 1.0, 0.0)
    assert found.perplexity == found.reference_perplexity and found.perplexity_change == 0.0


@torch.inference_mode()
def test_the_numbers_are_those_of_each_dialogue_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    losses, divergence, agreed = [0.0, 0.0], 0.0, 0
    for each in GIVEN:
        ids = torch.tensor([*each.prompt, *each.answer])
        rows = slice(len(each.prompt) - 1, len(ids) - 1)
        logs = [m.logits(m(ids, Batch.packed([len(ids)]))[rows]).log_softmax(-1) for m in (tiny(), other())]
        for i in range(2):
            losses[i] -= float(logs[i].gather(1, torch.tensor(each.answer)[:, None]).sum())
        divergence += float((logs[0].exp() * (logs[0] - logs[1])).sum())
        agreed += int((logs[0].argmax(-1) == logs[1].argmax(-1)).sum())
    for size, rows_at_once in ((4096, 512), (20, 3)):
        monkeypatch.setattr(quality, "BATCH_TOKENS", size)
        monkeypatch.setattr(quality, "ROWS", rows_at_once)
        found = compare(tiny(), other(), GIVEN)
        assert found.reference_perplexity == pytest.approx(math.exp(losses[0] / 16), rel=1e-5)
        assert found.perplexity == pytest.approx(math.exp(losses[1] / 16), rel=1e-5)
        assert found.divergence == pytest.approx(divergence / 16, rel=1e-5)
        assert found.agreement == agreed / 16


def test_a_report_names_what_fewer_bits_cost(tiny_model: Path, tmp_path: Path) -> None:
    convert_packed(tiny_model, tmp_path / "packed", kind="i4")
    found = report(tiny_model, tmp_path / "packed", answer_tokens=300)
    assert found["tokens"] >= 300 and 0 < found["divergence"] < 1 and 0.5 < found["agreement"] < 1
    assert found["perplexity_change"] == found["perplexity"] / found["reference_perplexity"] - 1
    assert "top-1 agreement" in described(found)


def test_models_of_two_vocabularies_cannot_be_compared(tiny_model: Path) -> None:
    with pytest.raises(ConfigError, match="vocabulary"):
        report("nano", tiny_model)
