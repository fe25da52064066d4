"""Prompts and replies in several languages: which wording is drawn, and what a text answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random

from fathom.tasks.task import MAX_ANSWER_CHARACTERS, Problem


def choose(rng: Random, wordings: Sequence[str]) -> str:
    """One of the wordings. Always one draw of `rng`, so that the problems after it do not depend on the language."""
    return wordings[int(rng.random() * len(wordings))]


def bare(problem: Problem, text: str, replies: Mapping[str, str]) -> str:
    """What `text` answers: itself, or what stands at {} if it has the reply's form; a closing full stop is free.

    Args: replies: language -> form, which ends in {} and a full stop, such as "The path is {}."
    Returns: the empty string if the text is too long to be an answer.
    """
    if len(text) > MAX_ANSWER_CHARACTERS:
        return ""
    before, after = replies[problem.language].split("{}")
    return text.strip(" \n").removesuffix(after).removeprefix(before)
