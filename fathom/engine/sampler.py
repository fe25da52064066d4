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

import torch
from torch import Tensor

from fathom.batching.plan import Row, Sampled, Sampling
from fathom.batching.request import SamplingParams, TokenLogprob
from fathom.errors import EngineError

# SplitMix64: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014, figures 16 and 17.
GOLDEN = 0x9E3779B97F4A7C15
MIX_1 = 0xBF58476D1CE4E5B9
MIX_2 = 0x94D049BB133111EB
MASK = 2**64 - 1
UNIFORM_BITS = 52  # bits + 0.5 is then exact in float64, and the uniform number is never 0 or 1


NOISE_BLOCK = 1 << 14  # ids; stays in cache, and below the size at which torch splits a loop among threads


def sample(logits: Tensor, rows: Sequence[Row]) -> list[Sampled]:
    """What each row chooses: position after position, on as long as the guess that stands there is what was chosen.

    Args:   logits: float32 [positions, vocabulary], not changed: 1 + drafts for each row, end to end.
    Raises: EngineError: a position holds a NaN, or nothing but infinities.
    """
    best = _argmax(logits)
    sampled, at = [], 0
    for row in rows:
        state, guesses = row.sampling, row.token_ids[len(row.token_ids) - row.drafts :]
        assert state is not None, "only rows that sample have logits"
        token_ids: list[int] = []
        for offset in range(1 + row.drafts):
            _check(logits[at + offset, best[at + offset]].item(), state)
            token_ids.append(_choose(logits[at + offset], state, best[at + offset]))
            if offset == row.drafts or token_ids[-1] != guesses[offset]:
                break
            state = state.after(token_ids[-1])
        sampled.append(Sampled(tuple(token_ids), _report(token_ids, logits[at:], state.params)))
        at += 1 + row.drafts
    return sampled


def choose(logits: Tensor, states: Sequence[Sampling]) -> list[int]:
    """One token id per row of logits [rows, vocabulary], by the same rule and with the same noise as `sample`."""
    best = _argmax(logits)
    return [_choose(row, state, first) for row, state, first in zip(logits, states, best, strict=True)]


def gumbel(seed: int, position: int, vocab_size: int, device: torch.device | str | None = None) -> Tensor:
    """Standard Gumbel noise, float64 [vocabulary]: element v depends on (seed, position, v) alone."""
    key = _signed(_mix(_mix((seed + GOLDEN) & MASK) + position * GOLDEN & MASK))
    noise = torch.empty(vocab_size, dtype=torch.float64, device=device)
    for block, counters in zip(noise.split(NOISE_BLOCK), _counters(vocab_size, device), strict=True):
        bits = _shift(_mix_tensor(counters + key), 64 - UNIFORM_BITS)
        block.copy_(bits).add_(0.5).mul_(2.0**-UNIFORM_BITS).log_().neg_().log_().neg_()
    return noise


@lru_cache(maxsize=4)
def _counters(vocab_size: int, device: torch.device | str | None) -> tuple[Tensor, ...]:
    """How far SplitMix64's state has advanced at each token id, in blocks."""
    counters = torch.arange(1, vocab_size + 1, dtype=torch.int64, device=device) * _signed(GOLDEN)
    return counters.split(NOISE_BLOCK)


def _argmax(logits: Tensor) -> list[int]:
    """Where each row is highest, the first of equals; a NaN counts as highest."""
    if logits.is_cpu:  # torch compares one by one: 45 us for 8,192 values where numpy takes 3
        return logits.numpy().argmax(-1).tolist()
    return logits.argmax(-1).tolist()


def _check(best: float, state: Sampling) -> None:
    if not math.isfinite(best):
        raise EngineError(
            f"the logits for position {state.position} are not finite (their maximum is {best}); "
            "check the weights, or load them as float32."
        )


def _choose(row: Tensor, sampling: Sampling, best: int) -> int:
    """One row's token id; `best` is where it is highest."""
    params = sampling.params
    forced = sampling.forced_token_id
    if forced is not None:
        return forced
    if params.penalises_output:
        row = _penalise(row, sampling)
        best = _argmax(row[None])[0]
    if params.temperature == 0.0:
        return best
    scaled = (row.double() - row[best]) / params.temperature  # at most 0, so no temperature overflows
    noisy = scaled + gumbel(params.seed, sampling.position, len(row), row.device)
    if params.top_k == 0 and params.top_p == 1.0 and params.min_p == 0.0:
        return _argmax(noisy[None])[0]
    candidates = _candidates(scaled, params)
    return int(candidates[_argmax(noisy[candidates][None])[0]])


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


def _report(token_ids: Sequence[int], logits: Tensor, params: SamplingParams) -> tuple[TokenLogprob, ...]:
    """The log-probability of each token in its row of logits, if the request asks for them."""
    if params.logprobs is None:
        return ()
    found = []
    for token_id, row in zip(token_ids, logits, strict=False):
        logprobs = row.double().log_softmax(0)
        best = _best(logprobs, params.logprobs)
        top = tuple(zip(best.tolist(), logprobs[best].tolist(), strict=True))
        found.append(TokenLogprob(token_id, float(logprobs[token_id]), top))
    return tuple(found)


def _mix(z: int) -> int:
    """SplitMix64's finaliser on a Python integer; `_mix_tensor` is the same on int64, whose products wrap."""
    z = (z ^ (z >> 30)) * MIX_1 & MASK
    z = (z ^ (z >> 27)) * MIX_2 & MASK
    return z ^ (z >> 31)


def _mix_tensor(z: Tensor) -> Tensor:
    z = z.bitwise_xor_(_shift(z, 30)).mul_(_signed(MIX_1))
    z = z.bitwise_xor_(_shift(z, 27)).mul_(_signed(MIX_2))
    return z.bitwise_xor_(_shift(z, 31))


def _shift(z: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64, which torch shifts arithmetically."""
    return (z >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    """The int64 with the same bits."""
    return value - 2**64 if value >= 2**63 else value
