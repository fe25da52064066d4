"""Early ends with a scripted model: which thoughts are cut and where, what is sure, what joins the group."""

from collections.abc import Sequence

import pytest

from fathom.batching import SamplingParams
from fathom.engine import Completion
from fathom.engine.llm import Timings, Usage
from fathom.posttrain.early import early_ends
from fathom.posttrain.filters import Candidate, Group, HeldOut, choose
from fathom.tasks import Problem
from fathom.tokenizer import Tokenizer

PROBLEM = Problem("arithmetic", 1, "arithmetic 17 + 25", "What is 17 + 25?", "a\nb\nc\nd", "17 + 25 = 42", "42")
GOOD = Candidate(PROBLEM, "a\nb\nc\nd", "17 + 25 = 42", tokens=30, finished=True)
PARAMS = SamplingParams(max_tokens=20, temperature=1.0)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["What is 17 + 25? = 0123456789 abcd"], 300, digits=1)


class Ends:
    """Replies to each prompt that ends a thought, in turn, what `replies` says after that thought."""

    def __init__(self, tokenizer: Tokenizer, replies: dict[str, list[str]]) -> None:
        self.tokenizer, self.replies, self.seeds = tokenizer, replies, []

    def generate(self, prompts: Sequence[Sequence[int]], params: Sequence[SamplingParams]) -> list[Completion]:
        self.seeds += [one.seed for one in params]
        counts: dict[str, int] = {}
        made = []
        for prompt in prompts:
            opened = list(prompt).index(self.tokenizer.special["<think>"])
            assert prompt[-1] == self.tokenizer.end_think_id
            thought = self.tokenizer.decode(prompt[opened + 1 : -1])
            text = self.replies[thought][counts.setdefault(thought, 0)]
            counts[thought] += 1
            ids = (*self.tokenizer.encode(text), self.tokenizer.eos_id)
            made.append(Completion(ids, text, "", "stop", Usage(len(prompt), len(ids), 0, 0), Timings(0.0, 0.0, 0.0)))
        return made


def test_a_thought_is_ended_after_shares_of_its_lines_and_is_sure_if_all_replies_are_right(tokenizer) -> None:
    model = Ends(tokenizer, {"a\nb": ["17 + 25 = 42", "17 + 25 = 41"], "a\nb\nc": ["42", "17 + 25 = 42"]})
    [group] = early_ends(model, [(GOOD,)], (0.5, 0.75), 2, PARAMS, seed=3)
    assert group[0] == GOOD
    assert [(one.thought, one.reply, one.early, one.sure) for one in group[1:]] == [
        ("a\nb", "17 + 25 = 42", True, False), ("a\nb\nc", "42", True, True),
    ]  # fmt: skip
    assert [one.tokens for one in group[1:]] == [
        len(tokenizer.encode(one.thought)) + len(tokenizer.encode(one.reply)) + 2 for one in group[1:]
    ]
    assert len(set(model.seeds)) == 4
    named = [name for _, name in choose(Group(group, 9.0, HeldOut(frozenset(), frozenset())), keep=1)]
    assert named == ["surplus", "unsure", None]


def test_groups_without_a_right_reply_and_thoughts_of_one_line_stay_as_they_are(tokenizer) -> None:
    wrong = Candidate(PROBLEM, "a\nb", "17 + 25 = 43", tokens=9, finished=True)
    short = Candidate(PROBLEM, "a", "17 + 25 = 42", tokens=9, finished=True)
    model = Ends(tokenizer, {})
    assert early_ends(model, [(wrong,), (short,)], (0.2, 0.9), 2, PARAMS, seed=3) == [(wrong,), (short,)]
    assert early_ends(model, [(GOOD,)], (0.5,), 2, PARAMS, seed=3, whole=["arithmetic"]) == [(GOOD,)]
    assert model.seeds == []


def test_an_early_end_has_no_vote() -> None:
    wrong = Candidate(PROBLEM, "a", "17 + 25 = 43", tokens=9, finished=True, early=True)
    assert Group((GOOD, wrong, wrong), 1.5, HeldOut(frozenset(), frozenset())).votes == {"right": 1}
