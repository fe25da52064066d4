"""Each filter on a reply that only it objects to; the vote, the ratio and the order by hand."""

from dataclasses import replace

import pytest

from fathom.posttrain.filters import (
    FILTERS,
    Candidate,
    Group,
    HeldOut,
    ballot,
    choose,
    loops,
    normal,
    runs,
    speaks,
)
from fathom.tasks import Problem, split_of

NOTHING = HeldOut(frozenset(), frozenset())
KEY = "arithmetic 17 + 25"  # of the train split
PROBLEM = Problem("arithmetic", 1, KEY, "What is 17 + 25?", "17+25 7+5=12 2\n1+2 1+2+1=4 42", "17 + 25 = 42", "42")
GOOD = Candidate(PROBLEM, PROBLEM.trace, PROBLEM.reply, tokens=20, finished=True)


def group(*candidates: Candidate, ratio: float = 1.5, held_out: HeldOut = NOTHING) -> Group:
    return Group(candidates, ratio, held_out)


def objecting(one: Candidate, of: Group) -> list[str]:
    return [name for name, objects in FILTERS.items() if objects(one, of)]


def test_the_key_used_here_is_of_the_train_split() -> None:
    assert split_of(KEY) == "train"


def test_nothing_speaks_against_a_good_reply() -> None:
    assert objecting(GOOD, group(GOOD)) == []
    assert choose(group(GOOD), keep=1) == [(GOOD, None)]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("unfinished", {"finished": False}),
        ("malformed", {"closings": 2}),
        ("malformed", {"closings": 0}),
        ("malformed", {"markers": 1}),
        ("malformed", {"thought": " \n"}),
        ("malformed", {"thought": "7+5=12\ufffd"}),
        ("repetitive", {"thought": "a\nb\na\nb\na\nb"}),
        ("wrong", {"reply": "17 + 25 = 43"}),
        ("wrong", {"reply": "It is 42, I think."}),
        ("unsure", {"early": True, "sure": False}),
        ("language", {"thought": "先算 7+5=12"}),
    ],
)
def test_each_filter_names_what_is_wrong(name: str, change: dict) -> None:
    bad = replace(GOOD, **change)
    right_ones = [GOOD, GOOD]  # they outvote it and are not outvoted
    assert choose(group(bad, *right_ones), keep=1)[0] == (bad, name)
    others = {"outvoted", "long"} if name in ("wrong", "unfinished") else {"long"}
    assert set(objecting(bad, group(bad, *right_ones))) - others == {name}


def test_a_lucky_reply_is_outvoted_by_the_same_wrong_answer_given_more_often() -> None:
    wrong = replace(GOOD, reply="17 + 25 = 32")
    assert [name for _, name in choose(group(GOOD, wrong, wrong), keep=1)] == ["outvoted", "wrong", "wrong"]
    assert objecting(GOOD, group(GOOD, wrong)) == []  # a tie is no majority
    other = replace(GOOD, reply="17 + 25 = 33")
    assert objecting(GOOD, group(GOOD, wrong, other)) == []  # they disagree with each other
    cut_off = replace(wrong, finished=False)
    assert objecting(GOOD, group(GOOD, cut_off, cut_off)) == []  # what did not finish has no vote


def test_right_answers_vote_together_however_they_put_it() -> None:
    countdown = Problem("countdown", 1, "countdown 2 3 4 > 24", "Use 2, 3 and 4 to make 24.", "", "", "")
    ones = [
        Candidate(countdown, "t", reply, 9, True) for reply in ("2 * 3 * 4 = 24", "4 * (2 * 3) = 24", "2 + 3 + 4 = 24")
    ]
    assert [ballot(one) for one in ones] == ["right", "right", "wrong: 2 + 3 + 4 = 24"]
    assert group(*ones).votes == {"right": 2, "wrong: 2 + 3 + 4 = 24": 1}


def test_length_is_measured_by_the_shortest_good_reply_of_the_group() -> None:
    ten, fifteen, sixteen = (replace(GOOD, tokens=n, thought=f"{n}") for n in (10, 15, 16))
    wrong_and_short = replace(GOOD, tokens=2, reply="17 + 25 = 43")
    found = choose(group(sixteen, wrong_and_short, fifteen, ten), keep=9)
    assert [name for _, name in found] == ["long", "wrong", None, None]
    assert group(wrong_and_short).shortest == 0


def test_the_shortest_are_kept_and_no_text_twice() -> None:
    a, b, c = (replace(GOOD, tokens=n, thought=t) for n, t in ((12, "a"), (10, "b"), (11, "c")))
    assert [name for _, name in choose(group(a, b, replace(b), c), keep=2)] == ["surplus", None, "duplicate", None]
    first, second = replace(GOOD, thought="x"), replace(GOOD, thought="y")
    assert [name for _, name in choose(group(first, second), keep=1)] == [None, "surplus"]  # equally long: the earlier


@pytest.mark.parametrize(
    ("thought", "looping"),
    [
        ("1\n1", False),
        ("1\n1\n1", True),
        ("x\n1\n2\n1\n2\n1\n2\ny", True),
        ("1\n2\n1\n2\n1\n3", False),
        ("\n".join("abcdefghijkl" * 3), True),  # a block of LOOP_LINES lines
        ("\n".join("abcdefghijklm" * 3), False),
        ("17+25 7+5=12 2\n1+2 1+2+1=4 42\ncheck\n42-25=17\nok", False),
    ],
)
def test_loops(thought: str, looping: bool) -> None:
    assert loops(thought) is looping


def test_a_reply_speaks_the_language_of_its_question() -> None:
    chinese = replace(PROBLEM, language="zh", prompt="单词 letter 里有几个 t?")
    assert speaks("42", PROBLEM) and speaks("42", chinese)
    assert speaks("letter 里有 2 个 t", chinese)  # words of the question
    assert not speaks("there are 2", chinese)
    assert speaks("There are 2.", PROBLEM)
    assert not speaks("有 2 个", PROBLEM)


def test_problems_of_other_splits_are_dropped_whatever_is_known_of_their_wording() -> None:
    key = next(k for i in range(999) if split_of(k := f"arithmetic {i} + 25") == "test")
    leaked = replace(GOOD, problem=replace(PROBLEM, key=key))
    assert choose(group(leaked), keep=1) == [(leaked, "held out")]


def test_a_prompt_that_repeats_a_held_out_one_is_dropped() -> None:
    held_out = HeldOut.of([replace(PROBLEM, key="another", prompt="what is  17 + 25")])
    assert choose(group(GOOD, held_out=held_out), keep=1) == [(GOOD, "held out")]
    assert choose(group(GOOD, held_out=HeldOut.of([replace(PROBLEM, prompt="What is 17 + 26?")])), keep=1) == [
        (GOOD, None)
    ]


def test_thirteen_words_in_a_row_give_one_held_out_problem_away_but_shared_wording_does_not() -> None:
    words = [str(i) for i in range(14)]
    assert normal("Add 3, then: 4.") == "add 3 then 4"
    assert runs(" ".join(words)) == {" ".join(words[:13]), " ".join(words[1:])}
    assert runs(" ".join(words[:12])) == set()
    one = replace(PROBLEM, key="one", prompt=" ".join(words))
    held_out = HeldOut.of([one])
    assert held_out.overlaps("so: " + " ".join(words[:13]))
    assert not held_out.overlaps("so: " + " ".join(words[:12]))
    other = replace(PROBLEM, key="two", prompt=" ".join([*words[:13], "x"]))
    assert not HeldOut.of([one, other]).overlaps("so: " + " ".join(words[:13]))
