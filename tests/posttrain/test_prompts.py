"""Prompts: by shares, from the train split, the same for the same name."""

from __future__ import annotations

from collections import Counter

import pytest

from fathom import tasks
from fathom.errors import ConfigError, InputError
from fathom.posttrain.prompts import ProblemConfig, draw_prompt
from tests.posttrain.grpo_tiny import tokenizer

MIXED = ProblemConfig(
    levels={"arithmetic": [1, 2], "chain": [1]}, shares={"chain": 3.0},
    controls={"budget": 0.25, "reflect": 0.25, "direct": 0.25}, budgets=(32, 64),
)  # fmt: skip


def test_equal_names_give_equal_prompts_and_others_do_not() -> None:
    drawn = [draw_prompt(MIXED, tokenizer(), f"1/{i}/0/0") for i in range(20)]
    assert drawn == [draw_prompt(MIXED, tokenizer(), f"1/{i}/0/0") for i in range(20)]
    assert len({prompt.token_ids for prompt in drawn}) > 15


def test_shares_and_split() -> None:
    drawn = [draw_prompt(MIXED, tokenizer(), f"{i}") for i in range(400)]
    assert {tasks.split_of(prompt.problem.key) for prompt in drawn} == {"train"}
    families = Counter(prompt.problem.family for prompt in drawn)
    assert 260 < families["chain"] < 340 and families["arithmetic"] == 400 - families["chain"]
    controls = Counter(prompt.control for prompt in drawn)
    assert set(controls) == {"", "budget", "reflect", "direct"} and min(controls.values()) > 60
    levels = {(prompt.problem.family, prompt.problem.level) for prompt in drawn}
    assert levels == {("arithmetic", 1), ("arithmetic", 2), ("chain", 1)}


def test_control_lines_are_in_the_text() -> None:
    for i in range(60):
        prompt = draw_prompt(MIXED, tokenizer(), f"{i}")
        text = tokenizer().decode(prompt.token_ids)
        assert ("Check your work." in text) == (prompt.control == "reflect")
        assert (f"budget {prompt.budget_tokens}" in text) == (prompt.control == "budget")
        assert text.endswith("<think>") == prompt.thinking
        assert prompt.problem.prompt in text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"levels": {"cooking": [1]}}, "cooking"), ({"controls": {"loud": 0.5}}, "loud"),
        ({"controls": {"budget": 0.7, "direct": 0.7}}, "sum to 1.4"), ({"chinese": 2.0}, "chinese is 2"),
        ({"controls": {"budget": -0.1}}, "at least 0"), ({"budgets": (0,)}, "budgets is"),
        ({"budgets": ()}, "budgets is"),
    ],
)  # fmt: skip
def test_refused(changes: dict, said: str) -> None:
    with pytest.raises((ConfigError, InputError), match=said):
        ProblemConfig(**changes)
