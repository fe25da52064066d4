"""Dialogues are worked problems of the split that was asked for, in the model's own form."""

from __future__ import annotations

import pytest

from fathom import tasks
from fathom.config import find_model
from fathom.errors import InputError
from fathom.think.dialogues import DIRECT_EVERY, dialogues
from fathom.tokenizer import Tokenizer

NANO = Tokenizer.load(find_model("nano"))


def test_they_have_as_many_answer_tokens_as_were_asked_for() -> None:
    made = dialogues(NANO, "test", 500)
    held = sum(len(each.answer) for each in made)
    assert 500 <= held < 500 + len(made[-1].answer)
    assert made == dialogues(NANO, "test", 500)
    assert made != dialogues(NANO, "test", 500, seed=1)
    assert dialogues(NANO, "test", 0) == []


def test_answers_think_and_end_as_the_model_does() -> None:
    levels = sum(len(task.levels) for task in tasks.FAMILIES.values())
    made = dialogues(NANO, "train", 10_000)
    assert len(made) > levels
    assert all(each.answer[-1] == NANO.eos_id for each in made)
    direct = [NANO.end_think_id not in each.answer for each in made]
    assert not any(direct[: (DIRECT_EVERY - 1) * levels])
    text = NANO.decode(made[0].prompt, skip_special=True)
    assert "?" in text or "." in text


def test_what_is_longer_than_the_context_is_passed_over() -> None:
    made = dialogues(NANO, "test", 500, longest=60)
    assert max(len(each.prompt) + len(each.answer) for each in made) <= 60
    with pytest.raises(InputError, match="a context of 5 tokens"):
        dialogues(NANO, "test", 500, longest=5)


def test_the_splits_share_no_problem() -> None:
    prompts = [{each.prompt for each in dialogues(NANO, split, 3000)} for split in ("train", "test")]
    assert not prompts[0] & prompts[1]
