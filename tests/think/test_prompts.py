"""Every family asks, from the test split, the same questions for the same seed."""

from fathom import tasks
from fathom.think.prompts import task_prompts
from fathom.tokenizer import Tokenizer


def test_each_family_asks_as_often(tiny_model) -> None:
    tokenizer = Tokenizer.load(tiny_model)
    found = task_prompts(tokenizer, 3)
    assert list(found) == list(tasks.FAMILIES)
    assert all(len(prompts) == 3 and all(prompts) for prompts in found.values())
    assert found == task_prompts(tokenizer, 3, seed=0) != task_prompts(tokenizer, 3, seed=1)
