"""The engine's greedy text is the plain forward's, whatever the batch, chunks, pages, prefix hits and preemptions.

The plain forward recomputes the whole sequence for every token, without a cache. The engine's own arithmetic differs
from it in the last bits (one token at a time uses the absorbed form of attention), so equality holds as long as the
chosen token leads by more than those bits. `expected` refuses a prompt whose lead is too small to prove anything.
"""

import math
from functools import cache
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fathom.engine.engine import Engine, EngineConfig
from fathom.model.answer import InTwoCalls
from tests.engine.tiny import CONFIG, plain_greedy, plain_logits, request, run, tiny
from tests.tolerances import ENGINE_LOGITS

MAX_TOKENS = 8
STEMS = [Random(seed).choices(range(CONFIG.vocab_size), k=40) for seed in (5, 6)]


@cache
def expected(prompt):
    tokens, lead = plain_greedy(prompt, MAX_TOKENS)
    assert lead > 2 * ENGINE_LOGITS, f"prompt {prompt} leads to a near tie, {lead}; choose another seed for STEMS"
    return tokens


prompts = st.builds(
    lambda stem, length, tail: (*stem[:length], *tail),
    st.sampled_from(STEMS),
    st.integers(1, 40),
    st.lists(st.integers(0, 2), max_size=1),
)
waves = st.lists(st.tuples(prompts, st.integers(1, MAX_TOKENS)), min_size=1, max_size=5)
configs = st.builds(
    lambda sequences, extra, page, spare: EngineConfig(
        max_batch_tokens=sequences + extra,
        max_sequences=sequences,
        page_tokens=page,
        num_pages=-(-(41 + MAX_TOKENS) // page) + spare,  # from "the longest fits alone": preemptions, evictions
    ),
    st.integers(1, 5),
    st.integers(0, 40),
    st.integers(1, 17),
    st.integers(0, 8),
)


@settings(max_examples=20)
@given(configs, st.lists(waves, min_size=1, max_size=2))
def test_greedy_engine_equals_plain_forward(config, batches):
    engine = Engine(tiny(), config=config)
    for wave, batch in enumerate(batches):  # the second wave meets the pages of the first
        requests = [request(f"{wave}-{i}", prompt, max_tokens=n) for i, (prompt, n) in enumerate(batch)]
        tokens = run(engine, requests)
        for each, (prompt, n) in zip(requests, batch, strict=True):
            assert tokens[each.id] == expected(prompt)[:n]
    assert engine.scheduler.pool.used == 0


@pytest.mark.parametrize("chunk", [1, 2, 7, 64])
@pytest.mark.parametrize("page", [1, 4, 16])
def test_any_chunk_and_page_size(chunk, page):
    engine = Engine(tiny(), config=EngineConfig(chunk, 1, page, num_pages=64))
    prompt = tuple(STEMS[0][:33])
    assert run(engine, [request("a", prompt, max_tokens=MAX_TOKENS)])["a"] == expected(prompt)


def test_a_prefix_hit_changes_nothing():
    engine = Engine(tiny(), config=EngineConfig(page_tokens=4, num_pages=64))
    prompt = tuple(STEMS[1][:33])
    for hits in (0, 32):
        before = engine.stats().prefix_hit_tokens
        assert run(engine, [request("a", prompt, max_tokens=MAX_TOKENS)])["a"] == expected(prompt)
        assert engine.stats().prefix_hit_tokens - before == hits


def test_preemption_changes_nothing():
    config = EngineConfig(max_batch_tokens=64, max_sequences=4, page_tokens=2, num_pages=24, max_stretch=math.inf)
    engine = Engine(tiny(), config=config)
    requests = [request(i, STEMS[0][i : i + 9], max_tokens=MAX_TOKENS) for i in range(4)]
    tokens = run(engine, requests)
    assert engine.stats().preemptions > 0
    assert all(tokens[each.id] == expected(each.prompt_token_ids) for each in requests)


def test_seeded_sampling_does_not_depend_on_company():
    params = {"temperature": 1.0, "top_p": 0.95, "max_tokens": 12}
    requests = [request(i, STEMS[i % 2][: 5 + 3 * i], seed=i, **params) for i in range(6)]
    alone = {}
    for each in requests:
        alone |= run(Engine(tiny(), config=EngineConfig(num_pages=32)), [each])
    limits = {"max_batch_tokens": 7, "max_sequences": 5, "page_tokens": 3, "num_pages": 14, "max_stretch": math.inf}
    tight = Engine(tiny(), config=EngineConfig(**limits))
    for engine in (Engine(tiny(), config=EngineConfig(num_pages=64)), tight):
        assert run(engine, requests) == alone
    assert tight.stats().preemptions > 0
    assert len({tuple(tokens) for tokens in alone.values()}) == len(alone)


def test_logits_of_engine_and_plain_forward_differ_by_rounding_only():
    engine = Engine(tiny(), config=EngineConfig(max_batch_tokens=5, max_sequences=1, page_tokens=4, num_pages=64))
    seen = []
    logits_of = engine.model.logits
    engine.runner.model = _Watched(engine.model, lambda hidden: seen.append(logits_of(hidden)) or seen[-1])
    prompt = STEMS[0][:33]
    tokens = run(engine, [request("a", prompt, max_tokens=MAX_TOKENS)])["a"]
    plain = [plain_logits([*prompt, *tokens[:n]]) for n in range(MAX_TOKENS)]
    assert len(seen) == MAX_TOKENS
    assert (torch.cat(seen) - torch.stack(plain)).abs().max() < ENGINE_LOGITS


class _Watched(InTwoCalls):
    """The model, with its logits seen on the way."""

    def __init__(self, model, logits):
        self.model, self.logits, self.device = model, logits, model.device

    def __call__(self, *args):
        return self.model(*args)
