"""One load with everything in it, and how an engine serves it: what comes back for each request."""

from __future__ import annotations

from functools import cache
from random import Random

import torch

from fathom.batching.request import Request, SamplingParams, ThinkingParams, TokenLogprob
from fathom.engine import Engine, EngineConfig, load_model
from tests.cluster.matrix import MODEL

EOS = (1,)
REQUESTS = 72
ABORT_AFTER = 3  # tokens
Replies = dict[str, tuple[list[int], list[TokenLogprob], str | None]]


@cache
def requests() -> tuple[Request, ...]:
    """Every third shares its beginning with others; of every nine, three have the same prompt."""
    rng = Random(7)
    stem, made = tuple(rng.choices(range(5, 500), k=40)), []
    for i in range(REQUESTS):
        prompt = tuple(rng.choices(range(5, 500), k=rng.randint(1, 80)))
        if i % 9 in (4, 5):
            prompt = made[-1].prompt_token_ids
        elif i % 3 == 0:
            prompt = stem[: rng.choice([17, 33, 40])] + prompt[: rng.randint(0, 40)]
        params = SamplingParams(
            max_tokens=rng.choice([1, 2, 9, 36]), temperature=(0.0, 0.7, 1.2)[rng.randrange(3)], seed=i % 5 + i % 9,
            logprobs=rng.choice([None, 0, 3]), frequency_penalty=rng.choice([0.0, 0.0, 0.6]),
            repetition_penalty=rng.choice([1.0, 1.0, 1.3]), top_p=rng.choice([1.0, 1.0, 0.9]),
            thinking=rng.choice([None, None, ThinkingParams(end_think_id=4, budget_tokens=5)]),
            ignore_eos=rng.random() < 0.7, priority=rng.choice([0, 0, 0, 1]),
        )  # fmt: skip
        made.append(Request(str(i), prompt, params))
    return tuple(made)


def aborted() -> frozenset[str]:
    """Those that are stopped on the way."""
    return frozenset(one.id for one in requests() if int(one.id) % 10 == 7)


def config(bits: int, spec: str | int, num_pages: int, page_tokens: int) -> EngineConfig:
    """max_stretch: how much of a prompt a step reads is then not left to the clock."""
    return EngineConfig(
        max_batch_tokens=96, max_sequences=20, num_pages=num_pages, page_tokens=page_tokens, bits=bits, spec=spec,
        max_stretch=float("inf"),
    )  # fmt: skip


def replies(engine: Engine, *, aborting: bool = True) -> Replies:
    """Half of the requests at once, the others while those run."""
    found: dict[str, tuple[list[int], list[TokenLogprob], str | None]] = {}
    waiting = list(requests())
    for request in waiting[: REQUESTS // 2]:
        engine.add(request)
    waiting = waiting[REQUESTS // 2 :]
    while waiting or engine.has_work:
        for request in waiting[:2]:
            engine.add(request)
        waiting = waiting[2:]
        for output in engine.step():
            tokens, logprobs, _ = found.get(output.request_id, ([], [], None))
            tokens, logprobs = tokens + list(output.token_ids), logprobs + list(output.logprobs)
            found[output.request_id] = tokens, logprobs, output.finish_reason
            stopped = aborting and output.request_id in aborted() and len(tokens) >= ABORT_AFTER
            if stopped and output.finish_reason is None:
                engine.abort(output.request_id)
                found[output.request_id] = tokens, logprobs, "abort"
    return found


@cache
def alone(bits: int) -> Replies:
    """What one process answers: it guesses nothing, has all the pages it wants, and stops nobody."""
    threads = torch.get_num_threads()
    engine = Engine(load_model(MODEL, bits, threads=2), config=config(bits, "off", 600, 16), eos_token_ids=EOS)
    found = replies(engine, aborting=False)
    torch.set_num_threads(threads)
    return found


def differences(found: Replies, expected: Replies) -> list[str]:
    """Requests whose tokens, log-probabilities or end are not what they must be; those stopped, as far as they went."""
    wrong = [name for name in expected if name not in found]
    for name, (tokens, logprobs, reason) in found.items():
        want_tokens, want_logprobs, want_reason = expected[name]
        if reason == "abort":
            want_tokens, want_logprobs = want_tokens[: len(tokens)], want_logprobs[: len(logprobs)]
            want_reason = "abort" if len(tokens) >= ABORT_AFTER else "stopped too early"
        if (tokens, logprobs, reason) != (want_tokens, want_logprobs, want_reason):
            wrong.append(name)
    return wrong
