"""Wordings and reply forms."""

from __future__ import annotations

from random import Random

import pytest

from fathom.tasks.task import Problem
from fathom.tasks.wording import bare, choose

REPLIES = {"en": "The path is {}.", "zh": "路径是 {}。"}


def problem(language: str) -> Problem:
    return Problem("grid", 1, "grid", "", "", "", "11 12", language)


def test_the_number_of_wordings_does_not_move_the_generator():
    one, two = Random(3), Random(3)
    chosen = {choose(one, "abc") for _ in range(60)}, {choose(two, "abcdefg") for _ in range(60)}
    assert chosen == (set("abc"), set("abcdefg"))
    assert one.getstate() == two.getstate()


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("en", "The path is 11 12."),
        ("en", " The path is 11 12\n"),
        ("en", "11 12."),
        ("zh", "路径是 11 12。"),
        ("zh", "11 12"),
    ],
)
def test_the_answer_of_a_text(language, text):
    assert bare(problem(language), text, REPLIES) == "11 12"


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("en", "the path is 11 12."),
        ("en", "11 12.."),
        ("en", "The path is The path is 11 12."),
        ("en", "路径是 11 12。"),
        ("zh", "The path is 11 12."),
        ("zh", "11 12."),
        ("en", "11 12" + " " * 80),
    ],
)
def test_other_text_is_not_made_an_answer(language, text):
    assert bare(problem(language), text, REPLIES) != "11 12"
