"""Prompts of every family of tasks, as a person types them, ready for an engine."""

from __future__ import annotations

from random import Random

from fathom import tasks
from fathom.tokenizer import Tokenizer, encode_chat


def task_prompts(tokenizer: Tokenizer, count: int, seed: int = 0) -> dict[str, list[list[int]]]:
    """Token ids of `count` problems of each family, from the test split, levels in turn; asked with thinking."""
    found = {}
    for family, task in tasks.FAMILIES.items():
        rng = Random(f"{seed}/{family}")
        problems = [tasks.draw(family, task.levels[i % len(task.levels)], "test", rng) for i in range(count)]
        asked = [[{"role": "user", "content": problem.prompt}] for problem in problems]
        found[family] = [list(encode_chat(tokenizer, messages, thinking=True)) for messages in asked]
    return found
