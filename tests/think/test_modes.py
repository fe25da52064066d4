"""What each mode says to the model, and what it tells the engine."""

import json
from random import Random

import pytest

from fathom import tasks
from fathom.config import find_model
from fathom.errors import InputError
from fathom.think.modes import OWN_STYLE, Mode
from fathom.tokenizer import Tokenizer, encode_chat

PROBLEM = tasks.draw("chain", 1, "test", Random(0))
QUESTION = [{"role": "user", "content": PROBLEM.prompt}]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load(find_model("nano"))


@pytest.fixture(scope="module")
def obedient(tokenizer: Tokenizer) -> Tokenizer:
    """The same for a model that was trained to obey."""
    return Tokenizer(tokenizer.files()["tokenizer.json"], tokenizer.settings | {"obeys_effort": True})


@pytest.fixture(scope="module")
def wilful(tokenizer: Tokenizer) -> Tokenizer:
    """The same for a model that was not."""
    return Tokenizer(tokenizer.files()["tokenizer.json"], tokenizer.settings | {"obeys_effort": False})


def asked_with(tokenizer: Tokenizer, line: str) -> list[int]:
    return encode_chat(tokenizer, [{"role": "system", "content": line}, *QUESTION], thinking=True)


def test_own_style_asks_and_limits_nothing(obedient: Tokenizer) -> None:
    assert Mode.effort("own") == OWN_STYLE
    assert OWN_STYLE.prompt(obedient, PROBLEM) == encode_chat(obedient, QUESTION, thinking=True)
    assert OWN_STYLE.params(obedient) is None


def test_no_effort_answers_at_once(obedient: Tokenizer) -> None:
    mode = Mode.effort("none")
    assert mode.prompt(obedient, PROBLEM) == encode_chat(obedient, QUESTION, thinking=False)
    assert mode.params(obedient) is None and mode.asked is None


def test_a_budget_is_asked_of_those_who_obey_and_enforced_on_all(obedient: Tokenizer, wilful: Tokenizer) -> None:
    mode = Mode.budget(96)
    assert mode.prompt(obedient, PROBLEM) == asked_with(obedient, "budget 96")
    assert mode.prompt(wilful, PROBLEM) == OWN_STYLE.prompt(wilful, PROBLEM)
    params = mode.params(wilful)
    assert params is not None and (params.budget_tokens, params.end_think_id) == (96, wilful.end_think_id)


def test_an_effort_is_the_budget_that_the_server_gives_it(obedient: Tokenizer) -> None:
    low, most = Mode.effort("low"), Mode.effort("max")
    assert low.prompt(obedient, PROBLEM) == Mode.budget(64).prompt(obedient, PROBLEM)
    assert (low.limit, low.asked) == (64, 64)
    assert most.params(obedient) is None and most.prompt(obedient, PROBLEM) != OWN_STYLE.prompt(obedient, PROBLEM)


def test_asking_alone_enforces_nothing(wilful: Tokenizer) -> None:
    mode = Mode.asked_for(96)
    assert mode.prompt(wilful, PROBLEM) == asked_with(wilful, "budget 96")
    assert mode.params(wilful) is None and mode.asked == 96


def test_force_alone_says_nothing(obedient: Tokenizer) -> None:
    mode = Mode.forced(0)
    assert mode.prompt(obedient, PROBLEM) == OWN_STYLE.prompt(obedient, PROBLEM)
    params = mode.params(obedient)
    assert params is not None and params.budget_tokens == 0 and mode.asked is None


def test_bad_modes_are_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match="effort is 'huge'"):
        Mode.effort("huge")
    with pytest.raises(InputError, match="at least 1"):
        Mode.budget(0)
    with pytest.raises(InputError, match="at least 0"):
        Mode.forced(-1)
    table = json.loads(tokenizer.files()["tokenizer.json"])
    table["added_tokens"] = [token for token in table["added_tokens"] if token["content"] != "</think>"]
    mute = Tokenizer(json.dumps(table).encode(), tokenizer.settings)
    with pytest.raises(InputError, match="no </think> token"):
        Mode.forced(8).params(mute)
