"""The loop: what goes in comes out whole, what is wrong is refused, what is stopped is gone."""

import pytest

from fathom.batching.request import ThinkingParams, sibling_seed
from fathom.engine import load
from fathom.engine.engine import Engine, EngineConfig
from fathom.engine.record import read_steps
from fathom.errors import ConfigError, EngineError, RequestError
from tests.engine.hashing import Hashing
from tests.engine.tiny import CONFIG, plain_greedy, request, run, tiny

PROMPT = (5, 9, 2, 7, 11, 3, 40, 1, 22)


def engine(**options):
    eos = options.pop("eos", ())
    return Engine(tiny(), config=EngineConfig(**{"num_pages": 32, "page_tokens": 4, **options}), eos_token_ids=eos)


def test_a_reply_ends_with_the_first_end_of_sequence():
    plain, _ = plain_greedy(PROMPT, 6)
    end = plain[3]
    tokens = run(engine(eos=(end,)), [request("a", PROMPT, max_tokens=6)])["a"]
    assert tokens == plain[: plain.index(end) + 1]


def test_outputs_tell_progress_then_tokens_then_the_reason():
    worker = engine(max_batch_tokens=4, max_sequences=1)
    worker.add(request("a", PROMPT, max_tokens=2))
    outputs = []
    while worker.has_work:
        outputs += worker.step()
    assert [(o.read_tokens, len(o.token_ids), o.finish_reason) for o in outputs] == [
        (4, 0, None),
        (8, 0, None),
        (9, 1, None),
        (9, 1, "length"),
    ]


def test_the_thinking_budget_is_kept():
    thinking = ThinkingParams(end_think_id=63, budget_tokens=4)
    tokens = run(engine(), [request("a", PROMPT, max_tokens=9, thinking=thinking)])["a"]
    free, _ = plain_greedy(PROMPT, 4)
    after, _ = plain_greedy([*PROMPT, *free, 63], 4)
    assert 63 not in free
    assert tokens == [*free, 63, *after]


def test_logprobs_come_with_each_token():
    worker = engine()
    worker.add(request("a", PROMPT, max_tokens=3, logprobs=2))
    found = []
    while worker.has_work:
        for output in worker.step():
            found += zip(output.token_ids, output.logprobs, strict=True)
    assert [token for token, _ in found] == [logprob.token_id for _, logprob in found]
    assert all(logprob.top[0] == (token, logprob.logprob) for token, logprob in found)  # greedy: the best one


@pytest.mark.parametrize(
    ("prompt", "params", "param", "code"),
    [
        ((5, CONFIG.vocab_size), {}, "prompt", "invalid_token_id"),
        ((5, -1), {}, "prompt", "invalid_token_id"),
        ((5,), {"thinking": ThinkingParams(999, 1)}, "thinking.end_think_id", "invalid_token_id"),
        ((5,) * 100, {"max_tokens": 29}, "max_tokens", "context_length_exceeded"),
        ((), {}, "prompt", "empty_prompt"),
    ],
)
def test_what_cannot_be_served_is_refused_by_name(prompt, params, param, code):
    worker = engine()
    with pytest.raises(RequestError) as caught:
        worker.add(request("a", prompt, **params))
    assert (caught.value.param, caught.value.code) == (param, code)
    assert not worker.has_work


def test_the_model_s_own_context_is_the_limit_when_the_cache_is_larger():
    assert engine(num_pages=1000).context_tokens == CONFIG.max_position_embeddings
    assert engine(num_pages=3).context_tokens == 12


def test_abort_frees_everything_and_disturbs_nobody():
    worker = engine()
    worker.add(request("a", PROMPT, max_tokens=20))
    worker.add(request("b", PROMPT[::-1], max_tokens=4))
    worker.step()
    assert worker.abort("a").finish_reason == "abort"
    assert worker.abort("a") is None
    tokens = []
    while worker.has_work:
        tokens += [i for o in worker.step() for i in o.token_ids]
    assert tokens == plain_greedy(PROMPT[::-1], 4)[0][1:]
    assert worker.stats().pages_used == 0


def test_a_failed_step_did_not_happen(monkeypatch):
    worker = engine()
    worker.add(request("a", PROMPT, max_tokens=4))
    worker.step()
    with monkeypatch.context() as broken:
        broken.setattr(worker.model, "logits", lambda hidden: hidden * float("nan"))
        with pytest.raises(EngineError, match="not finite"):
            worker.step()
    rest = [i for _ in range(3) for o in worker.step() for i in o.token_ids]
    assert rest == plain_greedy(PROMPT, 4)[0][1:]


def test_stats_count_what_was_done():
    worker = engine()
    run(worker, [request("a", PROMPT, max_tokens=3)])
    run(worker, [request("b", PROMPT, max_tokens=1)])
    stats = worker.stats().to_dict()
    assert stats["prefix_hit_tokens"] == 8
    assert stats["computed_tokens"] == 9 + 2 + 1
    assert (stats["sampled_tokens"], stats["steps"]) == (4, 4)
    assert (stats["running"], stats["waiting"], stats["pages_used"], stats["pages_total"]) == (0, 0, 0, 32)
    assert stats["step_s"] == worker.step_s > 0


def test_an_idle_engine_does_nothing():
    worker = engine()
    assert worker.step() == []
    assert worker.stats().steps == 0


def test_the_step_log_is_kept_on_request(tmp_path):
    worker = engine(record=str(tmp_path / "steps.jsonl"))
    run(worker, [request("a", PROMPT, max_tokens=3)])
    records = list(read_steps(tmp_path / "steps.jsonl"))
    assert [len(record.plan.rows[0].token_ids) for record in records] == [9, 1, 1]
    assert all(record.step_s > 0 for record in records)


def test_pages_are_sized_by_memory_when_not_given():
    worker = Engine(tiny(), config=EngineConfig(max_sequences=3, page_tokens=16))
    assert worker.stats().pages_total == 3 * CONFIG.max_position_embeddings // 16


def test_a_model_without_a_module_guesses_nothing_and_says_so_when_told_to():
    for spec in ("auto", "off", 0):
        worker = engine(spec=spec)
        run(worker, [request("a", PROMPT, max_tokens=5)])
        assert worker.stats().drafted_by_depth == ()
        assert len(worker.cache.latent) == CONFIG.num_hidden_layers
    with pytest.raises(ConfigError, match="spec is 2; this model was loaded without an MTP module"):
        engine(spec=2)


def test_spec_is_checked_and_says_whether_the_module_is_needed():
    assert [EngineConfig(spec=spec).mtp for spec in ("auto", "off", 0, 3, "3")] == [None, False, False, True, True]
    with pytest.raises(ConfigError, match="spec is 'many'"):
        EngineConfig(spec="many")


def test_pages_of_the_module_are_counted_too(monkeypatch):
    monkeypatch.setattr(load, "free_bytes", lambda device: 10_000)
    pages = [
        Engine(Hashing(), config=EngineConfig(page_tokens=2, spec=spec)).stats().pages_total for spec in ("off", "auto")
    ]
    assert pages == [10_000 // 2 // (2 * layers * (2 + 4) * 8) for layers in (2, 3)]


@pytest.mark.parametrize("fraction", [0.0, 1.1])
def test_memory_fraction_is_a_fraction(fraction):
    with pytest.raises(ConfigError, match="memory_fraction"):
        EngineConfig(memory_fraction=fraction)


def test_samples_of_one_prompt_are_what_each_is_alone_and_the_prompt_is_computed_once():
    params = {"max_tokens": 9, "temperature": 0.9}
    each = [request(i, PROMPT, seed=sibling_seed(5, i), **params) for i in range(4)]
    alone = {}
    for one in each:
        alone |= run(engine(), [one])
    worker = engine()
    assert run(worker, each) == alone
    assert len({tuple(tokens) for tokens in alone.values()}) > 1
    stats = worker.stats()
    assert (stats.computed_tokens, stats.copied_pages) == (9 + 4 * 8, 3)
    assert stats.prefix_hit_tokens == 3 * 9


def test_steps_are_timed_and_prompts_limited_by_the_time_they_take():
    worker = engine(max_batch_tokens=64, num_pages=64, max_stretch=1.5)
    worker.add(request("stream", PROMPT, max_tokens=60, ignore_eos=True))
    for _ in range(5):
        worker.step()
    assert worker.step_time.alone_s(1, 12) == pytest.approx(worker.step_s, rel=5.0)
    worker.add(request("long", (3,) * 150, max_tokens=1))
    worker.step()
    assert 1 <= worker.scheduler.live["long"].computed < 64


def test_pages_are_named_after_the_arithmetic_that_fills_them():
    numerics = engine().scheduler.config.numerics
    assert numerics == engine(page_tokens=8).scheduler.config.numerics
    assert numerics == tiny().numerics != Hashing().numerics
