"""Guessing ahead changes when tokens come, never which: held with `==` against a model that hashes all it has read."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fathom.batching.request import ThinkingParams
from fathom.engine.engine import Engine, EngineConfig
from fathom.engine.record import read_steps
from fathom.engine.replay import replay
from fathom.engine.runner import Runner
from fathom.errors import EngineError
from fathom.model import LatentCache, Transformer, init_weights
from tests.engine.hashing import HASHED, Hashing
from tests.engine.tiny import request, run

END_THINK = 40
PROMPT = (5, 9, 2, 7, 11, 3, 23, 1, 22)
ROOMY = EngineConfig(num_pages=64, page_tokens=4, spec="off")


def replies(engine, requests):
    """Per request: tokens, log-probabilities, finish reason."""
    found = {each.id: ([], [], []) for each in requests}
    for each in requests:
        engine.add(each)
    while engine.has_work:
        for output in engine.step():
            tokens, logprobs, reasons = found[output.request_id]
            tokens += output.token_ids
            logprobs += output.logprobs
            reasons += [output.finish_reason] if output.finish_reason else []
    return found


def alone(each):
    """What a request gets without company and without guesses."""
    return replies(Engine(Hashing(), config=ROOMY, eos_token_ids=(7,)), [each])[each.id]


params = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.0, 0.7, 1.2]),
        "max_tokens": st.integers(1, 20),
        "seed": st.integers(-(2**63), 2**63 - 1),
        "top_k": st.sampled_from([0, 0, 5]),
        "top_p": st.sampled_from([1.0, 0.8]),
        "presence_penalty": st.sampled_from([0.0, 0.0, 1.5]),
        "repetition_penalty": st.sampled_from([1.0, 1.0, 1.3]),
        "ignore_eos": st.booleans(),
        "stop_token_ids": st.sampled_from([(), (), (3, 4, 5, 6)]),
        "logprobs": st.none() | st.integers(0, 3),
        "thinking": st.none() | st.builds(ThinkingParams, st.just(END_THINK), st.integers(0, 9)),
    }
)
prompts = st.builds(
    lambda length, tail: (*PROMPT[:length], *tail), st.integers(1, 9), st.lists(st.integers(0, 2), max_size=2)
)
configs = st.builds(
    lambda sequences, extra, page, spare, spec: EngineConfig(
        sequences + extra, sequences, page, num_pages=-(-31 // page) + spare, spec=spec
    ),
    st.integers(1, 4), st.integers(0, 20), st.integers(1, 5), st.integers(0, 8),
    st.sampled_from([1, 2, 3, 4, "auto"]),
)  # fmt: skip


@settings(max_examples=60)
@given(configs, st.lists(st.tuples(prompts, params), min_size=1, max_size=5), st.sampled_from([0, 4, 7, 8]))
def test_tokens_and_logprobs_are_those_without_guesses(config, asked, right):
    engine = Engine(Hashing(right), config=config, eos_token_ids=(7,))
    requests = [request(i, prompt, **each) for i, (prompt, each) in enumerate(asked)]
    found = replies(engine, requests)
    assert found == {each.id: alone(each) for each in requests}
    assert engine.scheduler.pool.used == 0


def guessing(spec, right=8, **options):
    # max_stretch: what a step holds shall not depend on how fast this machine is
    config = EngineConfig(**{"num_pages": 64, "page_tokens": 4, "spec": spec, "max_stretch": math.inf, **options})
    return Engine(Hashing(right), config=config)


MIXED = {
    "greedy": {"temperature": 0.0},
    "noise": {"temperature": 1.2, "top_p": 0.9, "seed": 5},
    "penalties": {"temperature": 0.7, "presence_penalty": 1.0, "repetition_penalty": 1.2},
    "thinking": {"temperature": 0.7, "thinking": ThinkingParams(END_THINK, 7)},
}


@pytest.mark.parametrize("spec", [1, 2, 3, 4])
@pytest.mark.parametrize("params", MIXED.values(), ids=MIXED)
def test_a_module_as_good_as_the_model_is_always_right(spec, params):
    """So every guess follows the rule that judges it: position, noise, penalties and forced tokens."""
    engine = guessing(spec)
    each = request("a", PROMPT, max_tokens=21, ignore_eos=True, **params)
    assert replies(engine, [each])["a"] == alone(each)
    stats = engine.stats()
    assert stats.accepted_by_depth == stats.drafted_by_depth
    assert len(stats.drafted_by_depth) == spec
    assert stats.steps == 1 + -(-20 // (1 + spec))


def test_a_module_that_is_always_wrong_costs_time_only():
    engine = guessing(3, right=0)
    each = request("a", PROMPT, max_tokens=12, ignore_eos=True)
    assert replies(engine, [each])["a"] == alone(each)
    stats = engine.stats()
    assert stats.accepted_by_depth == (0, 0, 0)
    assert stats.drafted_by_depth == (10, 9, 8)  # the last steps have no room for more
    assert stats.steps == 12


@pytest.mark.parametrize("spec", [1, 2, 4])
@pytest.mark.parametrize("budget", [3, 64])
def test_the_module_reads_every_token_and_its_own_wrong_guesses_do_not_stay(spec, budget):
    engine = guessing(spec, right=4, max_batch_tokens=budget, max_sequences=3)
    prompts = [tuple(range(i, i + 11)) for i in range(3)]  # nothing is shared
    run(engine, [request(i, prompt, max_tokens=15) for i, prompt in enumerate(prompts)])
    assert engine.model.read_ahead > 60
    assert engine.model.stale == 0
    assert 0 < sum(engine.stats().accepted_by_depth) < sum(engine.stats().drafted_by_depth)


def test_a_text_that_the_module_has_not_read_is_not_guessed_on():
    engine = guessing(2)
    engine.policy.fixed = 0
    engine.add(request("a", PROMPT, max_tokens=40, ignore_eos=True))
    for _ in range(10):  # 9 tokens of prompt and 9 more are not read
        engine.step()
    engine.policy.fixed = 2
    while engine.has_work:
        engine.step()
    assert engine.stats().drafted_by_depth == () and engine.model.read_ahead == 0
    run(engine, [request("b", PROMPT[::-1], max_tokens=40, ignore_eos=True)])
    assert engine.stats().accepted_by_depth == engine.stats().drafted_by_depth != ()


def test_nor_is_one_whose_pages_come_from_such_a_text():
    engine = guessing(2)
    engine.policy.fixed = 0
    run(engine, [request("a", PROMPT * 3, max_tokens=4)])
    engine.policy.fixed = 2
    run(engine, [request("b", PROMPT * 3, max_tokens=20, ignore_eos=True)])
    assert engine.stats().prefix_hit_tokens == 24 and engine.stats().drafted_by_depth == ()
    run(engine, [request("c", PROMPT[::-1] * 3, max_tokens=20, ignore_eos=True)])
    run(engine, [request("d", PROMPT[::-1] * 3, max_tokens=20, ignore_eos=True)])
    assert engine.stats().prefix_hit_tokens == 48
    assert engine.stats().accepted_by_depth == engine.stats().drafted_by_depth != ()


def test_without_guesses_the_module_is_left_alone():
    engine = guessing("off")
    run(engine, [request("a", PROMPT, max_tokens=5)])
    assert engine.model.read_ahead == 0
    assert len(engine.cache.latent) == HASHED.num_hidden_layers


def test_with_several_modules_each_takes_its_depth_and_the_last_one_the_rest():
    engine = guessing(4)
    engine.model.mtp_modules, asked = 2, []
    predict = engine.model.predict_ahead
    engine.model.predict_ahead = lambda *args: asked.append(args[-1]) or predict(*args[:-1])
    run(engine, [request("a", PROMPT, max_tokens=6)])
    assert asked[:4] == [0, 1, 1, 1]


def test_guesses_are_recorded_and_replayed(tmp_path):
    log = tmp_path / "log"
    config = EngineConfig(9, 3, page_tokens=2, num_pages=24, record=str(log), spec=3, max_stretch=math.inf)
    engine = Engine(Hashing(right=6), config=config)
    requests = [request(i, PROMPT[i:], max_tokens=12, temperature=0.9, seed=i, logprobs=2) for i in range(5)]
    run(engine, requests)
    assert engine.stats().preemptions > 0 and sum(engine.stats().accepted_by_depth) > 0
    cache = LatentCache(HASHED, 24, 2, dtype=engine.model.compute_dtype, mtp=True)
    steps = list(replay(read_steps(log), Runner(Hashing(right=6), cache)))
    assert all(record.sampled == again for record, again, _ in steps)
    assert any(answer.drafts for record, _, _ in steps for answer in record.sampled)


def test_a_failed_step_keeps_its_guesses_for_the_next(monkeypatch):
    engine = guessing(2)
    each = request("a", PROMPT, max_tokens=9, ignore_eos=True)
    engine.add(each)
    first = [i for o in engine.step() for i in o.token_ids]
    with monkeypatch.context() as broken:
        broken.setattr(engine.model, "logits", lambda hidden: hidden * float("nan"))
        with pytest.raises(EngineError, match="not finite"):
            engine.step()
    (output,) = engine.step()
    assert len(output.token_ids) == 3
    rest = list(output.token_ids)
    while engine.has_work:
        rest += [i for o in engine.step() for i in o.token_ids]
    assert first + rest == alone(each)[0]


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.2])
def test_a_real_model_says_the_same_with_and_without_guesses(temperature):
    """In float32, whose rounding differs with a step's shape in the last bits only; these texts are far from ties."""
    model = init_weights(Transformer(HASHED), std=0.3, seed=1).eval().requires_grad_(False)
    requests = [
        request(i, [*range(i, i + 9)], max_tokens=16, temperature=temperature, seed=i, presence_penalty=0.5 * (i % 2))
        for i in range(4)
    ]
    found = []
    for spec in (0, 1, 2, 3, 4, "auto"):
        config = EngineConfig(max_batch_tokens=24, max_sequences=3, page_tokens=3, num_pages=40, spec=spec)
        engine = Engine(model, config=config)
        found.append(run(engine, requests))
        assert (sum(engine.stats().drafted_by_depth) > 0) == (spec != 0)
    assert all(each == found[0] for each in found)
