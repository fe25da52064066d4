"""Logits to tokens. All noise is a function of (seed, position, token id): there is no stream to get out of step.

Sampling is `argmax(logits / temperature + G)` with Gumbel noise G, which draws from the softmax exactly. Because G is
hashed from a counter, a request gets the same tokens alone or in company, whole or in chunks, preempted or not.

Rows are handled one by one on purpose: torch's vector loops round an array's last elements differently from the
others, so in a joint array a row's bits could depend on its neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fathom.batching.plan import Row, Sampled, Sampling
from fathom.batching.request import SamplingParams, TokenLogprob
from fathom.errors import EngineError
from fathom.ops.packed import Best

# SplitMix64: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014, figures 16 and 17.
GOLDEN = 0x9E3779B97F4A7C15
MIX_1 = 0xBF58476D1CE4E5B9
MIX_2 = 0x94D049BB133111EB
MASK = 2**64 - 1
UNIFORM_BITS = 52  # bits + 0.5 is then exact in float64, and the uniform number is never 0 or 1


NOISE_BLOCK = 1 << 14  # ids; stays in cache, and below the size at which torch splits a loop among threads


def sample(logits: Tensor, rows: Sequence[Row], found: Best | None = None) -> list[Sampled]:
    """What each row chooses: position after position, on as long as the guess that stands there is what was chosen.

    Args:   logits: float32 [positions, vocabulary], not changed: 1 + drafts for each row, end to end. found: where
            they are highest, if that is known.
    Raises: EngineError: a position holds a NaN, or nothing but infinities.
    """
    best, highest = found or _best_of_each(logits)
    sampled, at = [], 0
    for row in rows:
        state, token_ids = row.sampling, row.token_ids
        assert state is not None, "only rows that sample have logits"
        chosen: list[int] = []
        for guess in (*token_ids[len(token_ids) - row.drafts :], None):
            _check(highest[at + len(chosen)], state)
            token_id = _choose(logits, at + len(chosen), state, best[at + len(chosen)])
            chosen.append(token_id)
            if token_id != guess:
                break
            state = state.after(token_id)
        logprobs = _report(logits, at, chosen, state.params.logprobs)
        sampled.append(Sampled(tuple(chosen), logprobs))
        at += 1 + row.drafts
    return sampled


def choose(logits: Tensor, states: Sequence[Sampling], found: Best | None = None) -> list[int]:
    """One token id per row of logits [rows, vocabulary], by the same rule and with the same noise as `sample`."""
    best, _ = found or _best_of_each(logits)
    return [_choose(logits, at, state, best[at]) for at, state in enumerate(states)]


def gumbel(seed: int, position: int, vocab_size: int, device: torch.device | str | None = None) -> Tensor:
    """Standard Gumbel noise, float64 [vocabulary]: element v depends on (seed, position, v) alone."""
    key = _mix(_mix((seed + GOLDEN) & MASK) + position * GOLDEN & MASK)
    on_cpu = device is None or torch.device(device).type == "cpu"
    noise = torch.empty(vocab_size, dtype=torch.float64, device=device)
    for begin in range(0, vocab_size, NOISE_BLOCK):
        block = noise[begin : begin + NOISE_BLOCK]
        ids = begin + 1, begin + 1 + len(block)
        if on_cpu:  # numpy's integers: a fifth of the time of torch's
            block.numpy()[:] = _mix_array(_states(*ids) + np.uint64(key)) >> np.uint64(64 - UNIFORM_BITS)
        else:
            counters = torch.arange(*ids, device=device) * _signed(GOLDEN)
            block.copy_(_shift(_mix_tensor(counters + _signed(key)), 64 - UNIFORM_BITS))
        block.add_(0.5).mul_(2.0**-UNIFORM_BITS).log_().neg_().log_().neg_()
    return noise


@lru_cache(maxsize=64)
def _states(begin: int, end: int) -> NDArray[np.uint64]:
    """How far SplitMix64's state has advanced at each token id."""
    return np.arange(begin, end, dtype=np.uint64) * np.uint64(GOLDEN)


def _best_of_each(logits: Tensor) -> Best:
    """Where each row is highest, the first of equals, and how high; a NaN counts as highest."""
    if logits.is_cpu:  # torch compares one by one: 45 us for 8,192 values where numpy takes 3
        values = logits.numpy()
        ids = values.argmax(-1).tolist()
        return ids, [float(values[row, best]) for row, best in enumerate(ids)]
    highest, best = logits.max(-1)
    return best.tolist(), highest.tolist()


def _argmax(row: Tensor) -> int:
    return _best_of_each(row[None])[0][0]


def _best_but(row: Tensor, banned: int | None) -> int:
    """Where the row is highest, leaving out one id."""
    if banned is not None:
        row = row.clone()
        row[banned] = -math.inf
    return _argmax(row)


def _check(best: float, state: Sampling) -> None:
    if not math.isfinite(best):
        raise EngineError(
            f"the logits for position {state.position} are not finite (their maximum is {best}); "
            "check the weights, or load them as float32."
        )


def _choose(logits: Tensor, at: int, sampling: Sampling, best: int) -> int:
    """The token id that row `at` gives; `best` is where it is highest."""
    params = sampling.params
    forced = sampling.forced_token_id
    if forced is not None:
        return forced
    penalised, banned = params.penalises_output, sampling.banned_token_id
    if params.temperature == 0.0 and not penalised and best != banned:
        return best
    row = logits[at]
    if penalised:
        row = _penalise(row, sampling)
    if penalised or best == banned:
        best = _best_but(row, banned)
        if params.temperature == 0.0:
            return best
    scaled = (row.double() - row[best]) / params.temperature  # at most 0, so no temperature overflows
    if banned is not None:
        scaled[banned] = -math.inf
    noisy = gumbel(params.seed, sampling.position, row.shape[0], row.device).add_(scaled)
    if params.top_k == 0 and params.top_p == 1.0 and params.min_p == 0.0:
        return _argmax(noisy)
    candidates = _candidates(scaled, params)
    return int(candidates[_argmax(noisy[candidates])])


def _penalise(row: Tensor, sampling: Sampling) -> Tensor:
    """Repetition first, then frequency and presence, as the OpenAI reference and vLLM define them."""
    params, row = sampling.params, row.clone()
    output = torch.tensor(sampling.output_ids, dtype=torch.int64, device=row.device)
    if params.penalises_prompt:
        seen = torch.tensor(sampling.prompt_ids + sampling.output_ids, dtype=torch.int64, device=row.device).unique()
        at = row[seen]
        row[seen] = torch.where(at > 0, at / params.repetition_penalty, at * params.repetition_penalty)
    ids, counts = output.unique(return_counts=True)
    row[ids] -= params.frequency_penalty * counts + params.presence_penalty
    return row


def _candidates(scaled: Tensor, params: SamplingParams) -> Tensor:
    """Ids that top_k, then top_p, then min_p leave over, best first, equals by id; at least one.

    Each rule keeps a beginning of the sorted row, so together they keep the shortest. Only what can be kept is sorted:
    tokens below (1 - top_p) / vocabulary sum to less than 1 - top_p, so the others reach top_p without them.
    """
    if params.top_k > 0:
        order = _best(scaled, params.top_k)
        shares = scaled[order].softmax(0)
    else:
        shares = scaled.softmax(0)
        least = max((1.0 - params.top_p) / len(shares), params.min_p * float(shares.max()))
        order = _sorted(shares, (shares >= least).nonzero()[:, 0])
        shares = shares[order]
    kept = len(order)
    if params.top_p < 1.0:
        kept = min(kept, 1 + int((shares.cumsum(0) < params.top_p).sum()))
    if params.min_p > 0.0:
        kept = min(kept, int((shares >= params.min_p * shares[0]).sum()))
    return order[:kept]


def _best(values: Tensor, count: int) -> Tensor:
    """Ids of the `count` highest values, best first, equals by id (which `topk` alone does not promise)."""
    count = min(count, len(values))
    if count == 0:
        return torch.empty(0, dtype=torch.int64, device=values.device)
    least = values.topk(count).values[-1]
    return _sorted(values, (values >= least).nonzero()[:, 0])[:count]


def _sorted(values: Tensor, ids: Tensor) -> Tensor:
    """`ids`, which ascend, by falling value; equals stay in order."""
    return ids[values[ids].sort(descending=True, stable=True).indices]


def _report(logits: Tensor, at: int, chosen: Sequence[int], top: int | None) -> tuple[TokenLogprob, ...]:
    """Of each chosen token, from row `at` on: its log-probability, and the `top` best; nothing if that is None."""
    if top is None:
        return ()
    found = []
    for row, token_id in enumerate(chosen, at):
        logprobs = logits[row].double().log_softmax(0)
        best = _best(logprobs, top)
        pairs = tuple(zip(best.tolist(), logprobs[best].tolist(), strict=True))
        found.append(TokenLogprob(token_id, float(logprobs[token_id]), pairs))
    return tuple(found)


def _mix(z: int) -> int:
    """SplitMix64's finaliser on an integer. The next two are the same on uint64 and int64, whose products wrap."""
    z = (z ^ (z >> 30)) * MIX_1 & MASK
    z = (z ^ (z >> 27)) * MIX_2 & MASK
    return z ^ (z >> 31)


def _mix_array(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(MIX_1)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(MIX_2)
    return z ^ (z >> np.uint64(31))


def _mix_tensor(z: Tensor) -> Tensor:
    z = (z ^ _shift(z, 30)) * _signed(MIX_1)
    z = (z ^ _shift(z, 27)) * _signed(MIX_2)
    return z ^ _shift(z, 31)


def _shift(z: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64, which torch shifts arithmetically."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    """The int64 with the same bits."""
    return value - 2**64 if value >= 2**63 else value
