"""What each mode says to the model, and what it tells the engine."""

import json
from random import Random

import pytest

from fathom import tasks
from fathom.config import find_model
from fathom.errors import InputError
from fathom.think.modes import ANSWER_TOKENS, OWN_STYLE, Mode
from fathom.think.steering import share, steer
from fathom.tokenizer import Tokenizer, encode_chat

PROBLEM = tasks.draw("chain", 1, "test", Random(0))
QUESTION = [{"role": "user", "content": PROBLEM.prompt}]
CONTEXT, MOST = 512, 400


@pytest.fixture(scope="module")
def obedient() -> Tokenizer:
    """Of a model that was trained to obey."""
    tokenizer = Tokenizer.load(find_model("nano"))
    return Tokenizer(tokenizer.files()["tokenizer.json"], tokenizer.settings | {"obeys_effort": True})


@pytest.fixture(scope="module")
def wilful(obedient: Tokenizer) -> Tokenizer:
    """The same of a model that was not."""
    return Tokenizer(obedient.files()["tokenizer.json"], obedient.settings | {"obeys_effort": False})


def asked_with(tokenizer: Tokenizer, line: str) -> list[int]:
    return encode_chat(tokenizer, [{"role": "system", "content": line}, *QUESTION], thinking=True)


def ask(mode: Mode, tokenizer: Tokenizer, most: int = MOST):
    return mode.ask(tokenizer, CONTEXT, PROBLEM, most)


def plain(tokenizer: Tokenizer) -> list[int]:
    return encode_chat(tokenizer, QUESTION, thinking=True)


def test_own_style_asks_and_limits_nothing(obedient: Tokenizer) -> None:
    assert ask(OWN_STYLE, obedient) == (plain(obedient), None)


def test_no_effort_answers_at_once_and_may_not_open_a_thought(obedient: Tokenizer) -> None:
    prompt, thinking = ask(Mode.effort("none"), obedient)
    assert prompt == encode_chat(obedient, QUESTION, thinking=False)
    assert thinking is not None and thinking.think_id == obedient.think_id
    assert Mode.effort("none").asked is None


def test_a_budget_is_asked_of_those_who_obey_and_enforced_on_all(obedient: Tokenizer, wilful: Tokenizer) -> None:
    mode = Mode.budget(96)
    assert ask(mode, obedient)[0] == asked_with(obedient, "budget 96")
    assert ask(mode, wilful)[0] == plain(wilful)
    for tokenizer in (obedient, wilful):
        thinking = ask(mode, tokenizer)[1]
        assert thinking is not None
        assert (thinking.budget_tokens, thinking.end_think_id) == (96, tokenizer.end_think_id)


@pytest.mark.parametrize("effort", ["none", "low", "medium", "high", "max"])
def test_an_effort_is_what_the_server_makes_of_it(effort: str, obedient: Tokenizer, wilful: Tokenizer) -> None:
    for tokenizer in (obedient, wilful):
        how = steer(tokenizer, CONTEXT, effort)
        messages = [{"role": "system", "content": how.line}, *QUESTION] if how.line else QUESTION
        prompt = encode_chat(tokenizer, messages, thinking=how.thinking)
        limit = share(how, tokenizer, prompt, MOST, most=MOST, answer_tokens=ANSWER_TOKENS)[1]
        assert ask(Mode.effort(effort), tokenizer) == (prompt, limit)


def test_asking_alone_enforces_nothing(wilful: Tokenizer) -> None:
    assert ask(Mode.asked_for(96), wilful) == (asked_with(wilful, "budget 96"), None)
    assert Mode.asked_for(96).asked == 96


def test_force_alone_says_nothing(obedient: Tokenizer) -> None:
    for tokens in (0, 50):
        prompt, thinking = ask(Mode.forced(tokens), obedient)
        assert prompt == plain(obedient) and thinking is not None and thinking.budget_tokens == tokens
    assert Mode.forced(50).asked is None


def test_bad_modes_are_refused(obedient: Tokenizer) -> None:
    with pytest.raises(InputError, match="effort is 'huge'"):
        Mode.effort("huge")
    with pytest.raises(InputError, match="at least 1"):
        Mode.budget(0)
    with pytest.raises(InputError, match="at least 0"):
        Mode.forced(-1)
    table = json.loads(obedient.files()["tokenizer.json"])
    table["added_tokens"] = [token for token in table["added_tokens"] if token["content"] != "</think>"]
    mute = Tokenizer(json.dumps(table).encode(), obedient.settings)
    with pytest.raises(InputError, match="no </think> token"):
        ask(Mode.forced(8), mute)
