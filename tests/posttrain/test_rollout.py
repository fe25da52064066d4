"""Rollouts: a function of weights and seeds, with log-probabilities that reading the whole text gives again."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fathom.errors import ConfigError
from fathom.model import Transformer, init_weights
from fathom.posttrain.prompts import draw_prompt
from fathom.posttrain.rollout import Actor, RolloutConfig, Trial, read_answer, seed_of
from fathom.posttrain.scoring import Twin
from tests.posttrain.grpo_tiny import PROBLEMS, tiny, tokenizer

CONFIG = RolloutConfig(groups=3, samples=4, max_tokens=12, at_once=8)
PROMPTS = [draw_prompt(PROBLEMS, tokenizer(), f"0/0/0/{i}") for i in range(3)]
SEEDS = [seed_of(f"{i}") for i in range(3)]
EOS = (tokenizer().eos_id,)


def actor(**changes) -> Actor:
    return Actor(Twin(tiny().config, tiny().state_dict(), 1), replace(CONFIG, **changes), EOS)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("spec", ["off", "2"])
def test_the_engines_numbers_are_those_of_reading_to_the_bit(temperature: float, spec: str) -> None:
    one = actor(temperature=temperature, spec=spec)
    trials = [trial for group in one.generate(PROMPTS, SEEDS) for trial in group]
    assert len(trials) == 12
    for trial, scored in zip(trials, one.twin.score(trials, temperature), strict=True):
        assert list(trial.logprobs) == scored.plain.tolist()


def test_answers_depend_on_weights_and_seeds_alone() -> None:
    whole = actor().generate(PROMPTS, SEEDS)
    assert actor(at_once=2, spec="off").generate(PROMPTS, SEEDS) == whole
    assert actor().generate(PROMPTS[1:2], SEEDS[1:2]) == whole[1:2]
    assert actor().generate(PROMPTS, SEEDS[::-1]) != whole
    assert len({trial.token_ids for trial in whole[0]}) == 4


def test_new_weights_answer_for_themselves() -> None:
    """What the old ones have cached of the same prompts is not read."""
    other = init_weights(Transformer(tiny().config), std=0.15, seed=2).state_dict()
    one = actor()
    before = one.generate(PROMPTS, SEEDS)
    one.take(other)
    after = one.generate(PROMPTS, SEEDS)
    assert after != before
    assert after == Actor(Twin(tiny().config, other, 1), CONFIG, EOS).generate(PROMPTS, SEEDS)


def test_stopped_rollouts_leave_nothing_running() -> None:
    one, asked = actor(), iter([False, False, True])
    assert one.generate(PROMPTS, SEEDS, lambda: next(asked)) is None
    assert not one.engine.has_work
    assert one.generate(PROMPTS, SEEDS) == actor().generate(PROMPTS, SEEDS)


def test_guesses_are_counted() -> None:
    one = actor(spec="1")
    one.generate(PROMPTS, SEEDS)
    drafted, accepted = one.guesses()
    assert drafted > 0 and 0 <= accepted <= drafted


def answer_of(text: list[int | str], prompt=PROMPTS[0], finish="stop"):
    ids: list[int] = []
    for part in text:
        ids += [part] if isinstance(part, int) else tokenizer().encode(part)
    return read_answer(Trial(prompt, tuple(ids), (0.0,) * len(ids), finish), tokenizer(), EOS)


THINKING = next(
    prompt for prompt in PROMPTS + [draw_prompt(PROBLEMS, tokenizer(), f"{i}") for i in range(9)] if prompt.thinking
)
DIRECT = next(
    prompt for prompt in [draw_prompt(PROBLEMS, tokenizer(), f"{i}") for i in range(30)] if not prompt.thinking
)
THINK, END = tokenizer().think_id, tokenizer().end_think_id


def test_a_trial_is_parted_at_the_first_end_of_thought() -> None:
    one = answer_of(["2+2=4", END, "4", EOS[0]], THINKING)
    assert (one.thought, one.reply, one.closed, one.controls) == ("2+2=4", "4", 1, 0)
    assert one.tokens == 8 - (8 - len(tokenizer().encode("2+2=4")) - 3) and one.thought_tokens == one.tokens - 3
    twice = answer_of(["a", END, "4", END, "5", EOS[0]], THINKING)
    assert twice.closed == 2 and twice.reply == "4</think>5"
    reopened = answer_of(["a", END, "4", THINK, "5", EOS[0]], THINKING)
    assert (reopened.closed, reopened.controls, reopened.reply) == (1, 1, "4<think>5")
    endless = answer_of(["4"], THINKING, "length")
    assert (endless.thought, endless.reply, endless.closed) == ("4", "", 0)


def test_only_the_last_end_of_sequence_is_taken_off() -> None:
    bos = tokenizer().bos_id
    one = answer_of(["a", END, "4", bos, EOS[0]], THINKING)
    assert one.controls == 1 and one.reply == "4" + tokenizer().decode([bos])


def test_ends_of_thought_spelled_as_text_close_nothing() -> None:
    one = answer_of(["a</think>4", EOS[0]], THINKING)
    assert (one.closed, one.reply) == (0, "") and one.thought == "a</think>4"


def test_direct_answers_are_all_reply() -> None:
    one = answer_of(["4", EOS[0]], DIRECT)
    assert (one.thought, one.reply, one.closed, one.thought_tokens, one.thinking) == ("", "4", 0, 0, False)
    assert answer_of(["4", END, "5", EOS[0]], DIRECT).closed == 1


def test_seeds_are_of_names() -> None:
    assert seed_of("1/2/3/4") == seed_of("1/2/3/4") != seed_of("1/2/3/5")
    assert all(seed_of(str(i)) in range(2**63) for i in range(99))


@pytest.mark.parametrize("changes", [{"samples": 1}, {"groups": 0}, {"temperature": 0.0}, {"resample": -1}])
def test_refused(changes: dict) -> None:
    with pytest.raises(ConfigError, match="must be"):
        RolloutConfig(**changes)


def test_scores_are_float64() -> None:
    assert actor().twin.score(actor().generate(PROMPTS[:1], SEEDS[:1])[0])[0].plain.dtype == torch.float64
