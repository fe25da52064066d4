"""Worked problems as a model reads them: the prompt in its chat form, reasoning, reply. To calibrate and to measure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from random import Random

from fathom import tasks
from fathom.errors import InputError
from fathom.tasks import Problem
from fathom.tokenizer import Tokenizer, encode_chat

DIRECT_EVERY = 6  # of so many rounds one is answered without thinking, about as in training


@dataclass(frozen=True)
class Dialogue:
    """Token ids of one question, and of what the assistant should say to it, end of sequence included."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]


def dialogues(
    tokenizer: Tokenizer, split: str, answer_tokens: int, seed: int = 0, longest: int = 100_000
) -> list[Dialogue]:
    """Problems of every family and level of a split in turn, until their answers have so many tokens.

    Args:   longest: tokens of a prompt and its answer, at most; longer dialogues are passed over.
    Raises: InputError: nearly all are longer.
    """
    made: list[Dialogue] = []
    rng, held = Random(f"{seed}/{split}"), 0
    for number, (problem, thinking) in enumerate(_rounds(split, rng)):
        if held >= answer_tokens:
            break
        if number > 100 * (len(made) + 1):
            raise InputError(f"a context of {longest} tokens holds hardly a problem of fathom.tasks; use a larger one.")
        dialogue = _dialogue(tokenizer, problem, thinking)
        if len(dialogue.prompt) + len(dialogue.answer) <= longest:
            made.append(dialogue)
            held += len(dialogue.answer)
    return made


def _rounds(split: str, rng: Random) -> Iterator[tuple[Problem, bool]]:
    for number in count(1):
        for family, task in tasks.FAMILIES.items():
            for level in task.levels:
                yield tasks.draw(family, level, split, rng), number % DIRECT_EVERY != 0


def _dialogue(tokenizer: Tokenizer, problem: Problem, thinking: bool) -> Dialogue:
    prompt = encode_chat(tokenizer, [{"role": "user", "content": problem.prompt}], thinking=thinking)
    answer = tokenizer.encode(problem.reply)
    if thinking and tokenizer.end_think_id is not None:
        answer = [*tokenizer.encode(problem.trace), tokenizer.end_think_id, *answer]
    if tokenizer.eos_id is not None:
        answer = [*answer, tokenizer.eos_id]
    return Dialogue(tuple(prompt), tuple(answer))
