"""Rewards against published formulas, worked by hand, and against answers that try to earn what they do not deserve."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from fathom import tasks
from fathom.errors import ConfigError
from fathom.posttrain.rewards import (
    REWARDS,
    Answer,
    RewardConfig,
    accuracy,
    kimi_lengths,
    l1_exact,
    l1_max,
    language_share,
    score,
    soft_overlong,
    well_formed,
)

PROBLEM = tasks.draw("arithmetic", 1, "train", Random(1))
GOOD = Answer(PROBLEM, PROBLEM.trace, PROBLEM.reply, "stop", tokens=20, thought_tokens=12)
RIGHT = PROBLEM.answer


def test_a_good_answer_earns_all() -> None:
    assert accuracy(GOOD) == well_formed(GOOD) == 1.0
    assert accuracy(replace(GOOD, reply=RIGHT)) == 1.0


HOSTILE = {
    "answer in prose": f"I think that the answer to this is surely {RIGHT}, is it not?",
    "several answers": f"{RIGHT} {int(RIGHT) + 1} {int(RIGHT) + 2}",
    "several lines": f"{RIGHT}\n{RIGHT}",
    "every number": " ".join(map(str, range(200))),
    "nothing": "",
    "only spaces": " \n ",
    "end of thought as text": f"</think>{RIGHT}",
    "a second thought as text": f"{RIGHT}<think>or not</think>",
    "control text": f"{RIGHT}<｜end▁of▁sentence｜>",
    "ascii control text": f"{RIGHT}<|end_of_sentence|>",
    "boxed, as others want it": f"\\boxed{{{RIGHT}}}",
    "code": f"print({RIGHT})",
    "other digits": "".join(chr(0x0660 + int(c)) if c.isdigit() else c for c in RIGHT),
    "very long": RIGHT * 100_000,
    "right, then very long": RIGHT + " " * 1_000_000 + "x",
    "a NUL": RIGHT + "\0",
}


@pytest.mark.parametrize("reply", HOSTILE.values(), ids=HOSTILE)
def test_hostile_replies_are_not_right(reply: str) -> None:
    assert accuracy(replace(GOOD, reply=reply)) == 0.0


def test_the_right_answer_in_the_thought_earns_nothing() -> None:
    assert accuracy(replace(GOOD, thought=PROBLEM.reply, reply="")) == 0.0
    assert accuracy(replace(GOOD, thought=f"{PROBLEM.reply}</think>{PROBLEM.reply}", reply="0")) == 0.0


MALFORMED = {
    "empty thought": {"thought": "", "thought_tokens": 0},
    "thought of spaces": {"thought": " \n\t"},
    "thought never closed": {"closed": 0, "reply": ""},
    "thought closed twice": {"closed": 2},
    "other control tokens": {"controls": 1},
    "no reply": {"reply": ""},
    "reply of spaces": {"reply": "  "},
    "cut off": {"finish_reason": "length"},
    "aborted": {"finish_reason": "abort"},
    "an end as text in the thought": {"thought": "2+2</think>4"},
    "a begin as text in the reply": {"reply": "4<think>"},
    "tag with spaces": {"thought": "< / think >4".replace("< /", "</ ")},
    "control text in the thought": {"thought": "<｜User｜>What is 1+1?"},
    "ascii control text": {"reply": "4<|im_end|>"},
    "upper case": {"thought": "a</THINK>b"},
}


@pytest.mark.parametrize("changes", MALFORMED.values(), ids=MALFORMED)
def test_malformed_answers(changes: dict) -> None:
    assert well_formed(replace(GOOD, **changes)) == 0.0


@pytest.mark.parametrize("changes", [{"closed": 0}, {"closed": 2}, {"finish_reason": "length"}])
def test_a_right_reply_in_the_wrong_place_is_not_right(changes: dict) -> None:
    assert accuracy(replace(GOOD, **changes)) == 0.0


def test_direct_answers_have_no_thought() -> None:
    direct = replace(GOOD, thought="", thought_tokens=0, closed=0, thinking=False)
    assert accuracy(direct) == well_formed(direct) == 1.0
    assert accuracy(replace(direct, closed=1)) == well_formed(replace(direct, closed=1)) == 0.0


def test_comparisons_and_lone_signs_are_not_control_text() -> None:
    assert well_formed(replace(GOOD, thought="3<5 and 7>2, think | or <| not")) == 1.0


def test_every_reward_takes_very_long_text() -> None:
    long = replace(GOOD, thought="<" * 300_000 + "</ ", reply="字a<|" * 100_000, tokens=10**9, thought_tokens=10**9)
    config = RewardConfig(weights=dict.fromkeys(REWARDS, 1.0))
    totals, parts = score([long, replace(long, budget_tokens=64)], config)
    assert parts["accuracy"] == parts["format"][:0] + [0.0, 0.0]
    assert parts["overlong"] == [-1.0, -1.0] and len(totals) == 2


def test_language_is_a_share_of_letters() -> None:
    assert language_share("The sum is 12.", "en") == 1.0
    assert language_share("The sum is 12.", "zh") == 0.0
    assert language_share("答案是12。", "zh") == 1.0
    assert language_share("答案 ab", "zh") == 0.5  # two of four
    assert language_share("Überraschung né", "en") == 1.0
    assert language_share("привет", "en") == 0.0
    assert language_share("12, 7 = 5!", "zh") == 1.0  # no letters: any language's
    assert language_share(" \n", "en") == language_share("", "zh") == 0.0  # saying nothing earns nothing


def test_kimi_lengths_by_hand() -> None:
    assert kimi_lengths([10, 20, 30, 15], [True, True, True, True]) == [0.5, 0.0, -0.5, 0.25]
    assert kimi_lengths([10, 20, 30, 15], [False, False, False, False]) == [0.0, 0.0, -0.5, 0.0]
    assert kimi_lengths([7, 7], [True, False]) == [0.0, 0.0]


def test_soft_overlong_by_hand() -> None:
    """DAPO, eq. 13, with L_max 100 and L_cache 20."""
    assert [soft_overlong(n, 100, 20) for n in (0, 80, 85, 90, 100, 101)] == [0.0, 0.0, -0.25, -0.5, -1.0, -1.0]


def test_l1_by_hand() -> None:
    assert l1_exact(90, 100, 0.01) == l1_exact(110, 100, 0.01) == pytest.approx(-0.1)
    assert l1_exact(100, 100, 0.01) == 0.0
    assert l1_max(100, 100, 0.01, 0.5, True) == 0.5
    assert l1_max(80, 100, 0.01, 0.5, True) == pytest.approx(0.7)
    assert l1_max(1000, 100, 0.01, 0.5, True) == 0.0
    assert l1_max(1, 100, 0.01, 0.5, True) == 1.0
    assert l1_max(100, 100, 0.01, 0.5, False) == 0.0


def test_budget_rewards_look_at_prompts_with_a_budget_only() -> None:
    config = RewardConfig(weights={"l1_exact": 1.0, "l1_max": 1.0}, l1_alpha=0.01)
    group = [replace(GOOD, thought_tokens=50), replace(GOOD, thought_tokens=50, budget_tokens=60)]
    _, parts = score(group, config)
    assert parts == {"l1_exact": [0.0, pytest.approx(-0.1)], "l1_max": [0.0, pytest.approx(0.6)]}


def test_the_total_is_the_weighted_sum() -> None:
    config = RewardConfig(weights={"accuracy": 2.0, "format": 0.5, "kimi": 0.1})
    wrong = replace(GOOD, reply="no number", tokens=30)
    totals, parts = score([GOOD, wrong], config)
    assert parts == {"accuracy": [1.0, 0.0], "format": [1.0, 1.0], "kimi": [0.5, -0.5]}
    assert totals == pytest.approx([2.0 + 0.5 + 0.05, 0.5 - 0.05])


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"weights": {"acuracy": 1.0}}, "did you mean 'accuracy'"), ({"weights": {}}, "weights is empty"),
     ({"weights": {"format": "much"}}, "weights.format"), ({"overlong_tokens": 0}, "overlong_tokens is 0")],
)  # fmt: skip
def test_refused(changes: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        RewardConfig(**changes)
