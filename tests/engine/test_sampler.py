"""Sampling draws from the distribution it is told to, and the same token every time it is asked the same."""

import math
from collections import Counter

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fathom.batching.plan import Row, Sampling
from fathom.batching.request import SamplingParams, ThinkingParams
from fathom.engine import sampler
from fathom.engine.sampler import gumbel
from fathom.errors import EngineError

LOGITS = torch.tensor([2.0, 0.5, 1.0, -1.0, 0.0, 1.5])


def at(position=0, **params):
    extra = {name: params.pop(name) for name in ("thinking_left", "prompt_ids", "output_ids") if name in params}
    return Sampling(position, SamplingParams(**params), **extra)


def sample(logits, states):
    """One token for each row of logits."""
    return sampler.sample(logits, [Row("a", (0,), 0, (0,), state) for state in states])


def draw(logits, count, **params):
    """How often each token comes up at `count` positions."""
    ids = Counter(s.token_ids[0] for s in sample(logits.expand(count, -1), [at(i, **params) for i in range(count)]))
    return [ids[i] for i in range(len(logits))]


def chi_square(counts, probabilities):
    """Pearson's statistic against the expected counts; impossible tokens must not come up at all."""
    total = sum(counts)
    assert all(count == 0 for count, p in zip(counts, probabilities, strict=True) if p == 0)
    return sum((count - total * p) ** 2 / (total * p) for count, p in zip(counts, probabilities, strict=True) if p)


@pytest.mark.parametrize(
    ("params", "kept"),
    [
        ({}, 6),
        ({"temperature": 0.5}, 6),
        ({"temperature": 2.0}, 6),
        ({"top_k": 3}, 3),
        ({"top_p": 0.7}, 3),  # sums to 0.42, 0.67, 0.83
        ({"min_p": 0.3}, 3),
    ],
)
def test_draws_follow_the_softmax_of_what_is_kept(params, kept):
    best = LOGITS.argsort(descending=True)[:kept]
    masked = torch.full_like(LOGITS, -math.inf)
    masked[best] = LOGITS[best] / params.get("temperature", 1.0)
    counts = draw(LOGITS, 1000, seed=11, **params)
    # 99.99 % point of chi-square with 5 degrees of freedom; with a fixed seed this is one fixed number, no flake
    assert chi_square(counts, masked.softmax(0).tolist()) < 25.7


def test_top_p_keeps_the_fewest_tokens_that_reach_it():
    scaled = (LOGITS - LOGITS.max()).double()
    cumulative = LOGITS.double().softmax(0).sort(descending=True).values.cumsum(0).tolist()
    for kept, reached in enumerate(cumulative[:-1], 1):
        assert len(sampler._candidates(scaled, SamplingParams(top_p=reached - 1e-9))) == kept
        assert len(sampler._candidates(scaled, SamplingParams(top_p=reached + 1e-9))) == kept + 1
    assert sampler._candidates(scaled, SamplingParams(top_p=1e-9)).tolist() == [0]


def test_top_k_breaks_ties_by_the_lower_id():
    ties = torch.tensor([-1.0, 0.0, 0.0] * 40, dtype=torch.float64)
    assert sampler._candidates(ties, SamplingParams(top_k=4)).tolist() == [1, 2, 4, 5]


@settings(max_examples=100)
@given(
    st.lists(st.integers(-8, 8), min_size=1, max_size=60),
    st.integers(0, 70),
    st.floats(0.01, 1.0),
    st.floats(0.0, 1.0),
)
def test_candidates_equal_the_rules_applied_one_by_one_to_the_whole_row(logits, top_k, top_p, min_p):
    best_first = sorted(range(len(logits)), key=lambda i: (-logits[i], i))[: top_k or None]
    weights = [math.exp(logits[i] - max(logits)) for i in best_first]
    shares = [weight / sum(weights) for weight in weights]
    reached = [sum(shares[:i]) for i in range(len(shares))]  # before each token
    assume(all(abs(r - top_p) > 1e-9 for r in reached))  # on an edge, rounding decides
    assume(all(abs(share - min_p * shares[0]) > 1e-9 for share in shares[1:]))
    least = min_p * shares[0]
    kept = [i for i, r, share in zip(best_first, reached, shares, strict=True) if r < top_p and share >= least]
    scaled = torch.tensor(logits, dtype=torch.float64) - max(logits)
    assert sampler._candidates(scaled, SamplingParams(top_k=top_k, top_p=top_p, min_p=min_p)).tolist() == kept


def test_rules_together_keep_the_shortest():
    scaled = (LOGITS - LOGITS.max()).double()
    assert sampler._candidates(scaled, SamplingParams(top_k=5, top_p=0.99, min_p=0.5)).tolist() == [0, 5]


def test_zero_temperature_takes_the_best_and_the_lowest_id_of_equals():
    rows = torch.tensor([[0.0, 3.0, 3.0], [1.0, 1.0, 1.0]])
    assert [s.token_ids[0] for s in sample(rows, [at(temperature=0.0, seed=s) for s in (1, 2)])] == [1, 0]


def test_a_tiny_temperature_is_greedy_and_finite():
    answers = sample(LOGITS.expand(20, -1), [at(i, temperature=1e-300) for i in range(20)])
    assert {s.token_ids[0] for s in answers} == {0}


rows = st.lists(
    st.tuples(
        st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**20), st.sampled_from([0.0, 0.7, 1.3]), st.integers(0, 9)
    ),
    min_size=2,
    max_size=5,
)


@settings(max_examples=40)
@given(rows, st.randoms())
def test_a_row_does_not_depend_on_its_neighbours(rows, random):
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(len(rows), 37, generator=generator)
    states = [at(p, seed=s, temperature=t, top_k=k, top_p=0.9, logprobs=2) for s, p, t, k in rows]
    alone = [sample(logits[i : i + 1], [states[i]])[0] for i in range(len(rows))]
    order = random.sample(range(len(rows)), len(rows))
    together = sample(logits[order], [states[i] for i in order])
    assert together == [alone[i] for i in order]


def test_noise_is_the_published_generator():
    """Bit for bit SplitMix64: its state starts at the row's key and advances by GOLDEN per token id."""
    seed, position, size = -5, 1234, 50
    key = sampler._mix((sampler._mix((seed + sampler.GOLDEN) % 2**64) + position * sampler.GOLDEN) % 2**64)
    expected = []
    for index in range(1, size + 1):
        bits = sampler._mix((key + index * sampler.GOLDEN) % 2**64) >> 12
        expected.append(-math.log(-math.log((bits + 0.5) * 2.0**-52)))
    assert torch.allclose(gumbel(seed, position, size), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-13)


def test_splitmix_gives_the_known_first_numbers():
    """Outputs of SplitMix64 from state 0, as its authors' C code prints them."""
    known = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert [sampler._mix(i * sampler.GOLDEN % 2**64) for i in (1, 2, 3)] == known


def test_noise_differs_by_seed_by_position_and_has_the_gumbel_mean():
    base = gumbel(1, 1, 20_000)
    assert abs(base.mean() - 0.5772) < 0.03  # Euler's constant; standard error 0.009
    assert not torch.equal(base, gumbel(2, 1, 20_000))
    assert not torch.equal(base, gumbel(1, 2, 20_000))
    assert torch.equal(base[:50], gumbel(1, 1, 50))
    neighbours = torch.corrcoef(torch.stack([base, gumbel(1, 2, 20_000), gumbel(2, 1, 20_000)]))
    assert (neighbours - torch.eye(3)).abs().max() < 0.03  # standard error 0.007


def test_extreme_uniforms_give_finite_noise():
    for bits in (0, 2**sampler.UNIFORM_BITS - 1):
        uniform = (torch.tensor([bits]).double() + 0.5) * 2.0**-sampler.UNIFORM_BITS
        assert uniform.log().neg().log().neg().isfinite().all()


def test_logprobs_are_of_the_model_s_own_distribution():
    states = [at(temperature=0.3, top_k=1, frequency_penalty=2.0, output_ids=(0, 0), logprobs=3)]
    (answer,) = sample(LOGITS[None], states)
    logprobs = LOGITS.double().log_softmax(0).tolist()
    assert answer.token_ids[0] == 5  # 0 is penalised
    assert answer.logprobs[0].token_id == 5
    assert answer.logprobs[0].logprob == pytest.approx(logprobs[5], abs=1e-12)
    assert answer.logprobs[0].top == tuple((i, pytest.approx(logprobs[i], abs=1e-12)) for i in (0, 5, 2))


def test_logprobs_come_only_when_asked():
    without, chosen_only = sample(LOGITS.expand(2, -1), [at(), at(logprobs=0)])
    assert without.logprobs == ()
    assert chosen_only.logprobs[0].top == ()


def test_a_forced_token_is_taken_and_its_true_logprob_told():
    (answer,) = sample(LOGITS[None], [at(thinking=ThinkingParams(3, 0), thinking_left=0, logprobs=0)])
    assert answer.token_ids[0] == answer.logprobs[0].token_id == 3
    assert answer.logprobs[0].logprob == pytest.approx(float(LOGITS.double().log_softmax(0)[3]), abs=1e-12)


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"presence_penalty": 0.5}, [1.5, 0.5, 0.5, -1.0, 0.0, 1.5]),
        ({"frequency_penalty": 0.5}, [1.0, 0.5, 0.5, -1.0, 0.0, 1.5]),
        ({"presence_penalty": -1.0, "frequency_penalty": 1.0}, [1.0, 0.5, 1.0, -1.0, 0.0, 1.5]),
        ({"repetition_penalty": 2.0}, [1.0, 0.5, 0.5, -2.0, 0.0, 1.5]),
    ],
)
def test_penalties_change_logits_exactly_as_defined(params, expected):
    state = at(prompt_ids=(3, 3), output_ids=(0, 2, 0), **params)
    before = LOGITS.clone()
    assert sampler._penalise(LOGITS, state).tolist() == expected
    assert torch.equal(LOGITS, before)


def test_penalties_reach_greedy_decoding_too():
    (answer,) = sample(LOGITS[None], [at(temperature=0.0, presence_penalty=1.0, output_ids=(0,))])
    assert answer.token_ids[0] == 5


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_no_numbers_are_an_error_not_a_token(bad):
    logits = LOGITS.repeat(2, 1)
    logits[1, 2] = bad
    with pytest.raises(EngineError, match="position 8 are not finite"):
        sample(logits, [at(7), at(8)])


def test_masked_tokens_are_never_drawn():
    logits = LOGITS.clone()
    logits[0] = -math.inf
    assert draw(logits, 200)[0] == 0


def test_a_row_goes_on_as_long_as_its_guesses_are_what_is_chosen():
    logits = torch.eye(6)[[2, 4, 1, 3, 5]] * 9
    state = at(10, temperature=0.0, logprobs=0)

    def row(*guesses):
        return Row("a", (0, *guesses), 9, (0,), state, drafts=len(guesses))

    right, wrong, first_wrong = sampler.sample(logits[[0, 1, 0, 1, 2, 0, 1, 2, 3]], [row(2), row(2, 3), row(5, 4, 1)])
    assert [answer.token_ids for answer in (right, wrong, first_wrong)] == [(2, 4), (2, 4), (2,)]
    assert [logprob.token_id for logprob in wrong.logprobs] == [2, 4]


def test_later_positions_are_chosen_as_if_the_guesses_were_tokens():
    """Noise of their own position, penalties that know the guesses, a thinking budget that they spend."""
    logits = torch.randn(4, 50, generator=torch.Generator().manual_seed(0))
    state = at(7, seed=3, temperature=1.0, presence_penalty=2.0, thinking=ThinkingParams(9, 5), thinking_left=3)
    singly, states = [], [state]
    for each in logits:
        singly += sample(each[None], [states[-1]])[0].token_ids
        states.append(states[-1].after(singly[-1]))
    row = Row("a", (0, *singly[:3]), 6, (0,), state, drafts=3)
    assert sampler.sample(logits, [row])[0].token_ids == tuple(singly)
    assert singly[3] == 9


def test_choosing_is_the_same_rule_without_a_report():
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(1))
    states = [at(i, seed=i, temperature=t, top_k=k) for i, (t, k) in enumerate([(0.0, 0), (1.0, 0), (0.7, 5)])]
    assert sampler.choose(logits, states) == [answer.token_ids[0] for answer in sample(logits, states)]


@pytest.mark.parametrize("size", [1, 7, sampler.NOISE_BLOCK, sampler.NOISE_BLOCK + 3])
def test_noise_is_made_in_blocks_that_do_not_show(size):
    whole = gumbel(5, 9, 3 * sampler.NOISE_BLOCK)
    assert torch.equal(gumbel(5, 9, size)[: size // 8 * 8], whole[: size // 8 * 8])


def test_integers_of_numpy_and_of_torch_are_the_same():
    start = torch.randint(-(2**63), 2**63 - 1, (1000,), generator=torch.Generator().manual_seed(2))
    mixed = sampler._mix_tensor(start)
    assert sampler._mix_array(start.numpy().view("uint64")).tobytes() == mixed.numpy().tobytes()
    shifted = sampler._shift(mixed, 12).tolist()
    assert shifted == [(value % 2**64) >> 12 for value in mixed.tolist()]


@pytest.mark.parametrize("params", [{}, {"temperature": 0.0}, {"top_k": 2}, {"top_p": 0.6}, {"presence_penalty": 1.0},
                                    {"temperature": 0.0, "presence_penalty": 0.01}, {"temperature": 1e-9}])  # fmt: skip
def test_the_token_that_begins_a_thought_is_never_chosen(params):
    """The best one is banned: the rest is chosen as if it were not there."""
    limit = ThinkingParams(end_think_id=3, budget_tokens=9, think_id=0)
    without = torch.cat([torch.full((1,), -1e30), LOGITS[1:]])
    for position in range(60):
        (found,) = sample(LOGITS[None], [at(position, seed=5, thinking=limit, **params)])
        (expected,) = sample(without[None], [at(position, seed=5, **params)])
        assert found.token_ids == expected.token_ids != (0,)
