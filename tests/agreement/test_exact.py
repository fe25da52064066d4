"""A request's tokens and log-probabilities are those it gets alone, to the last bit, whatever happens around it.

Random mixes: batch sizes, chunk budgets, page sizes, prefix hits, siblings, preemptions, guesses ahead, temperatures,
penalties, one or two threads; weights in float32, bfloat16, 8 and 4 bits. The request alone runs on an engine of its
own, with one thread and no guesses. Plain torch promises the same; it is slow, so its mixes are few.
"""

from collections.abc import Iterable
from functools import cache
from random import Random

import pytest

from fathom.batching.request import Request, SamplingParams, ThinkingParams
from fathom.engine import Engine, EngineConfig
from fathom.model import OneAtATime
from tests.model.packing import open_model
from tests.model.tiny import CONFIG, model
from tests.ops.conftest import library, native  # noqa: F401

KINDS = ["f32", "bf16", "i8", "i4"]
MIXES = 75  # of each kind: 300 in all
REFERENCE_MIXES = (13, 23)  # short ones, with preemptions, hits and true guesses
STEMS = [tuple(Random(seed).choices(range(CONFIG.vocab_size), k=40)) for seed in (5, 6)]


@cache
def packed(kind: str, threads: int):
    if kind == "reference":
        return OneAtATime(model().requires_grad_(False))
    return open_model(model(), kind, threads)


def drawn(rng: Random, count: int) -> list[Request]:
    """Requests that share beginnings, some of them the same prompt; few enough kinds that `alone` remembers most."""
    requests = []
    for i in range(count):
        prompt = rng.choice(STEMS)[: rng.choice([1, 7, 16, 17, 33, 40])]
        temperature = rng.choice([0.0, 0.7, 1.2])
        params = SamplingParams(
            max_tokens=rng.choice([1, 6, 14]), temperature=temperature, seed=rng.choice([0, 1]), logprobs=2,
            frequency_penalty=rng.choice([0.0, 0.0, 0.5]), top_p=rng.choice([1.0, 1.0, 0.8]),
            thinking=rng.choice([None, None, ThinkingParams(budget_tokens=3, end_think_id=4)]),
        )  # fmt: skip
        requests.append(Request(str(i), prompt, params))
    return requests


def replies(engine: Engine, requests: list[Request], rng: Random | None = None) -> dict:
    found = {request.id: ([], []) for request in requests}
    waiting = list(requests)
    while waiting or engine.has_work:
        while waiting and (rng is None or rng.random() < 0.5 or not engine.has_work):
            engine.add(waiting.pop(0))
        for output in engine.step():
            found[output.request_id][0].extend(output.token_ids)
            found[output.request_id][1].extend(output.logprobs)
    return found


@cache
def alone(kind: str, prompt: tuple[int, ...], params: SamplingParams):
    engine = Engine(packed(kind, 1), config=EngineConfig(64, 1, num_pages=8, spec="off"), eos_token_ids=(7,))
    return replies(engine, [Request("alone", prompt, params)])["alone"]


def mixed(kind: str, mixes: Iterable[int]) -> tuple[int, int, int]:
    """Preemptions, tokens found in the cache and guesses that came true in these mixes, all answered as if alone."""
    preempted = hits = accepted = 0
    for mix in mixes:
        rng = Random(mix)
        sequences, page = rng.randint(1, 5), rng.choice([1, 1, 3, 16])
        config = EngineConfig(
            max_batch_tokens=sequences * 5 + rng.choice([0, 3, 40]), max_sequences=sequences, page_tokens=page,
            num_pages=-(-54 // page) + rng.choice([0, 0, 3, 30]), spec=rng.choice(["off", "auto", 1, 2, 3, 4]),
        )  # fmt: skip
        engine = Engine(packed(kind, rng.choice([1, 2])), config=config, eos_token_ids=(7,))
        for _ in range(2):  # the second wave meets the pages of the first
            requests = drawn(rng, rng.randint(1, 5))
            found = replies(engine, requests, rng)
            for request in requests:
                assert found[request.id] == alone(kind, request.prompt_token_ids, request.params), (mix, request)
        stats = engine.stats()
        preempted, hits = preempted + stats.preemptions, hits + stats.prefix_hit_tokens
        accepted += sum(stats.accepted_by_depth)
    return preempted, hits, accepted


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("part", range(3))
def test_a_request_is_answered_as_if_it_were_alone(kind: str, part: int) -> None:
    preempted, hits, accepted = mixed(kind, range(part * MIXES // 3, (part + 1) * MIXES // 3))
    assert preempted and hits, "the mixes no longer preempt or reuse: they prove nothing"
    assert accepted or part, "no guess ever came true"


def test_a_machine_without_kernels_keeps_the_same_promise() -> None:
    preempted, hits, accepted = mixed("reference", REFERENCE_MIXES)
    assert preempted and hits and accepted, "the mixes no longer preempt, reuse or guess right: they prove nothing"
