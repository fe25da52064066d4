"""Rows by hand, best fit by trial of every row, and epochs that read everything once."""

from random import Random

import pytest
import torch

from fathom.errors import InputError
from fathom.train.packing import Epochs, best_fit, pack


def test_documents_lie_end_to_end_and_answers_count() -> None:
    packed = pack([[([5, 6], [7]), ([8], [9, 9])], [([1], [2])]])
    assert packed.tokens.tolist() == [5, 6, 7, 8, 9, 9, 1, 2]
    assert packed.counted.tolist() == [False, False, True, False, True, True, False, True]
    assert (packed.lengths, packed.rows, packed.row_lengths) == ((3, 3, 2), 2, (6, 2))
    assert pack([[([1], [2])], [([3], [4])]]).row_lengths == ()


def test_no_rows_are_no_tokens() -> None:
    packed = pack([])
    assert (packed.rows, packed.lengths, packed.tokens.dtype, packed.counted.dtype) == (0, (), torch.int64, torch.bool)


def test_best_fit_by_hand() -> None:
    """7 opens a row (3 left), 6 another (4 left), 4 fills that one, 3 fills the first, 2 opens a third, 2 joins it."""
    assert best_fit([2, 6, 3, 7, 4, 2], 10) == [[3, 2], [1, 4], [0, 5]]


def by_trial(lengths: list[int], room: int) -> list[list[int]]:
    rows: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        left = [room - sum(lengths[i] for i in row) for row in rows]
        fitting = [value for value in left if value >= lengths[index]]
        if fitting:
            rows[max(i for i, value in enumerate(left) if value == min(fitting))].append(index)
        else:
            rows.append([index])
    return rows


@pytest.mark.parametrize("seed", range(20))
def test_best_fit_equals_a_search_of_every_row(seed) -> None:
    rng = Random(seed)
    lengths = [rng.randint(1, 40) for _ in range(60)]
    ours, theirs = best_fit(lengths, 50), by_trial(lengths, 50)
    fill, expected = (sorted(sum(lengths[i] for i in row) for row in rows) for rows in (ours, theirs))
    assert fill == expected
    assert sorted(i for row in ours for i in row) == list(range(60))


def test_a_document_longer_than_a_row_is_refused() -> None:
    with pytest.raises(InputError, match="11 tokens; a row has room for 10"):
        best_fit([3, 11], 10)


def test_an_epoch_reads_every_document_once_and_each_epoch_otherwise() -> None:
    lengths = [Random(i).randint(3, 30) for i in range(71)]
    epochs = Epochs(lengths, row_tokens=40, rows=4, epochs=3, seed=1)
    assert epochs.steps == 3 * epochs.steps_per_epoch
    per_epoch = []
    for epoch in range(3):
        first = epoch * epochs.steps_per_epoch
        rows = [row for step in range(first, first + epochs.steps_per_epoch) for row in epochs.step(step)]
        assert sorted(i for row in rows for i in row) == list(range(71))
        assert all(sum(lengths[i] for i in row) <= 40 for row in rows)
        per_epoch.append(rows)
    assert per_epoch[0] != per_epoch[1] != per_epoch[2]


def test_a_step_depends_on_seed_and_step_alone() -> None:
    lengths = [Random(i).randint(3, 30) for i in range(50)]
    one, two = Epochs(lengths, 40, 4, 5, seed=1), Epochs(lengths, 40, 4, 5, seed=1)
    forward = [one.step(step) for step in range(one.steps)]
    assert [two.step(step) for step in reversed(range(two.steps))] == forward[::-1]
    assert Epochs(lengths, 40, 4, 5, seed=2).step(0) != forward[0]


def test_rows_of_an_epoch_are_divided_evenly() -> None:
    epochs = Epochs([10] * 9, row_tokens=10, rows=4, epochs=2, seed=0)
    assert [len(epochs.step(step)) for step in range(epochs.steps)] == [3, 3, 3, 3, 3, 3]
    epochs = Epochs([10] * 10, row_tokens=10, rows=4, epochs=1, seed=0)
    assert [len(epochs.step(step)) for step in range(epochs.steps)] == [3, 3, 4]
