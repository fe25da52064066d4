"""A reply that is cut anywhere and resumed from its emitted tokens goes on as if nothing had happened, to the bit.

Tokens, log-probabilities and the reason of the end: with temperatures, penalties, thinking budgets, stop tokens and
guesses ahead, in company of others that were cut too. First with a model that is a hash, then with real weights.
"""

from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fathom.engine.engine import Engine, EngineConfig
from tests.agreement.test_exact import drawn, packed
from tests.engine.hashing import Hashing
from tests.engine.test_speculative import alone, configs, params, prompts, replies
from tests.engine.tiny import request
from tests.ops.conftest import library, native  # noqa: F401


def cut(each, whole, at):
    """The request with the first `at` tokens of its reply, and what is to come of it."""
    tokens, logprobs, reasons = whole
    resumed = msgspec.structs.replace(each, emitted_token_ids=tuple(tokens[:at]))
    return resumed, (list(tokens[at:]), list(logprobs[at:]), list(reasons))


@settings(max_examples=60)
@given(
    configs,
    st.lists(st.tuples(prompts, params), min_size=1, max_size=5),
    st.sampled_from([0, 4, 7, 8]),
    st.randoms(use_true_random=False),
)
def test_many_cut_at_random_go_on_together(config, asked, right, rng):
    pairs = []
    for i, (prompt, each) in enumerate(asked):
        whole = alone(request(i, prompt, **each))
        pairs.append(cut(request(i, prompt, **each), whole, rng.randrange(len(whole[0]))))
    engine = Engine(Hashing(right), config=config, eos_token_ids=(7,))
    found = replies(engine, [resumed for resumed, _ in pairs])
    assert found == {resumed.id: rest for resumed, rest in pairs}
    assert engine.scheduler.pool.used == 0


@settings(max_examples=30)
@given(configs, prompts, params)
def test_one_cut_at_every_point_goes_on(config, prompt, asked):
    whole = alone(request("a", prompt, **asked))
    engine = Engine(Hashing(7), config=config, eos_token_ids=(7,))
    for at in range(len(whole[0])):
        resumed, rest = cut(request("a", prompt, **asked), whole, at)
        assert replies(engine, [resumed]) == {"a": rest}


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("kind", ["f32", "i8"])
def test_real_weights_cut_at_every_point(kind):
    rng = Random(11)
    requests = drawn(rng, 6)
    plain = EngineConfig(64, 1, num_pages=8, spec="off")
    wholes = {r.id: replies(Engine(packed(kind, 1), config=plain, eos_token_ids=(7,)), [r])[r.id] for r in requests}
    for spec in ("off", 3):
        config = EngineConfig(32, 4, page_tokens=3, num_pages=60, spec=spec)
        for cuts in range(14):
            pairs = [cut(r, wholes[r.id], min(cuts, len(wholes[r.id][0]) - 1)) for r in requests]
            engine = Engine(packed(kind, 2), config=config, eos_token_ids=(7,))
            found = replies(engine, [resumed for resumed, _ in pairs])
            assert found == {resumed.id: rest for resumed, rest in pairs}
