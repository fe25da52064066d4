"""The parts that all tasks share."""

from __future__ import annotations

import pytest

from fathom.errors import InputError
from fathom.tasks import FAMILIES
from fathom.tasks.task import MAX_ANSWER_CHARACTERS, final_line, require_level, stated

SUM = {"en": "The sum is {}.", "zh": "和是{}。"}


def test_outer_space_and_a_full_stop_do_not_matter():
    assert final_line(" 12.\n") == "12"
    assert final_line("3 × 4") == "3 * 4"


@pytest.mark.parametrize("text", ["12", " 12.\n", "12。", "The sum is 12.", "The sum is 12", "和是12。"])
def test_an_answer_may_stand_alone_or_in_the_reply_of_a_language(text):
    assert stated(text, SUM) == "12"


@pytest.mark.parametrize(
    "text", ["The sum is The sum is 12.", "和是The sum is 12.", "12 The sum is", "和12", "12.。", "the sum is 12"]
)
def test_a_reply_is_taken_off_once_and_whole(text):
    assert stated(text, SUM) != "12"


@pytest.mark.parametrize("text", ["x" * (MAX_ANSWER_CHARACTERS + 1), "１２", "²", "12\u200b"])
def test_long_and_foreign_text_is_no_answer(text):
    assert final_line(text) is None


def test_a_missing_level_is_refused_with_the_levels_there_are():
    with pytest.raises(InputError, match="level is 9; chain has the levels 1 to 4"):
        require_level(FAMILIES["chain"], 9)
