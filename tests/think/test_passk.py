"""Both estimators against the plainest thing: every subset, one by one."""

from itertools import combinations, permutations
from statistics import fmean

import pytest

from fathom.errors import InputError
from fathom.think.passk import majority_at, pass_at


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample(n: int) -> None:
    for right in range(n + 1):
        marks = [True] * right + [False] * (n - right)
        for k in range(1, n + 1):
            assert pass_at(n, right, k) == pytest.approx(fmean(any(chosen) for chosen in combinations(marks, k)))


def test_pass_at_k_equals_the_published_formula() -> None:
    """1 - prod(1 - k / i) for i from n - c + 1 to n: the numerically stable form of Chen et al. 2021, figure 3."""
    product = 1.0
    for i in range(200 - 13 + 1, 201):
        product *= 1 - 10 / i
    assert pass_at(200, 13, 10) == pytest.approx(1 - product, rel=1e-12)


@pytest.mark.parametrize(("n", "right", "k"), [(4, 2, 0), (4, 2, 5), (4, 5, 1)])
def test_impossible_counts_are_refused(n: int, right: int, k: int) -> None:
    with pytest.raises(InputError, match=f"pass@{k}"):
        pass_at(n, right, k)


def brute(votes: list[str | None], k: int) -> float:
    """Share of subsets that elect a right answer, which begins with r; a tie counts by its share of right ones."""
    won = []
    for chosen in combinations(votes, k):
        given = [vote for vote in chosen if vote is not None]
        most = max((given.count(vote) for vote in given), default=0)
        tied = {vote for vote in given if given.count(vote) == most}
        won.append(sum(vote.startswith("r") for vote in tied) / len(tied) if tied else 0.0)
    return fmean(won)


CASES = [
    ([3], [2], 1),
    ([2], [2, 2], 0),
    ([1], [4, 2], 2),
    ([2, 2], [3], 1),  # two right answers that are written differently do not add up
    ([1, 1, 1], [1, 1, 1], 2),
    ([], [3, 1], 1),
    ([4], [], 3),
    ([], [], 3),
]


@pytest.mark.parametrize(("right", "wrong", "abstained"), CASES)
def test_majority_at_k_is_the_share_of_subsets_that_elect_a_right_answer(
    right: list[int], wrong: list[int], abstained: int
) -> None:
    votes: list[str | None] = [None] * abstained
    for side, counts in (("r", right), ("w", wrong)):
        votes += [f"{side}{i}" for i, count in enumerate(counts) for _ in range(count)]
    ks = list(range(1, len(votes) + 1))
    assert majority_at(right, wrong, abstained, ks) == pytest.approx([brute(votes, k) for k in ks], abs=1e-12)


def test_a_tie_goes_to_the_first_answer_as_often_as_to_each() -> None:
    votes = ["r0", "r0", "w0", "w0", "w1"]

    def first_of_the_most(order: tuple[str, ...]) -> str:
        return max(order, key=lambda vote: (order.count(vote), -order.index(vote)))

    by_order = fmean(first_of_the_most(order).startswith("r") for order in permutations(votes, 4))
    assert majority_at([2], [2, 1], 0, [4]) == pytest.approx([by_order])


def test_one_sample_has_nothing_to_vote_on() -> None:
    assert majority_at([3, 2], [4], 1, [1]) == pytest.approx([pass_at(10, 5, 1)])


def test_majority_of_a_sure_answer_grows_and_of_an_unlikely_one_falls() -> None:
    up = majority_at([40], [24], 0, [1, 2, 4, 8, 16, 32, 64])
    down = majority_at([24], [40], 0, [1, 2, 4, 8, 16, 32, 64])
    assert up == sorted(up) and up[-1] == 1
    assert down == sorted(down, reverse=True) and down[-1] == 0


def test_more_samples_than_there_are_is_refused() -> None:
    with pytest.raises(InputError, match="of 3 samples"):
        majority_at([1], [2], 0, [1, 4])
