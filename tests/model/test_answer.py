"""States and logits in one call are those of two, whoever is asked."""

from __future__ import annotations

from array import array

import pytest
import torch

from fathom.model import Batch, LatentCache, OneAtATime, Transformer
from tests.model.packing import open_model
from tests.model.tiny import CONFIG, model

ROWS, PAGES = array("q", [9, 2, *[13] * 20]), [[0, 1, 2], [3, 4]]


def both(asked: object) -> list[tuple[torch.Tensor, ...]]:
    """(states, logits) by one call and by two, of the main model and of its MTP module."""
    tokens, following = torch.arange(20) % CONFIG.vocab_size, torch.arange(1, 21) % CONFIG.vocab_size
    batch = Batch.paged([12, 8], [0, 0], PAGES, 4)
    found = []
    for single in (True, False):
        cache = LatentCache(CONFIG, 5, 4, dtype=asked.compute_dtype, mtp=True)
        if single:
            hidden, logits, best = asked.answer(tokens, batch, cache, ROWS)
            ahead, more, second = asked.answer_ahead(hidden, following, batch, cache, 0, ROWS)
            for rows, where in ((logits, best), (more, second)):
                assert where is None or where == (rows.argmax(-1).tolist(), rows.max(-1).values.tolist())
        else:
            hidden = asked(tokens, batch, cache)
            ahead = asked.predict_ahead(hidden, following, batch, cache, 0)
            logits, more = asked.logits(hidden[list(ROWS)]), asked.logits(ahead[list(ROWS)])
        found.append((hidden, logits, ahead, more))
    return found


@pytest.mark.parametrize("kind", ["f32", "bf16", "f8", "i8", "i4"])
@pytest.mark.usefixtures("native")
def test_packed_in_one_call(kind: str) -> None:
    for threads in (1, 2):
        one, two = both(open_model(model(), kind, threads))
        assert all(map(torch.equal, one, two))


@pytest.mark.parametrize("kind", ["f32", "i8"])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.usefixtures("native")
def test_guesses_in_a_row_are_those_asked_for_one_by_one(kind: str, threads: int) -> None:
    packed, pages, lengths = open_model(model(), kind, threads), [[0, 1, 2, 5], [3, 4, 6, 7]], [7, 5]
    tokens, following = torch.arange(12) % CONFIG.vocab_size, torch.arange(1, 13) % CONFIG.vocab_size
    batch, ends, found = Batch.paged(lengths, [0, 0], pages, 4), array("q", [6, 11]), []
    for together in (True, False):
        cache = LatentCache(CONFIG, 8, 4, dtype=packed.compute_dtype, mtp=True)
        hidden = packed(tokens, batch, cache)
        if together:
            found.append((packed.draft(hidden, following, batch, cache, ends, 4), cache.latent, cache.rope))
            continue
        guesses, at, where, follows, rows = [], batch, list(lengths), following, ends
        for _ in range(4):
            hidden, _, best = packed.answer_ahead(hidden, follows, at, cache, 0, rows)
            guesses.append(best[0])
            hidden, follows = hidden[list(rows)], torch.tensor(best[0])
            at, rows = Batch.paged([1, 1], where, pages, 4), array("q", [0, 1])
            where = [place + 1 for place in where]
        found.append((guesses, cache.latent, cache.rope))
    assert found[0][0] == found[1][0] and len({tuple(each) for each in found[0][0]}) > 1
    assert torch.equal(found[0][1], found[1][1]) and torch.equal(found[0][2], found[1][2])


@torch.inference_mode()
@pytest.mark.parametrize("wrap", [lambda plain: plain, OneAtATime])
def test_plain_torch_in_two(wrap: type[OneAtATime]) -> None:
    plain: Transformer = model()
    one, two = both(wrap(plain))
    assert all(map(torch.equal, one, two))


@pytest.mark.usefixtures("native")
def test_a_nan_and_an_infinity_count_as_numpy_counts_them() -> None:
    packed = open_model(model(), "f32")
    batch, rows = Batch.paged([3], [0], [[0]], 4), array("q", [0, 1, 2])
    cache = LatentCache(CONFIG, 1, 4, dtype=packed.compute_dtype, mtp=True)
    before = torch.zeros(3, CONFIG.hidden_size)
    before[1, 0] = float("nan")
    _, logits, best = packed.answer_ahead(before, torch.tensor([1, 2, 3]), batch, cache, 0, rows)
    assert best is not None
    assert best[0] == logits.numpy().argmax(-1).tolist()
    assert logits[1].isnan().any() and best[1][1] != best[1][1], "a NaN is highest"


@pytest.mark.usefixtures("native")
def test_rows_that_are_not_there_are_refused() -> None:
    packed = open_model(model(), "f32")
    cache = LatentCache(CONFIG, 1, 4, dtype=packed.compute_dtype, mtp=True)
    for rows in ([3], [-1], [0, 1, 2, 3]):
        with pytest.raises(IndexError):
            packed.answer(torch.tensor([1, 2, 3]), Batch.paged([3], [0], [[0]], 4), cache, array("q", rows))
