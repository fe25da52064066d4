"""The number of guesses follows what they bring, on machines whose clock is simulated."""

from random import Random

import pytest

from fathom.batching.plan import Plan, Row, Sampled, Sampling
from fathom.batching.request import SamplingParams
from fathom.engine.spec_policy import MAX_DRAFTS, SpecPolicy, read_spec
from fathom.errors import ConfigError

MS = 1e-3
STATE = Sampling(position=9, params=SamplingParams())


class Machine:
    """A step takes base_s + row_s * tokens, or busy_s * tokens if that is more; a round of guesses takes a share of it.
    Each guess is right with a chance."""

    def __init__(self, base_s, row_s, right, *, busy_s=0.0, round_share=0.1):
        self.base_s, self.row_s, self.right, self.round_share = base_s, row_s, right, round_share
        self.busy_s, self.random = busy_s, Random(0)
        self.guesses = 0  # per sequence, made in the step before

    def step(self, policy, sequences, lengths=None, disturbed=1.0):
        """One decode step as an engine would take it; what it brought and how long it took."""
        wanted = policy.choose(sequences)
        drafts = min(self.guesses, wanted)
        rows, answers = [], []
        for _ in range(sequences):
            rows.append(Row("a", (0,) * (1 + drafts), 0, (), STATE, drafts, wanted))
            accepted = 0
            while accepted < drafts and self.random.random() < self.right:
                accepted += 1
            answers.append(Sampled((0,) * (1 + accepted)))
        plan = Plan(1, tuple(rows))
        model_s = disturbed * self.seconds(plan.num_tokens) * self.random.uniform(0.95, 1.05)
        draft_s = wanted * self.round_share * self.seconds(sequences)
        policy.observe(plan, answers, model_s + draft_s, draft_s)
        self.guesses = wanted
        if lengths is not None:
            lengths.append(wanted)
        return sum(len(answer.token_ids) for answer in answers), model_s + draft_s

    def seconds(self, tokens):
        return max(self.base_s + self.row_s * tokens, self.busy_s * tokens)

    def tokens_per_s(self, policy, sequences, steps, lengths=None):
        brought = [self.step(policy, sequences, lengths) for _ in range(steps)]
        return sum(tokens for tokens, _ in brought) / sum(seconds for _, seconds in brought)


def usual(lengths):
    return max(set(lengths), key=lengths.count)


@pytest.mark.parametrize("spec", [0, 1, 2, 3, 4])
def test_a_fixed_length_is_kept_whatever_it_brings(spec):
    lengths = []
    Machine(0.0, 1 * MS, right=0.0).tokens_per_s(SpecPolicy(spec), 2, 50, lengths)
    assert set(lengths) == {spec}


@pytest.mark.parametrize("sequences", [1, 8])
@pytest.mark.parametrize("right", [0.0, 0.4, 0.8, 1.0])
@pytest.mark.parametrize(
    ("base_s", "row_s"),
    [(10 * MS, 0.01 * MS), (10 * MS, 1 * MS), (10 * MS, 10 * MS), (0.0, 10 * MS)],
    ids=["bound by weights", "rows cost a little", "rows cost as much", "bound by arithmetic"],
)
def test_auto_is_close_to_the_best_fixed_length_and_never_slower_than_none(base_s, row_s, right, sequences):
    rates = [
        Machine(base_s, row_s, right).tokens_per_s(SpecPolicy(spec), sequences, 600) for spec in range(MAX_DRAFTS + 1)
    ]
    policy, machine = SpecPolicy(), Machine(base_s, row_s, right)
    machine.tokens_per_s(policy, sequences, 300)  # the first tries, which come often
    auto = machine.tokens_per_s(policy, sequences, 600)
    assert auto > 0.98 * rates[0]
    assert auto > 0.94 * max(rates)


@pytest.mark.parametrize("sequences", [1, 8])
def test_where_no_guess_can_pay_the_price_alone_says_so(sequences):
    """From the first step on: a handful of steps find out, not a handful of guesses each."""
    plain, auto = SpecPolicy(0), SpecPolicy()
    rates = [Machine(0.0, 10 * MS, right=0.9).tokens_per_s(policy, sequences, 100) for policy in (plain, auto)]
    assert rates[1] > 0.97 * rates[0]


def test_a_large_batch_is_left_alone_where_a_small_one_gains():
    """Rows are free until the machine is busy. A line cannot say that, but it follows the batch at hand."""
    policy, machine = SpecPolicy(), Machine(10 * MS, 0.01 * MS, right=0.8, busy_s=0.5 * MS)
    small, large, again = [], [], []
    machine.tokens_per_s(policy, 1, 200, small)
    machine.tokens_per_s(policy, 32, 300, large)
    machine.tokens_per_s(policy, 1, 300, again)
    assert (usual(small[50:]), usual(large[100:]), usual(again[100:])) == (4, 0, 4)


def test_it_comes_back_when_guesses_turn_good():
    policy, machine = SpecPolicy(), Machine(10 * MS, 1 * MS, right=0.0)
    before, after = [], []
    machine.tokens_per_s(policy, 1, 3000, before)
    machine.right = 0.9
    machine.tokens_per_s(policy, 1, 3000, after)
    assert (usual(before[100:]), usual(after[2000:])) == (0, 4)
    assert sum(map(bool, before[1000:])) < 0.01 * 2000  # it asks ever less often


def test_a_disturbed_machine_does_not_mislead_it():
    policy, machine, lengths = SpecPolicy(), Machine(10 * MS, 0.2 * MS, right=0.9), []
    random = Random(1)
    for _ in range(1000):
        machine.step(policy, 1, lengths, disturbed=50.0 if random.random() < 0.02 else 1.0)
    assert lengths[100:].count(4) > 0.8 * 900


def test_chunks_of_prompts_say_nothing_about_decoding():
    policy = SpecPolicy(), SpecPolicy()
    policy[0].observe(Plan(1, (Row("a", (0,) * 500, 0, (), STATE, 0, 1),)), [Sampled((3,))], 9.0, 1.0)
    runs = [Machine(10 * MS, 1 * MS, right=0.5).tokens_per_s(each, 1, 50) for each in policy]
    assert runs[0] == runs[1]


def test_nothing_measured_is_no_reason_to_fail():
    policy = SpecPolicy()
    policy.observe(Plan(1), [], 0.0, 0.0)
    assert policy.choose(1) == 1  # the first step reads ahead, so that the first guesses know the prompt
    Machine(0.0, 0.0, right=1.0).step(policy, 1)  # a clock that does not tick
    assert 0 <= policy.choose(1) <= MAX_DRAFTS


def test_spec_is_read_from_words_and_numbers():
    assert [read_spec(spec) for spec in ("auto", "off", "1", 4, 0)] == [None, 0, 1, 4, 0]
    for wrong in ("5", 5, "on", -1, True):
        with pytest.raises(ConfigError, match="auto, off, or a number of tokens from 1 to 4"):
            read_spec(wrong)
