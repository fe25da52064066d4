"""The parts that all tasks share."""

from __future__ import annotations

import re
from random import Random

import pytest

from fathom.errors import InputError
from fathom.tasks import FAMILIES
from fathom.tasks.task import (
    MAX_ANSWER_CHARACTERS,
    final_line,
    require_language,
    require_level,
    stated,
    verdict,
    wording,
)

NUMBER = re.compile("[0-9]+")
SUM = {"en": "The sum is {}.", "zh": "和是{}。"}


def test_outer_space_and_a_full_stop_do_not_matter():
    assert final_line(" 12.\n") == "12"
    assert final_line("3 × 4") == "3 * 4"
    assert final_line("12。") == "12"
    assert final_line("12..") == final_line("12.。") == "12."


def test_only_the_characters_that_a_form_needs_are_read():
    assert final_line("结果是4。", "结果是") == "结果是4"
    assert final_line("结果是4。", "结果") is None
    assert final_line("结果是四。", "结果是") is None
    assert final_line("结果是４", "结果是") is None


def test_a_verdict_names_both_numbers():
    assert verdict(4, 4) == ["4=4", "ok"]
    assert verdict(3, 4) == ["3<4", "no"]
    assert verdict(5, 4) == ["5>4", "no"]


def test_what_the_words_draw_does_not_move_the_problems():
    one, two = Random(1), Random(1)
    first, second = wording(one), wording(two)
    assert first.random() == second.random()
    first.random()
    assert one.random() == two.random()


@pytest.mark.parametrize("text", ["12", " 12.\n", "12。", "The sum is 12.", "The sum is 12", "和是12。"])
def test_an_answer_may_stand_alone_or_in_the_reply_of_a_language(text):
    assert stated(text, SUM, NUMBER) == "12"


@pytest.mark.parametrize(
    "text", ["The sum is The sum is 12.", "和是The sum is 12.", "12 The sum is", "和12", "12.。", "the sum is 12"]
)
def test_a_reply_is_taken_off_once_and_whole(text):
    assert stated(text, SUM, NUMBER) is None


@pytest.mark.parametrize("text", ["x" * (MAX_ANSWER_CHARACTERS + 1), "１２", "²", "12\u200b"])
def test_long_and_foreign_text_is_no_answer(text):
    assert final_line(text) is None


def test_a_missing_level_is_refused_with_the_levels_there_are():
    with pytest.raises(InputError, match="level is 9; chain has the levels 1 to 4"):
        require_level(FAMILIES["chain"], 9)


def test_a_missing_language_is_refused_with_the_languages_there_are():
    with pytest.raises(InputError, match="language is 'de'; it must be one of en, zh"):
        require_language("de")
