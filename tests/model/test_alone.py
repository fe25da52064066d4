"""One token at a time: the bits are those of a token by itself, and nothing that runs beside it can change them."""

from __future__ import annotations

from random import Random

import pytest
import torch
from torch import Tensor

from fathom.model import Batch, LatentCache, OneAtATime, Transformer
from tests.model.tiny import CONFIG, model
from tests.tolerances import ABSORBED_EQUALS_EXPANDED, MTP_BY_HAND

TOKENS, AHEAD = 33, 1  # tokens of the sequence looked at; seed of those that follow
Company = tuple[Tensor, Tensor]  # hidden states, and those of the MTP module


@pytest.fixture(scope="module")
def plain() -> Transformer:
    return model().requires_grad_(False)


def tokens_of(count: int, seed: int = 0) -> Tensor:
    return torch.randint(0, CONFIG.vocab_size, (count,), generator=torch.Generator().manual_seed(seed))


def cache_of(pages: int, page_tokens: int) -> LatentCache:
    """Pages that hold rubbish: whatever read past its own sequence would show it."""
    cache = LatentCache(CONFIG, pages, page_tokens, mtp=True)
    cache.latent.fill_(torch.nan)
    cache.rope.fill_(torch.nan)
    return cache


def by_hand(plain: Transformer) -> Company:
    """The plain model, given one token of one sequence after the other."""
    tokens, following, cache = tokens_of(TOKENS), tokens_of(TOKENS, AHEAD), cache_of(TOKENS, 1)
    rows, ahead = [], []
    for i in range(TOKENS):
        batch = Batch.paged([1], [i], [list(range(TOKENS))], 1)
        rows.append(plain(tokens[i : i + 1], batch, cache))
        ahead.append(plain.predict_ahead(rows[-1], following[i : i + 1], batch, cache))
    return torch.cat(rows), torch.cat(ahead)


def in_company(alone: OneAtATime, rng: Random) -> Company:
    """The same sequence in random chunks, beside two others that come and go, on scattered pages."""
    tokens, following, page_tokens = tokens_of(TOKENS), tokens_of(TOKENS, AHEAD), rng.choice([1, 4, 16, 64])
    per_sequence = -(-TOKENS // page_tokens) + 1
    pages = rng.sample(range(3 * per_sequence), 3 * per_sequence)
    tables = [pages[i::3] for i in range(3)]
    cache, done, others, rows, ahead = cache_of(len(pages), page_tokens), 0, [0, 0], [], []
    while done < TOKENS:
        step = min(rng.choice([1, 1, 2, 7, 20]), TOKENS - done)
        extra = [min(rng.choice([0, 1, 3]), TOKENS - other) for other in others]
        members = [(extra[0], others[0], tables[1]), (step, done, tables[0]), (extra[1], others[1], tables[2])]
        members = [member for member in members if member[0]]
        batch = Batch.paged(*map(list, zip(*members, strict=True)), page_tokens)
        begin = extra[0]
        mine = slice(begin, begin + step)
        ids, after = (tokens_of(sum(m[0] for m in members), rng.randrange(2**31)) for _ in range(2))
        ids[mine], after[mine] = tokens[done : done + step], following[done : done + step]
        hidden = alone(ids, batch, cache)
        rows.append(hidden[mine])
        ahead.append(alone.predict_ahead(hidden, after, batch, cache)[mine])
        done, others = done + step, [other + more for other, more in zip(others, extra, strict=True)]
    return torch.cat(rows), torch.cat(ahead)


def test_each_row_is_the_plain_models_row_of_that_token_alone(plain: Transformer) -> None:
    expected = by_hand(plain)
    tokens, batch = tokens_of(TOKENS), Batch.paged([TOKENS], [0], [[2, 0, 1]], 16)
    alone, cache = OneAtATime(plain), cache_of(3, 16)
    hidden = alone(tokens, batch, cache)
    assert torch.equal(hidden, expected[0])
    assert torch.equal(alone.predict_ahead(hidden, tokens_of(TOKENS, AHEAD), batch, cache), expected[1])


@pytest.mark.parametrize("seed", range(6))
def test_company_chunks_and_pages_change_no_bit(plain: Transformer, seed: int) -> None:
    expected, found = by_hand(plain), in_company(OneAtATime(plain), Random(seed))
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])


def test_the_plain_model_is_not_exact_by_itself(plain: Transformer) -> None:
    """What the wrapper is for: without it these tests would fail."""
    whole = plain(tokens_of(TOKENS), Batch.paged([TOKENS], [0], [[0, 1, 2]], 16), cache_of(3, 16))
    assert not torch.equal(whole, by_hand(plain)[0])


def test_it_computes_what_the_plain_model_computes_at_once(plain: Transformer) -> None:
    lengths = [20, 13]
    tokens, following = tokens_of(sum(lengths)), tokens_of(sum(lengths), AHEAD)
    batch, alone, cache = Batch.paged(lengths, [0, 0], [[3, 1], [0, 2]], 16), OneAtATime(plain), cache_of(4, 16)
    hidden, whole = alone(tokens, batch, cache), plain(tokens, Batch.packed(lengths))
    assert (hidden - whole).abs().max() <= ABSORBED_EQUALS_EXPANDED
    ahead = plain.predict_ahead(whole, following, Batch.packed(lengths))
    assert (alone.predict_ahead(hidden, following, batch, cache) - ahead).abs().max() <= MTP_BY_HAND


def test_logits_of_a_row_are_its_own(plain: Transformer) -> None:
    alone, hidden = OneAtATime(plain), by_hand(plain)[0]
    rows = torch.cat([plain.logits(hidden[i : i + 1]) for i in range(TOKENS)])
    for part in (slice(0, 1), slice(3, 20), slice(0, TOKENS)):
        assert torch.equal(alone.logits(hidden[part]), rows[part])


def test_it_stands_in_for_the_model_under_another_name(plain: Transformer) -> None:
    alone = OneAtATime(plain)
    assert alone.eval() is alone and alone.config is plain.config
    assert (alone.compute_dtype, alone.device, alone.mtp_modules) == (torch.float32, plain.device, 1)
    assert alone.numerics != plain.numerics, "their caches must not be mixed"
    assert OneAtATime(model(num_nextn_predict_layers=0)).mtp_modules == 0


def test_training_mode_is_left(plain: Transformer) -> None:
    assert not OneAtATime(model().train()).model.training


def test_a_batch_without_pages_is_refused(plain: Transformer) -> None:
    with pytest.raises(AssertionError, match="needs a paged Batch"):
        OneAtATime(plain)(tokens_of(3), Batch.packed([3]), cache_of(1, 16))
