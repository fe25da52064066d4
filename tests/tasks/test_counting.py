"""Counting: the trace names every element with its place and the count, strict answers."""

from __future__ import annotations

from random import Random

import pytest

from fathom.tasks.counting import (
    LIST_LENGTHS,
    LIST_TEMPLATES,
    LIST_TEMPLATES_ZH,
    WORD_LENGTHS,
    WORD_TEMPLATES,
    WORD_TEMPLATES_ZH,
    Counting,
)
from fathom.tasks.task import Problem
from fathom.tasks.words import LETTERS, WORDS
from fathom.tokenizer.split import pre_tokenizer

TASK = Counting()
PROBLEM = Problem("counting", 3, "counting r in strawberry", "", "", "", "3")


@pytest.mark.parametrize("level", TASK.levels)
def test_the_trace_spells_the_elements_and_counts_the_hits(level):
    rng = Random(level)
    for _ in range(500):
        sample = TASK.sample(rng, level)
        _, wanted, _, elements = sample.key.split(" ")
        shortest, longest = (LIST_LENGTHS if elements.isdigit() else WORD_LENGTHS)[level]
        assert shortest <= len(elements) <= longest
        count = 0
        for place, line in enumerate(sample.trace.split("\n"), start=1):
            count += elements[place - 1] == wanted
            joint = ":" if elements.isdigit() else ""
            assert line == f"{place}{joint}{elements[place - 1]} {count}"
        assert place == len(elements)
        assert sample.answer == str(count)
        assert sample.reply.endswith(" time." if count == 1 else " times.")


def test_words_lists_absences_and_every_wording_occur():
    rng = Random(0)
    samples = [TASK.sample(rng, 2, language) for language in ("en", "zh") for _ in range(1000)]
    elements = [sample.key.split(" ")[3] for sample in samples]
    assert sum(element in WORDS for element in elements) > 500
    assert sum(element.isalpha() and element not in WORDS for element in elements) > 100
    assert sum(element.isdigit() for element in elements) > 400
    assert {"0", "1", "2", "3"} <= {sample.answer for sample in samples}
    for template in WORD_TEMPLATES + LIST_TEMPLATES + WORD_TEMPLATES_ZH + LIST_TEMPLATES_ZH:
        assert any(_matches(template, sample) for sample in samples), template


def _matches(template: str, sample: Problem) -> bool:
    _, wanted, _, elements = sample.key.split(" ")
    lists = [joint.join(elements) for joint in (", ", " ", "，", "、")]
    return any(sample.prompt == template.format(x=wanted, word="-".join(elements), list=shown) for shown in lists)


@pytest.mark.parametrize(
    "text", ["3", "3.", "The letter r appears 3 times.", "3 times", "r appears 3 times", "r出现3次。", "3次"]
)
def test_right_forms(text):
    assert TASK.check(PROBLEM, text)


@pytest.mark.parametrize(
    "text",
    ["2", "33", "03", "three", "The letter s appears 3 times.", "The letter r appears 2 times.", "3 or 2", "r: 3",
     "The letter r appears 3 times, no, 2 times.", "rrr",
     "s出现3次", "r出现2次", "r出现三次", "r出现3", "次3", "r出现3次次", "出现3次", "３次"],
)  # fmt: skip
def test_wrong_forms(text):
    assert not TASK.check(PROBLEM, text)


def test_the_checker_does_not_trust_the_solver():
    assert not TASK.check(Problem("counting", 1, "counting a in cat", "", "", "", "2"), "2")


def test_a_test_counts_from_the_end():
    problem = Problem("counting", 1, "counting e in bee", "", "", "", "2")
    assert TASK.verify(problem, "2") == "3e 1\n2e 2\n1b 2\n2=2\nok"
    assert TASK.verify(problem, "The letter e appears 1 time.") == "3e 1\n2e 2\n1b 2\n2>1\nno"
    assert TASK.verify(problem, "The letter b appears 2 times.") == "no"


def test_slips_miss_drop_or_add_a_hit():
    problem = Problem("counting", 1, "counting e in bee", "", "", "", "2")
    found = {TASK.slip(Random(seed), problem) for seed in range(60)}
    assert found == {
        ("1b 1\n2e 2\n3e 3", "3"),
        ("1b 0\n2e 0\n3e 1", "1"),
        ("1b 0\n2e 1\n3e 1", "1"),
        ("1b 0\n2e 1", "1"),
    }


@pytest.mark.parametrize("element", LETTERS + "0123456789")
def test_an_element_of_a_trace_is_a_word_of_its_own_before_any_merge(element):
    problem = Problem("counting", 1, f"counting {element} in {element}", "", "", "", "1")
    line = TASK.verify(problem, "1").partition("\n")[0]
    words = [word for word, _ in pre_tokenizer(1).pre_tokenize_str(line)]
    assert [word for word in words if word != ":"] == ["1", element, "Ġ", "1"]
